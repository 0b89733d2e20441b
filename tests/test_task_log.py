"""Who did what when: on the page of a task, and as a file."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.events import Event, read_events
from hvsa_cvat.agent.extend import Extension, extend
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.withdraw import withdraw
from hvsa_cvat.cli import main
from hvsa_cvat.cvat.state import State
from hvsa_cvat.enrolled.timeline import FORMS, Entry, read_timeline
from tests.lead import DONE, FAILED, STOPPED, WAITING, Filled, run_of
from tests.standin import StandIn
from tests.team import Team, only
from tests.test_dashboard import browsing, page


def log_of(filled: Filled, task: int) -> list[Entry]:
    return read_timeline(filled.workspace, filled.url, task)


def told(entries: list[Entry]) -> list[tuple[Event, int | None]]:
    """Without what depends on the clocks: answers bear the server's date."""
    return [(one.what, one.round) for one in entries if one.what is not Event.ANSWERED]


def command(filled: Filled, *args: object) -> Result:
    names = ("CVAT_ACCESS_TOKEN", "CVAT_USER", "CVAT_PASSWORD", "HVSA_CONFIG")
    environment = {**filled.environment(), **dict.fromkeys(names)}
    return CliRunner().invoke(main, ["log", *map(str, args)], env=environment)


ROUNDS = [
    (Event.PUBLISHED, 0),
    (Event.ASKED, 1),
    (Event.TAKEN, 1),
    (Event.PUBLISHED, 1),
    (Event.ASKED, 2),
    (Event.TAKEN, 2),
    (Event.PUBLISHED, 2),
]


def test_the_log_of_a_finished_task(filled: Filled) -> None:
    entries = log_of(filled, DONE)
    assert told(entries) == [(Event.ENROLLED, None), *ROUNDS]
    answered = [one for one in entries if one.what is Event.ANSWERED]
    run = run_of(filled, DONE)
    jobs = {job.id: job for request in run.memory.requests for job in request.jobs}
    assert {one.job for one in answered} == set(jobs)
    assert all(one.who == jobs[one.job or 0].assignee for one in answered)
    assert {one.round for one in answered} == {1, 2}
    # what a job should take is not what it took
    assert all("expected minutes: " in one.text for one in answered)
    assert "annotators=ann,bob" in entries[0].text


def test_the_log_says_what_was_asked_and_of_whom(filled: Filled) -> None:
    run = run_of(filled, DONE)
    asked = [one for one in log_of(filled, DONE) if one.what is Event.ASKED]
    assert [one.round for one in asked] == [1, 2]
    for one in asked:
        queried = run.rounds[one.round or 0].round.queried
        request = run.request_of(one.round or 0)
        assert request is not None
        assert one.detail == {
            "regions": len(queried),
            "frames": len({sample.frame for sample in queried}),
            "of": ["ann", "bob"],
            "child_task": request.task,
            "expected_minutes": round(sum(job.expected_minutes for job in request.jobs)),
        }
        assert one.text.startswith(f"regions: {len(queried)}, frames: ")
        assert ", of: ann,bob, child task: " in one.text


def test_whole_frames_are_asked_for_as_frames(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, {**team.options, "granularity": "frame", "annotators": []})
    assert only(sync(agent)).error is None
    entries = read_timeline(team.root / "workspace", team.cvat.url, team.task)
    (asked,) = [one for one in entries if one.what is Event.ASKED]
    assert asked.text.startswith("frames: ")
    assert ", of: anyone, " in asked.text


def test_a_task_that_stopped_says_why_once(filled: Filled) -> None:
    (stopped,) = [one for one in log_of(filled, FAILED) if one.what is Event.STOPPED]
    assert stopped.detail == {"error": STOPPED}
    assert stopped.who == "agent"


def test_what_was_sent_back_is_in_the_log(copied: Filled) -> None:
    run = run_of(copied, WAITING)
    request = run.request_of(2)
    assert request is not None
    job = request.jobs[0]
    state = State(run.root / "cvat")
    state.readings.begin_send_back(job.id, "2026-11-27T08:00:00.5+02:00")
    (entry,) = [one for one in log_of(copied, WAITING) if one.what is Event.SENT_BACK]
    assert (entry.who, entry.job, entry.round) == (job.assignee, job.id, 2)
    assert entry.to_json()["time"] == "2026-11-27T06:00:00Z"


def test_a_workspace_without_a_log_tells_what_its_sessions_keep(copied: Filled) -> None:
    with closing(sqlite3.connect(copied.workspace / "workspace.db")) as connection, connection:
        connection.execute("DROP TABLE events")
        connection.execute("UPDATE version SET version = 1")
    assert told(log_of(copied, DONE)) == ROUNDS
    assert told(log_of(copied, WAITING)) == ROUNDS[:5]


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    with StandIn() as cvat:
        yield Team(cvat, tmp_path, checkpoint)


