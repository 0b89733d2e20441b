"""What the workspace knows of open jobs without asking the server, and how old that is."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hvsa_cvat.agent import tables
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.looking import look_into
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.refresh import refresh_open_jobs
from hvsa_cvat.agent.unchanged import Unchanged
from hvsa_cvat.agent.withdraw import withdraw
from hvsa_cvat.cli import main
from hvsa_cvat.cli.task_lines import span
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.dashboard.summaries import Overview
from hvsa_cvat.enrolled.tasks import EnrolledTasks
from tests import tiny
from tests.people import answer_job, open_jobs
from tests.standin import StandIn
from tests.team import NAMES, Team, only

NOBODY = ("CVAT_ACCESS_TOKEN", "CVAT_USER", "CVAT_PASSWORD", "HVSA_CONFIG")


class Clock:
    """The server's time."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path, clock: Clock) -> Iterator[Team]:
    with StandIn(clock=clock) as cvat:
        team = Team(cvat, tmp_path, checkpoint)
        enroll(team.agent(), team.task, team.options)
        assert only(sync(team.agent())).open_jobs
        yield team


def command(team: Team, *args: str, token: str | None = None) -> Result:
    environment = dict.fromkeys(NOBODY)
    environment |= {
        "CVAT_HOST": team.cvat.url,
        "HVSA_WORKSPACE": str(team.root / "workspace"),
        "CVAT_ACCESS_TOKEN": token,
    }
    return CliRunner().invoke(main, [*args], env=environment)


def finish_one(team: Team) -> int:
    job = open_jobs(team.cvat)[0]
    person = team.cvat.person(team.cvat.job(job).assignee.username)
    answer_job(team.cvat, person, job, tiny.truth, NAMES)
    return job


def test_status_asks_nobody_and_tells_how_old_the_jobs_are(team: Team) -> None:
    team.cvat.requests.clear()
    (told,) = json.loads(command(team, "status", "--json").stdout)
    assert [job["assignee"] for job in told["open_jobs"]] == ["ann", "bob"]
    assert all(f"/jobs/{job['job']}?" in job["link"] for job in told["open_jobs"])
    assert {job["since"] for job in told["open_jobs"]} == {team.now}
    assert told["jobs_seen"] == "1970-01-12T13:46:40+00:00"
    assert told["jobs_age"] > 1e9
    text = command(team, "status").stdout
    assert "open jobs as of " in text
    assert " days ago:" in text
    assert ", open for " in text
    assert team.cvat.requests == []


def test_a_refresh_asks_the_server_and_keeps_what_it_said(team: Team) -> None:
    begun, finished = team.now, finish_one(team)
    team.now += 60
    (before,) = team.status()
    assert finished in [job.job for job in before.open_jobs]
    assert before.jobs_age == 60
    result = command(team, "status", "--refresh", token=team.cvat.admin.token)
    assert result.exit_code == 0, result.output
    (after,) = team.status()
    (left,) = after.open_jobs
    assert left.job != finished
    assert left.since == begun


def test_a_refresh_needs_a_login_and_a_workspace(team: Team, tmp_path: Path) -> None:
    refused = command(team, "status", "--refresh")
    assert refused.exit_code == 2
    assert "CVAT_ACCESS_TOKEN" in refused.stderr
    nowhere = tmp_path / "nowhere"
    for args in (["status", "--refresh"], ["pause", "1"], ["resume", "1"]):
        lost = command(team, *args, "--workspace", str(nowhere), token=team.cvat.admin.token)
        assert lost.exit_code == 2
        assert lost.stderr.count("\n") == 1
        assert f"there is no workspace at {nowhere}" in lost.stderr
    assert "no task is enrolled" in command(team, "status", "--workspace", str(nowhere)).stdout
    assert not nowhere.exists()


def test_a_pass_without_news_makes_the_look_new_again(team: Team, clock: Clock) -> None:
    agent = team.agent()
    unchanged = Unchanged(agent)
    for _ in range(4):
        clock.time += timedelta(minutes=1)
        team.now += 60
        team.cvat.requests.clear()
        list(sync(agent, unchanged=unchanged))
    assert not any("/tasks/" in one.path for one in team.cvat.requests)
    (status,) = team.status()
    assert status.jobs_age == 0
    assert {job.since for job in status.open_jobs} == {1_000_000.0}


