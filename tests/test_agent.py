"""The agent over a real socket: the whole loop with people who answer, and what stops it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hvsa_cvat.agent.enroll import enroll, enroll_project
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.refresh import refresh_open_jobs
from hvsa_cvat.agent.withdraw import withdraw
from hvsa_cvat.cvat.http.errors import NotFound
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.segmentation.checkpoint import describe, new_network, save_checkpoint
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, LabelSet
from tests import tiny
from tests.standin import Request, StandIn
from tests.team import LENGTH, NAMES, Team, only, only_folder


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    with StandIn() as cvat:
        yield Team(cvat, tmp_path, checkpoint)


def test_the_whole_loop(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    assert team.cvat.shapes(team.cvat.task(team.task).jobs[0]) == []

    first = only(sync(agent))
    assert first.error is None
    assert [job.assignee for job in first.open_jobs] == ["ann", "bob"]
    assert all(f"/jobs/{job.job}?" in job.link for job in first.open_jobs)
    assert (np.stack(team.shown()) != IGNORE).all()

    waiting = only(sync(agent))
    assert waiting.moved == ()
    assert waiting.open_jobs == first.open_jobs

    assert team.answer() == 2
    second = only(sync(agent))
    assert second.error is None
    assert "round 1: publish" in second.moved
    assert second.open_jobs
    assert team.answer() == 2
    third = only(sync(agent))
    assert third.done
    assert third.open_jobs == ()

    folder = only_folder(team)
    session = Store.peek(folder)
    assert session is not None
    with Store(folder) as store:
        last = [store.round(2).label_map(f"frame_{t:06d}") for t in range(LENGTH)]
    shown = team.shown()
    answered = {sample.frame for sample in session.queried}
    for frame in range(LENGTH):
        if frame in answered:
            assert (shown[frame] == tiny.truth(frame)).mean() > 0.9
        else:
            np.testing.assert_array_equal(shown[frame], last[frame])
    (status,) = team.status()
    assert status.phase == "done"
    assert status.scores is not None
    assert status.outlook is not None
    assert status.outlook.low <= status.outlook.expected_miou <= status.outlook.high
    assert status.clicks == session.clicks > 0


def test_the_default_method_learns(team: Team) -> None:
    agent = team.agent()
    options = {**team.options, "method": None, "budget": "40%", "rounds": 1}
    enroll(agent, team.task, options)
    only(sync(agent))
    team.answer()
    report = only(sync(agent))
    assert report.error is None
    assert report.done
    assert (only_folder(team) / "rounds" / "1" / "network.safetensors").exists()
    assert np.mean([team.shown()[t] == tiny.truth(t) for t in range(LENGTH)]) > 0.9


def test_small_samples_first_and_whole_frames_later(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, {**team.options, "granularity": "rectangle:16,frame"})
    only(sync(agent))
    assert team.answer() == 2
    assert only(sync(agent)).error is None
    session = Store.peek(only_folder(team))
    assert session is not None
    small, whole = (one.queried for one in session.rounds[1:])
    assert len({sample.segment for sample in small}) > 1
    assert {sample.segment for sample in whole} == {0}
    assert team.answer()
    last = only(sync(agent))
    assert last.error is None
    assert last.done
    shown = team.shown()
    for frame in {sample.frame for sample in whole}:
        assert (shown[frame] == tiny.truth(frame)).mean() > 0.95


def test_a_second_pass_makes_nothing_twice(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    before = {job.id: team.cvat.shapes(job) for task in tasks(team) for job in task.jobs}
    team.cvat.requests.clear()
    only(sync(team.agent("another")))
    after = {job.id: team.cvat.shapes(job) for task in tasks(team) for job in task.jobs}
    assert before == after
    assert {request.method for request in team.cvat.requests} == {"GET"}


def tasks(team: Team) -> list[Any]:
    return list(team.cvat.world.tasks.values())


def test_a_task_that_another_agent_has_is_left(team: Team) -> None:
    agent, other = team.agent("one"), team.agent("two")
    enroll(agent, team.task, team.options)
    with other.workspace.leased(team.task) as held:
        assert held
        assert only(sync(agent)).held_by == "two"
        with pytest.raises(HvsaError, match="two works on task"):
            withdraw(agent, team.task, children=False)
    assert only(sync(agent)).held_by is None


def test_projects_bring_their_tasks_now_and_later(team: Team) -> None:
    project = team.cvat.add_project("videos", list(NAMES))
    first = team.add_task("first", project=project)
    agent = team.agent()
    (report,) = enroll_project(agent, project.id, team.options)
    assert (report.task, report.enrolled) == (first, True)
    second = team.add_task("second", project=project)
    names = {r.task: r.name for r in sync(agent) if r.enrolled}
    assert names == {second: "second"}
    withdraw(agent, first, children=True)
    assert [report.task for report in sync(agent)] == [second]
    (home,) = (p.name for p in team.cvat.world.projects.values() if p.name.startswith("HVSA"))
    assert home.startswith(f"HVSA check: {', '.join(NAMES)} (labels ")


def test_withdrawing_leaves_what_people_did(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, {**team.options, "quiet_minutes": 0.0})
    only(sync(agent))
    job = team.cvat.task(team.task).jobs[0]
    person = team.cvat.person(team.cvat.admin)
    ours = team.cvat.shapes(job)
    drawn = person.draw(
        job, {"frame": 0, "label_id": ours[0]["label_id"], "points": [1, 1, 9, 1, 9, 9]}
    )
    person.relabel(job, ours[1]["id"], ours[0]["label_id"])
    kept = {shape["id"]: shape for shape in team.cvat.shapes(job)}
    retracted = withdraw(agent, team.task, children=True)
    assert retracted is not None
    assert retracted.edited == 1
    assert retracted.deleted == len(ours) - 1
    left = {shape["id"]: shape for shape in team.cvat.shapes(job)}
    assert left == {number: kept[number] for number in (drawn, ours[1]["id"])}
    assert [task.id for task in tasks(team)] == [team.task]
    assert list(sync(agent)) == []
    enroll(agent, team.task, team.options)  # and again, from the start
    assert only(sync(agent)).open_jobs


def test_withdrawing_waits_for_people_at_work(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    job = team.cvat.task(team.task).jobs[0]
    label = team.cvat.shapes(job)[0]["label_id"]
    person = team.cvat.person(team.cvat.admin)
    person.draw(job, {"frame": 0, "label_id": label, "points": [1, 1, 9, 1, 9, 9]})
    before = team.cvat.shapes(job)
    waiting = withdraw(agent, team.task, children=True)
    assert waiting is not None
    assert waiting.waits
    assert team.cvat.shapes(job) == before
    assert len(tasks(team)) == 2
    job.updated = job.updated.replace(year=job.updated.year - 1)  # long ago
    done = withdraw(agent, team.task, children=False)
    assert done is not None
    assert not done.waits
    assert [shape["source"] for shape in team.cvat.shapes(job)] == ["manual"]
    assert f"child task {team.task + 1} stays, with the answers in it" in team.lines
    assert {job.assignee for job in team.cvat.task(team.task + 1).jobs} == {None}
    assert list(sync(agent)) == []


def test_child_tasks_can_be_deleted_later(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    withdraw(agent, team.task, children=False)
    child = team.task + 1
    team.cvat.task(child)  # it stays
    with pytest.raises(ConfigError, match=f"withdraw {team.task} --children"):
        withdraw(agent, team.task, children=False)
    with pytest.raises(ConfigError, match=f"withdraw {team.task} --children"):
        enroll(agent, team.task, team.options)
    team.lines.clear()
    withdraw(team.agent(), team.task, children=True)
    assert [task.id for task in tasks(team)] == [team.task]
    assert f"child task {child} is deleted" in team.lines
    with pytest.raises(ConfigError, match="not enrolled"):
        withdraw(agent, team.task, children=True)


def test_child_tasks_of_every_enrollment_are_deleted(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    withdraw(agent, team.task, children=False)
    enroll(agent, team.task, team.options, again=True)
    only(sync(agent))
    assert len(tasks(team)) == 3
    team.cvat.world.drop(team.cvat.task(team.task + 1))
    withdraw(agent, team.task, children=True)
    assert [task.id for task in tasks(team)] == [team.task]
    assert f"child task {team.task + 1} is gone already" in team.lines


def test_a_child_task_that_is_somebody_s_now_stays(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    withdraw(agent, team.task, children=False)
    child = team.cvat.task(team.task + 1)
    child.bug_tracker = "https://tracker.example.com/7"
    with pytest.raises(HvsaError, match="does not carry the key"):
        withdraw(agent, team.task, children=True)
    assert child in tasks(team)


def test_a_task_that_cannot_go_on_can_be_withdrawn(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    task = team.cvat.task(team.task)
    admin, path = team.cvat.person(team.cvat.admin), f"tasks/{team.task}"
    box = team.cvat.label(task, "box")
    admin.call("PATCH", path, {"labels": [{"id": box, "deleted": True}]})
    admin.call("PATCH", f"{path}/data/meta", {"deleted_frames": list(range(LENGTH))})
    assert only(sync(agent)).error is not None
    assert team.cvat.shapes(task.jobs[0]) != []
    withdraw(agent, team.task, children=True)
    assert team.cvat.shapes(task.jobs[0]) == []
    assert list(sync(agent)) == []


def test_nothing_is_withdrawn_from_another_organisation(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    team.cvat.add_organization("acme")
    astray = team.agent(organization="acme")
    with pytest.raises(NotFound, match="in organisation 'acme'"):
        withdraw(astray, team.task, children=True)
    assert [one.task for one in agent.workspace.enrollments()] == [team.task]
    assert len(tasks(team)) == 2


def test_what_people_draw_in_the_task_counts(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, {**team.options, "quiet_minutes": 0.0})
    only(sync(agent))
    job = team.cvat.task(team.task).jobs[0]
    person = team.cvat.person(team.cvat.admin)
    box = team.cvat.label(team.cvat.task(team.task), "box")
    person.draw(job, {"frame": 5, "label_id": box, "points": [2, 2, 12, 2, 12, 12, 2, 12]})
    person.finish(job)
    team.answer()
    only(sync(agent))
    with Store(only_folder(team)) as store:
        (correction,) = store.round(1).corrections().annotations
    assert correction.frame == 5
    expected = np.full(tiny.SIZE, IGNORE, np.uint8)
    expected[2:12, 2:12] = 1
    np.testing.assert_array_equal(correction.label_map, expected)


def test_masks_wait_for_a_job_at_work(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    person = team.cvat.person(team.cvat.admin)
    job = team.cvat.task(team.task).jobs[0]
    label = team.cvat.shapes(job)[0]["label_id"]
    drawn = person.draw(job, {"frame": 0, "label_id": label, "points": [1, 1, 9, 1, 9, 9]})
    before = team.cvat.shapes(job)
    team.answer()
    report = only(sync(agent))
    assert "round 1: publish" in report.moved
    assert report.unpublished
    assert team.cvat.shapes(job) == before
    job.updated = job.updated.replace(year=job.updated.year - 1)  # long ago
    assert not only(sync(agent)).unpublished
    after = team.cvat.shapes(job)
    assert [shape for shape in after if shape["id"] == drawn] == [
        shape for shape in before if shape["id"] == drawn
    ]
    assert after != before


def test_a_deleted_child_task_is_asked_again(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    (child,) = [task for task in tasks(team) if task.id != team.task]
    team.cvat.world.drop(child)
    stopped = only(sync(agent))
    assert stopped.error is not None
    assert "--ask-again" in stopped.error
    (status,) = team.status()
    assert status.error == stopped.error
    asked = only(sync(agent, team.task, ask_again=True))
    assert asked.error is None
    assert len(asked.open_jobs) == 2
    team.answer()
    assert "round 1: publish" in only(sync(agent)).moved


def test_one_bad_task_does_not_stop_the_others(team: Team) -> None:
    agent = team.agent()
    other = team.add_task("other")
    enroll(agent, team.task, team.options)
    enroll(agent, other, team.options)
    team.cvat.world.drop(team.cvat.task(team.task))
    gone, fine = sync(agent)
    assert gone.error is not None
    assert f"task {team.task}" in gone.error.lower()
    assert fine.error is None
    assert fine.open_jobs
    assert withdraw(agent, team.task, children=True) is None
    assert [report.task for report in sync(agent)] == [other]


def test_a_task_that_cannot_fit_does_not_stop_the_others(team: Team) -> None:
    agent = team.agent()
    other = team.add_task("other")
    enrolled = enroll(agent, team.task, {**team.options, "method": "paper"})
    assert any("takes memory up to" in line for line in team.lines)
    enroll(agent, other, team.options)
    # as if it had been enrolled on a larger machine
    database = agent.workspace.folder(enrolled.enrollment) / "session.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("update sessions set config = json_set(config, '$.size[0]', 8192)")
        connection.execute("update sessions set config = json_set(config, '$.size[1]', 8192)")
    before = sorted(database.parent.rglob("*"))
    large, fine = sync(agent)
    assert large.error is not None
    assert "of memory" in large.error
    assert "choose --size" in large.error
    assert large.moved == ()
    assert sorted(database.parent.rglob("*")) == before
    assert fine.error is None
    assert fine.open_jobs
    told = {one.task: one.error for one in team.status()}
    assert told == {team.task: large.error, other: None}


def test_a_server_that_is_down_loses_nothing(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    team.cvat.down()
    report = only(sync(agent))
    assert report.error is not None
    assert "\n" not in report.error
    team.cvat.up()
    agent = team.agent()
    assert only(sync(agent)).open_jobs


def test_a_server_that_is_down_is_asked_for_one_task_only(team: Team) -> None:
    agent = team.agent()
    for name in ("second", "third"):
        enroll(agent, team.add_task(name), team.options)
    only(sync(agent, team.task + 1))
    only(sync(agent, team.task + 2))
    team.cvat.down()
    team.lines.clear()
    first, second = sync(agent)
    assert first.error == second.error is not None
    assert len([line for line in team.lines if "again in" in line]) == 5
    team.lines.clear()
    failures = refresh_open_jobs(agent.workspace, agent.client)
    assert set(failures) == {team.task + 1, team.task + 2}
    assert len([line for line in team.lines if "again in" in line]) == 5
    team.cvat.up()
    assert [report.error for report in sync(agent)] == [None, None]


def test_what_nobody_foresaw_stops_one_task_only(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    other = team.add_task("other")
    enroll(agent, other, team.options)
    team.answer()

    def progress(step: str, done: int, total: int) -> None:
        if step.startswith(f"task {team.task}:"):
            raise ZeroDivisionError("nobody\nforesaw this")

    broken, fine = sync(replace(agent, progress=progress))
    assert broken.error is not None
    assert "\n" not in broken.error
    assert "report" in broken.error
    assert "Traceback" in (only_folder(team, team.task) / "unexpected.txt").read_text()
    assert fine.open_jobs


WRONG = (b"[]", b"null", b"7", b'{"id": "seven"}', b"[" * 10**5 + b"]" * 10**5, b"[[[]]]")


def kind_of(request: Request) -> str:
    return re.sub(r"\d+", "*", str(request))


def test_answers_of_a_wrong_form_are_one_line_each_and_harm_nothing(team: Team) -> None:
    """Each kind of request of a round gets an answer of a wrong form, one kind a pass."""
    agent = team.agent()
    enroll(agent, team.task, team.options)
    team.cvat.requests.clear()
    only(sync(agent))
    team.answer()
    kinds = {kind_of(request) for request in team.cvat.requests}
    complaints = 0
    for kind, wrong in zip(sorted(kinds), cycle(WRONG), strict=False):

        def twist(request: Request, kind: str = kind, wrong: bytes = wrong) -> bytes | None:
            return wrong if kind_of(request) == kind else None

        team.cvat.twist = twist
        report = only(sync(agent))
        if report.error is not None:
            complaints += 1
            assert "\n" not in report.error
            assert "should not happen" not in report.error, kind
            assert len(report.error) < 500
    assert complaints >= 3
    team.cvat.twist = None
    for _ in range(4):
        report = only(sync(agent))
        team.answer()
    assert report.done, report.error


def test_a_task_that_cannot_be_enrolled_leaves_the_others(team: Team) -> None:
    project = team.cvat.add_project("videos", list(NAMES))
    first, second, third = (team.add_task(name, project=project) for name in ("a", "b", "c"))
    wrong = f"/api/tasks/{first}/data/meta"
    team.cvat.twist = lambda request: b"[7]" if request.path == wrong else None

    def log(line: str) -> None:
        if line.startswith(f"task {second}:"):
            raise ZeroDivisionError("nobody\nforesaw this")

    reports = {
        one.task: one
        for one in enroll_project(replace(team.agent(), log=log), project.id, team.options)
    }
    assert "data/meta: an answer that no CVAT sends" in (reports[first].error or "")
    assert "please report it" in (reports[second].error or "")
    assert "\n" not in (reports[second].error or "")
    assert reports[third].enrolled


def test_the_servers_clock_tells_who_is_at_work(tmp_path: Path, checkpoint: Path) -> None:
    """Ours may be a day ahead, and an open job must still be left in peace."""
    with StandIn(clock=lambda: datetime.now(UTC) - timedelta(days=1)) as cvat:
        team = Team(cvat, tmp_path, checkpoint)
        agent = team.agent()
        enroll(agent, team.task, team.options)
        only(sync(agent))
        job = cvat.task(team.task).jobs[0]
        label = cvat.shapes(job)[0]["label_id"]
        person = cvat.person(cvat.admin)
        person.draw(job, {"frame": 0, "label_id": label, "points": [1, 1, 9, 1, 9, 9]})
        before = cvat.shapes(job)
        team.answer()
        assert only(sync(agent)).unpublished
        assert cvat.shapes(job) == before


def test_renamed_and_deleted_labels(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    admin, path = team.cvat.person(team.cvat.admin), f"tasks/{team.task}"
    box = team.cvat.label(team.cvat.task(team.task), "box")
    admin.call("PATCH", path, {"labels": [{"id": box, "name": "crate"}]})
    assert only(sync(agent)).error is None
    admin.call("PATCH", path, {"labels": [{"id": box, "deleted": True}]})
    stopped = only(sync(agent))
    assert stopped.error is not None
    assert "box" in stopped.error or "crate" in stopped.error
    assert only(sync(agent)).error == stopped.error


def test_frames_deleted_meanwhile_are_still_counted(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    admin = team.cvat.person(team.cvat.admin)
    path = f"tasks/{team.task}/data/meta"
    admin.call("PATCH", path, {"deleted_frames": list(range(LENGTH - 1))})
    report = only(sync(agent))
    assert report.error is None
    assert report.open_jobs
    assert [line for line in team.lines if f"{LENGTH - 1} frames were deleted" in line]
    team.answer()
    assert "round 1: publish" in only(sync(agent)).moved


def test_stopping_ends_after_a_step(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    team.lines.clear()
    report = only(sync(agent, stopping=lambda: any("predict done" in one for one in team.lines)))
    assert report.moved == ("round 0: predict",)
    assert "round 0: publish" in only(sync(agent)).moved


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"annotators": ["nobody"]}, "'nobody'"),
        ({"checkpoint": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"granularity": "circles"}, "circles"),
        ({"background": ["sky"]}, "'sky'"),
        ({"budget": "0%"}, "above 0 %"),
        ({"budget": "0h"}, "above 0"),
        ({"budget": "h"}, "has no number"),
        ({"hourly_rate": 0}, "hourly_rate: input should be greater than 0"),
        ({"currency": "EUR"}, "--hourly-rate 12.50"),
        ({"size": "4x4"}, "32"),
        ({"size": "8192x8192", "method": "paper"}, "up to .* of memory, .* choose --size"),
    ],
)
def test_enrolling_refuses_and_leaves_nothing(
    team: Team, changes: dict[str, Any], pattern: str
) -> None:
    agent = team.agent()
    with pytest.raises(HvsaError, match=pattern):
        enroll(agent, team.task, {**team.options, **changes})
    assert agent.workspace.enrollments() == []
    assert list(sync(agent)) == []


def test_one_task_is_enrolled_once(team: Team) -> None:
    enroll(team.agent(), team.task, team.options)
    with pytest.raises(ConfigError, match="enrolled already"):
        enroll(team.agent(), team.task, team.options)
    elsewhere = team.agent(workspace="elsewhere")
    only(sync(team.agent()))
    with pytest.raises(ConfigError, match="--again"):
        enroll(elsewhere, team.task, team.options)
    enroll(elsewhere, team.task, team.options, again=True)


def test_our_own_tasks_are_not_enrolled(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    (child,) = [task for task in tasks(team) if task.id != team.task]
    with pytest.raises(ConfigError, match="made to ask people"):
        enroll(agent, child.id, team.options)
    with pytest.raises(ConfigError, match=r"HVSA check: .* is one that an agent made"):
        enroll_project(agent, child.project.id, team.options)


def test_a_network_of_timm_that_knows_no_classes_starts_a_task(team: Team, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    network = new_network("resnet18", 1)
    save_checkpoint(network, describe(network, (), tiny.SIZE, 0), start)
    enrolled = enroll(team.agent(), team.task, {**team.options, "checkpoint": str(start)})
    assert enrolled.start.known == ()
    assert "it knows no classes, so the backbone is kept" in enrolled.start.told
    assert only(sync(team.agent())).open_jobs


def test_a_task_starts_from_a_named_network_and_its_weights(team: Team, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    whole = new_network("resnet18", 1, seed=4).backbone.body
    torch.save(whole.state_dict(), weights)
    options = {**team.options, "network": "resnet18", "weights": str(weights)}
    with pytest.raises(ConfigError, match=r"--checkpoint and --network name two networks"):
        enroll(team.agent(), team.task, options)
    enrolled = enroll(team.agent(), team.task, {**options, "checkpoint": None})
    assert enrolled.start.network == "resnet18"
    assert "knows no classes" in enrolled.start.told
    assert only(sync(team.agent())).open_jobs


def test_a_checkpoint_of_other_classes_must_be_meant(team: Team, tmp_path: Path) -> None:
    foreign = tiny.write_checkpoint(tmp_path / "foreign.safetensors", LabelSet(("cat", "dog")))
    options = {**team.options, "checkpoint": str(foreign)}
    with pytest.raises(ConfigError, match=r"cat, dog.*--new-classes"):
        enroll(team.agent(), team.task, options)
    enroll(team.agent(), team.task, {**options, "new_classes": True})
    report = only(sync(team.agent()))
    assert report.open_jobs
    assert all((one == IGNORE).all() for one in team.shown())  # nothing worth showing yet
