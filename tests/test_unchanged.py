"""Passes in which nothing has changed on the server: what they ask, and what ends them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.extend import Extension, extend
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.unchanged import Unchanged
from hvsa_cvat.agent.withdraw import withdraw
from tests import tiny
from tests.people import answer_job, open_jobs
from tests.standin import Fault, Request, StandIn
from tests.team import NAMES, Team, only


class Clock:
    """The server's time, which the tests move on."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.time

    def minutes(self, number: float) -> None:
        self.time += timedelta(minutes=number)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path, clock: Clock) -> Iterator[Team]:
    with StandIn(clock=clock) as cvat:
        yield Team(cvat, tmp_path, checkpoint)


class Watcher:
    """Passes of one process, a minute apart."""

    def __init__(self, team: Team, clock: Clock) -> None:
        self.team = team
        self.clock = clock
        self.agent = team.agent()
        self.unchanged = Unchanged(self.agent)

    def pass_(self) -> list:
        """The reports of a pass; `asked` has its requests afterwards."""
        self.clock.minutes(1)
        self.team.now += 60
        self.team.cvat.requests.clear()
        found = list(sync(self.agent, unchanged=self.unchanged))
        self.asked = [(one.method, one.path) for one in self.team.cvat.requests]
        return found

    def until_idle(self) -> list:
        """Passes until one looks at no task; its reports."""
        for _ in range(4):
            found = self.pass_()
            if not any("/tasks/" in path for _, path in self.asked):
                return found
        raise AssertionError(f"still looked at: {self.asked}")


@pytest.fixture
def watcher(team: Team, clock: Clock) -> Watcher:
    return Watcher(team, clock)


def test_an_idle_pass_asks_what_was_written_and_nothing_else(watcher: Watcher) -> None:
    team = watcher.team
    for task in (team.task, team.add_task("second"), team.add_task("third")):
        enroll(watcher.agent, task, team.options)
    asked = [report.open_jobs for report in watcher.pass_()]
    found = watcher.until_idle()

    assert [report.open_jobs for report in found] == asked
    assert all(report.error is None for report in found)
    assert [path for _, path in watcher.asked] == ["/api/server/about", "/api/tasks", "/api/jobs"]


def test_a_finished_job_is_seen(watcher: Watcher) -> None:
    team = watcher.team
    other = team.add_task("second")
    for task in (team.task, other):
        enroll(watcher.agent, task, team.options)
    watcher.pass_()
    watcher.until_idle()
    jobs = [job for job in open_jobs(team.cvat) if f"(task {team.task})" in job_name(team, job)]
    for job in jobs:
        person = team.cvat.person(team.cvat.job(job).assignee.username)
        answer_job(team.cvat, person, job, tiny.truth, NAMES)
    first, second = watcher.pass_()

    assert "round 1: publish" in first.moved
    assert second.moved == ()
    assert not any(f"/tasks/{other}" in path for _, path in watcher.asked)


def failing(path: str) -> Callable[[Request], Fault | None]:
    return lambda request: Fault.ERROR if request.path.startswith(path) else None


def job_name(team: Team, job: int) -> str:
    return str(team.cvat.job(job).task.name)


def test_masks_that_somebody_touched_are_looked_at(watcher: Watcher) -> None:
    team = watcher.team
    enroll(watcher.agent, team.task, team.options)
    watcher.pass_()
    watcher.until_idle()
    job = team.cvat.task(team.task).jobs[0]
    team.cvat.person("admin").call("PATCH", f"jobs/{job.id}", {"state": "in progress"})
    watcher.pass_()

    assert any(f"/tasks/{team.task}" in path for _, path in watcher.asked)


def test_a_session_that_is_extended_goes_on(watcher: Watcher) -> None:
    team = watcher.team
    enroll(watcher.agent, team.task, team.options)
    for _ in range(3):
        watcher.pass_()
        team.answer()
    done = watcher.until_idle()
    assert done[0].done
    extend(team.agent(owner="another"), team.task, Extension("90%", 1, None))
    (report,) = watcher.pass_()

    assert "round 3: request" in report.moved