def test_a_pass_that_fails_keeps_the_look_of_the_one_before(team: Team) -> None:
    team.now += 30
    team.cvat.down()
    assert only(sync(team.agent())).error is not None
    team.cvat.up()
    (status,) = team.status()
    assert status.jobs_age == 30
    assert len(status.open_jobs) == 2


def test_answered_jobs_are_open_no_more(team: Team) -> None:
    """The look is as old as before, but the session knows better."""
    team.answer()
    shown = {}

    def stopping() -> bool:
        (status,) = team.status()
        shown[status.phase] = len(status.open_jobs)
        return status.phase == "predict"

    assert only(sync(team.agent(), stopping=stopping)).error is None
    assert shown == {"annotate": 2, "finetune": 0, "predict": 0}


def test_a_new_enrollment_has_none_of_the_old_jobs(team: Team) -> None:
    agent = team.agent()
    withdraw(agent, team.task, children=True)
    enroll(agent, team.task, team.options, again=True)
    (status,) = team.status()
    assert (status.open_jobs, status.jobs_seen) == ((), None)
    # an agent that looked at the old one writes nothing
    agent.workspace.looks.keep(team.task, "old", ())
    assert team.status()[0].jobs_seen is None


def test_the_dashboard_names_whoever_has_the_job_now(team: Team) -> None:
    agent = team.agent()
    job, other = open_jobs(team.cvat)
    bob = team.cvat.job(other).assignee
    agent.client.change("PATCH", f"jobs/{job}", {"assignee": bob.id})
    assert refresh_open_jobs(agent.workspace, agent.client) == {}
    tasks = EnrolledTasks(team.root / "workspace", team.cvat.url, lambda: team.now)
    (row,) = Overview(tasks, patience=60).rows().summaries
    assert [one.assignee for one in row.jobs] == ["bob", "bob"]


def test_a_workspace_of_the_version_before_is_read_and_upgraded(team: Team) -> None:
    root, server = team.root / "workspace", server_key(team.cvat.url)
    with closing(sqlite3.connect(root / "workspace.db")) as connection, connection:
        connection.execute("DROP TABLE looks")
        connection.execute("UPDATE version SET version = 2")
    (status,) = team.status()
    assert (status.phase, status.open_jobs) == ("annotate", ())
    with closing(sqlite3.connect(root / "workspace.db")) as connection:
        assert connection.execute("SELECT version FROM version").fetchall() == [(2,)]
    assert only(sync(team.agent())).open_jobs
    assert len(look_into(root, server, team.now).looks[team.task].jobs) == 2
    with closing(sqlite3.connect(root / "workspace.db")) as connection:
        assert connection.execute("SELECT version FROM version").fetchall() == [(tables.VERSION,)]


def test_what_is_computed_is_told_while_its_agent_works(team: Team) -> None:
    agent = team.agent()
    with agent.workspace.leased(team.task):
        agent.contact(task=team.task).step("round 1: finetune")
        assert [one.computing_seconds for one in team.status()] == [None]  # people are asked now
        agent.contact(task=team.task).step("round 1: annotate")
        team.now += 40
        assert [one.computing_seconds for one in team.status()] == [40]
        team.now += 1000  # the agent is gone
        assert [one.computing_seconds for one in team.status()] == [None]
    with agent.workspace.leased(team.task):
        assert [one.computing_seconds for one in team.status()] == [None]


def test_status_imports_neither_networks_nor_the_client(team: Team) -> None:
    """They take seconds."""
    program = (
        "import sys; from hvsa_cvat.cli import main; main(['status'], standalone_mode=False); "
        "print([name for name in ('torch', 'cvat_sdk', 'skimage') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"CVAT_HOST": team.cvat.url, "HVSA_WORKSPACE": str(team.root / "workspace")}
        | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        cwd=team.root,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (12.4, "12 s"), (60, "1 min"), (7300, "2 h"), (90_000, "25 h"), (2e5, "2 days")],
)
def test_spans_of_time_are_short(seconds: float, text: str) -> None:
    assert span(seconds) == text