def test_what_people_decide_is_in_the_log_for_good(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, {**team.options, "budget": "30%", "seed": 5})
    team.now += 60
    extend(agent, team.task, Extension("50%"))
    team.now += 60
    assert only(sync(agent, team.task)).error is None
    team.now += 60
    withdraw(agent, team.task, children=False)
    team.now += 60
    enroll(agent, team.task, team.options, again=True)
    entries = read_timeline(team.root / "workspace", team.cvat.url, team.task)
    assert told(entries) == [
        (Event.ENROLLED, None),
        (Event.EXTENDED, None),
        (Event.PUBLISHED, 0),
        (Event.ASKED, 1),
        (Event.WITHDRAWN, None),
        (Event.ENROLLED, None),
    ]
    first, extended, *_, withdrawn, second = entries
    assert (first.detail or {})["options"]["seed"] == 5
    assert (extended.detail or {})["budget"] == "50%"
    assert withdrawn.detail == {"masks": "removed", "child_tasks": "kept"}
    assert first.enrollment == withdrawn.enrollment != second.enrollment


def test_a_job_that_people_give_to_somebody_else_is_in_the_log(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    report = only(sync(agent, team.task))
    (first, second) = report.open_jobs
    bob = team.cvat.job(second.job).assignee
    agent.client.change("PATCH", f"jobs/{first.job}", {"assignee": bob.id})
    agent.client.change("PATCH", f"jobs/{second.job}", {"assignee": None})
    team.now += 60
    for _ in range(2):
        assert only(sync(agent, team.task)).error is None
    found = read_timeline(team.root / "workspace", team.cvat.url, team.task)
    moved = [one for one in found if one.what is Event.REASSIGNED]
    assert [(one.who, one.job, one.detail) for one in moved] == [
        ("people in CVAT", first.job, {"from": "ann", "to": "bob"}),
        ("people in CVAT", second.job, {"from": "bob", "to": "nobody"}),
    ]
    team.answer()
    assert only(sync(agent, team.task)).error is None
    found = read_timeline(team.root / "workspace", team.cvat.url, team.task)
    answered = {one.job: one.who for one in found if one.what is Event.ANSWERED}
    assert answered[first.job] == "bob"


def test_the_files_hold_the_same(filled: Filled, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(command(filled, DONE).stdout)))
    objects = json.loads(command(filled, DONE, "--format", "json").stdout)
    assert [row["what"] for row in rows] == [one["what"] for one in objects]
    for row, one in zip(rows, objects, strict=True):
        assert row["time"] == one["time"]
        assert datetime.fromisoformat(row["time"]).utcoffset() is not None
    out = tmp_path / "log.csv"
    assert command(filled, DONE, "--out", out).exit_code == 0
    assert out.read_text() == command(filled, DONE).stdout


def test_a_spreadsheet_takes_no_name_for_a_formula(filled: Filled) -> None:
    (entry, *_) = log_of(filled, DONE)
    text = FORMS["csv"]([Entry(entry.time, "=1+1", Event.ASKED, "k", detail={"x": 1})])
    assert "\n1970-01-12T13:46:40Z,'=1+1,asked," in text


def test_a_task_that_was_never_enrolled_is_one_line(filled: Filled) -> None:
    result = command(filled, 99)
    assert result.exit_code == 2
    assert "task 99" in result.stderr
    assert "was never enrolled" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_page_of_a_task_shows_its_log(filled: Filled) -> None:
    with browsing(filled) as browser:
        text = page(browser, f"/tasks/{FAILED}")
        assert "What was done" in text
        assert "error: task 4 is gone" in text
        answer = browser.get(f"/tasks/{FAILED}/log.csv")
        assert answer.text == FORMS["csv"](log_of(filled, FAILED))
        assert "attachment" in answer.headers["content-disposition"]
        assert browser.get(f"/tasks/{FAILED}/log.exe").status_code == 404


def test_another_number_of_free_bytes_is_no_news(team: Team) -> None:
    workspace = team.agent().workspace
    enroll(team.agent(), team.task, team.options)
    for error in ("3 GiB are free", "2 GiB are free", None, "1 GiB is free"):
        workspace.set_error(team.task, error)
    found = read_events(workspace.root, workspace.server, team.task)
    assert [one.what for one in found][-3:] == [Event.STOPPED, Event.GOES_ON, Event.STOPPED]
    assert workspace.enrollment(team.task).error == "1 GiB is free"