def test_a_task_that_is_withdrawn_and_enrolled_again(watcher: Watcher) -> None:
    team = watcher.team
    enroll(watcher.agent, team.task, team.options)
    watcher.pass_()
    watcher.until_idle()
    withdraw(team.agent(owner="another"), team.task, children=True)
    enroll(team.agent(owner="another"), team.task, team.options)
    (report,) = watcher.pass_()

    assert "round 1: request" in report.moved


def test_a_deleted_task_is_noticed_after_a_while(watcher: Watcher) -> None:
    team = watcher.team
    enroll(watcher.agent, team.task, team.options)
    watcher.pass_()
    watcher.until_idle()
    team.cvat.person(team.cvat.admin).call("DELETE", f"tasks/{team.task}")
    assert only(iter(watcher.pass_())).error is None
    team.now += 900

    assert "hvsa-agent withdraw" in str(only(iter(watcher.pass_())).error)


def test_a_task_that_failed_is_tried_again(watcher: Watcher) -> None:
    team = watcher.team
    enroll(watcher.agent, team.task, team.options)
    team.cvat.faults = lambda request: (
        Fault.ERROR if request.path.startswith("/api/tasks/") else None
    )
    assert only(iter(watcher.pass_())).error is not None
    team.cvat.faults = {}

    assert "round 1: request" in only(iter(watcher.pass_())).moved


def test_a_server_that_cannot_list_is_asked_about_every_task(watcher: Watcher) -> None:
    team = watcher.team
    enroll(watcher.agent, team.task, team.options)
    watcher.pass_()
    watcher.until_idle()
    team.cvat.faults = lambda request: Fault.ERROR if "filter" in request.query else None
    (report,) = watcher.pass_()

    assert report.error is None
    assert any(f"/tasks/{team.task}" in path for _, path in watcher.asked)
    assert any("cannot ask what has changed" in line for line in team.lines)


def test_a_job_that_was_finished_during_a_pause_is_seen_after_it(watcher: Watcher) -> None:
    team = watcher.team
    enroll(watcher.agent, team.task, team.options)
    watcher.pass_()
    watcher.until_idle()
    watcher.agent.workspace.pauses.pause(team.task)
    watcher.pass_()
    team.answer()
    watcher.pass_()
    watcher.agent.workspace.pauses.resume(team.task)

    assert "round 1: annotate" in only(iter(watcher.pass_())).moved


def test_what_a_pass_did_not_come_to_is_not_forgotten(watcher: Watcher) -> None:
    team = watcher.team
    enroll(watcher.agent, team.task, team.options)
    watcher.pass_()
    watcher.until_idle()
    team.answer()
    watcher.clock.minutes(1)
    list(sync(watcher.agent, stopping=lambda: True, unchanged=watcher.unchanged))

    assert "round 1: annotate" in only(iter(watcher.pass_())).moved


@pytest.mark.parametrize("what", ["withdrawn", "paused"])
def test_a_task_that_is_left_during_a_long_pass_is_not_touched(watcher: Watcher, what: str) -> None:
    team = watcher.team
    second = team.add_task("second")
    for task in (team.task, second):
        enroll(watcher.agent, task, team.options)
    reports = sync(watcher.agent, unchanged=watcher.unchanged)
    assert next(reports).task == team.task
    if what == "withdrawn":
        withdraw(team.agent(owner="another"), second, children=False)
    else:
        watcher.agent.workspace.pauses.pause(second)
    team.cvat.requests.clear()
    rest = list(reports)

    assert [(one.task, one.paused) for one in rest] == (
        [(second, True)] if what == "paused" else []
    )
    assert not any(f"/tasks/{second}" in one.path for one in team.cvat.requests)
