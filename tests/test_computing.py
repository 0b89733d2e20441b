"""Tasks that are computed in workers, while the agent goes on speaking to people."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.events import Event, read_events
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.reports import TaskReport
from hvsa_cvat.agent.workers import WorkerPool
from hvsa_cvat.agent.workspace import HeldLease
from hvsa_cvat.session.rounds import Phase
from tests.standin import StandIn
from tests.story import (
    command,
    ends_as_in_one_process,
    masks,
    memory_of,
    run_to_the_end,
    said,
    session_of,
    until,
    watching,
)
from tests.team import NAMES, Team, only, only_folder
from tests.worker_orders import Gate


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    with StandIn() as cvat:
        yield Team(cvat, tmp_path, checkpoint)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Each test leaves it with nothing to do; to start a worker takes seconds."""
    with WorkerPool(1) as workers:
        yield workers


def events_of(agent: AgentContext, task: int) -> list[Event]:
    found = read_events(agent.workspace.root, agent.workspace.server, task)
    return [one.what for one in found]


def workers_of(agent: int) -> list[int]:
    """The worker processes of an agent."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == agent and b"worker_process" in command:
            found.append(int(folder.name))
    return found


def a_worker_of(agent: int) -> int:
    deadline = time.monotonic() + 120
    while not (found := workers_of(agent)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found[0]


def test_masks_are_those_of_one_process(team: Team, pool: WorkerPool) -> None:
    apart, other = ends_as_in_one_process(team, pool)
    noted = events_of(apart, other)
    assert noted.count(Event.PUBLISHED) == 2


def test_other_tasks_go_on_while_one_is_computed(
    team: Team, pool: WorkerPool, tmp_path: Path
) -> None:
    """The only worker is held by something else; one task is ready to be asked about, one has been
    answered, and one has to be computed."""
    asks, answered, computes = team.task, team.add_task("two"), team.add_task("three")
    agent = team.agent()
    for task in (asks, answered, computes):
        enroll(agent, task, {**team.options, "annotators": []})
    only(sync(agent, answered))
    phases = [Phase.REQUEST.value]
    only(
        sync(
            agent,
            asks,
            stopping=lambda: session_of(only_folder(team, asks)).current.phase in phases,
        )
    )
    assert session_of(only_folder(team, asks)).current.phase is Phase.REQUEST
    assert team.answer() > 0
    os.mkfifo(tmp_path / "pipe")
    busy = replace(agent, compute=pool)
    pool.begin(Gate(99, tmp_path / "pipe"), agent.contact(), HeldLease(), ExitStack())
    reports = {report.task: report for report in sync(busy)}
    assert reports[asks].moved == ("round 1: request",)
    assert reports[asks].open_jobs
    assert reports[answered].moved == ("round 1: annotate",)
    assert reports[answered].computing is not None
    assert reports[computes].computing is not None
    assert reports[computes].queued  # the pool takes one more than it computes
    assert not team.shown(computes)[0].min() < 255
    (tmp_path / "pipe").write_text("")
    until(busy, lambda found: all(not one.computing and one.open_jobs for one in found.values()))
    assert session_of(only_folder(team, answered)).current.number == 2


def test_what_is_computed_is_held_and_said(team: Team, pool: WorkerPool) -> None:
    agent = replace(team.agent(), compute=pool)
    enroll(agent, team.task, team.options)
    first = only(sync(agent))
    assert first.computing == "round 0: predict"
    assert only(sync(team.agent("another"))).held_by == "agent"
    until(agent, lambda found: bool(found[team.task].open_jobs))
    lease = agent.workspace.lease(team.task)
    assert lease is None


@pytest.mark.slow
def test_a_lost_lease_stops_the_computing(team: Team, pool: WorkerPool, tmp_path: Path) -> None:
    """It is noticed when the lease should be renewed, every 15 s."""
    agent = replace(team.agent(), compute=pool)
    enroll(agent, team.task, team.options)
    os.mkfifo(tmp_path / "pipe")
    with ExitStack() as hold:
        lease = hold.enter_context(agent.workspace.leased(team.task))
        assert lease is not None
        pool.begin(Gate(team.task, tmp_path / "pipe"), agent.contact(), lease, hold)
    assert only(sync(agent)).computing == "round 9: finetune"
    worker = a_worker_of(os.getpid())
    team.now += 3600  # as if the agent had been suspended for an hour
    with team.agent("another").workspace.leased(team.task) as theirs:
        assert theirs is not None
        until(agent, lambda found: found[team.task].computing is None)
        assert not Path(f"/proc/{worker}").exists()
        assert only(sync(agent)).held_by == "another"
    until(agent, lambda found: bool(found[team.task].open_jobs))


def test_a_killed_worker_is_one_line_and_the_next_pass_retries(
    team: Team, pool: WorkerPool
) -> None:
    agent = replace(team.agent(), compute=pool)
    enroll(agent, team.task, team.options)
    only(sync(agent))
    os.kill(a_worker_of(os.getpid()), signal.SIGKILL)
    found: list[TaskReport] = []

    def failed(reports: dict[int, TaskReport]) -> bool:
        found.append(reports[team.task])
        return found[-1].error is not None

    until(agent, failed)
    assert "was killed" in str(found[-1].error)
    assert agent.workspace.enrollments()[0].error == found[-1].error
    again = only(sync(agent))
    assert again.computing is not None
    assert again.error == found[-1].error  # what is wrong is said until it goes well
    until(agent, lambda reports: bool(reports[team.task].open_jobs))
    assert agent.workspace.enrollments()[0].error is None
    events = events_of(agent, team.task)
    assert events.count(Event.STOPPED) == events.count(Event.GOES_ON) == 1


def test_the_agent_itself_has_no_pytorch(team: Team) -> None:
    """Its process asks, collects, publishes and enrolls a task of a project."""
    agent = team.agent()
    enroll(agent, team.task, {**team.options, "budget": "40%", "rounds": 1})
    project = team.cvat.add_project("videos", list(NAMES))
    agent.workspace.add_project(project.id, {**team.options, "annotators": []})
    with watching(team) as process:
        said(team, "not finished (", process)
        new = team.add_task("new", project=project)
        said(team, f"task {new} (new): is enrolled", process)
        team.answer()
        said(team, "all rounds are done", process)
        libraries = Path(f"/proc/{process.pid}/maps").read_text()
        assert "libtorch" not in libraries
        assert "numpy" in libraries
        assert memory_of(process.pid) < 300e6
        (worker,) = workers_of(process.pid)
        assert "libtorch" in Path(f"/proc/{worker}/maps").read_text()
        assert team.cvat.admin.token.encode() not in Path(f"/proc/{worker}/environ").read_bytes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert workers_of(process.pid) == []
    assert (team.root / "log").read_text().rstrip().endswith("stopped")


def test_a_second_signal_ends_the_worker_too(team: Team) -> None:
    enroll(team.agent(), team.task, team.options)
    with watching(team) as process:
        worker = a_worker_of(process.pid)
        process.send_signal(signal.SIGTERM)
        said(team, "once more to stop at once", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_pass_goes_to_the_end(team: Team) -> None:
    for task in (team.task, team.add_task("two")):
        enroll(team.agent(), task, team.options)
    arguments, environment = command(team, "--workers", "2")
    done = subprocess.run(
        arguments, env=environment, cwd=team.root, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("waits for people") == 2
    assert "computes" not in done.stdout


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_workers_are_a_number(team: Team, workers: str) -> None:
    arguments, environment = command(team, "--workers", workers)
    done = subprocess.run(
        arguments, env=environment, cwd=team.root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "--workers" in done.stderr.strip().splitlines()[-1]


class Lives:
    """One agent after the other in a workspace; people answer whenever they are asked."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.number = 0
        self.agent: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lives:
        return self

    def __exit__(self, *error: object) -> None:
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()

    def live(self, seconds: float) -> bool:
        """Live on for some seconds after there is a worker. Whether everything is done."""
        if self.agent is None:
            self.number += 1
            _, environment = command(self.team)
            program = [sys.executable, "-m", "tests.agent_life", "workspace", str(self.number)]
            with (self.team.root / "log").open("ab") as log:
                self.agent = subprocess.Popen(
                    program, stdout=log, stderr=log, env=environment, cwd=self.team.root
                )
        end = None
        while end is None or time.monotonic() < end:
            if end is None and workers_of(self.agent.pid):
                end = time.monotonic() + seconds
            if session_of(only_folder(self.team)).current.phase is Phase.ANNOTATE:
                self.team.answer()
            if (code := self.agent.poll()) is not None:
                assert code == 0, (self.team.root / "log").read_text()
                return True
            time.sleep(0.05)
        return False

    def kill_agent(self) -> None:
        assert self.agent is not None
        workers = workers_of(self.agent.pid)
        self.agent.kill()
        self.agent.wait()
        self.agent = None
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill_worker(self) -> None:
        assert self.agent is not None
        for worker in workers_of(self.agent.pid):
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize(
    ("kills", "seed"),
    [pytest.param(12, k, marks=pytest.mark.slow) for k in range(1, 4)],
)
def test_kills_change_nothing(team: Team, kills: int, seed: int) -> None:
    """Of the worker or of the agent, at any moment."""
    options = {**team.options, "method": "hvsa", "budget": "40%", "rounds": 1}
    other, alone = team.add_task("clip"), team.agent(workspace="undisturbed")
    enroll(alone, other, options)
    run_to_the_end(team, alone, other)
    enroll(team.agent(), team.task, options)
    rng, killed = random.Random(seed), 0
    with Lives(team) as lives:
        while not lives.live(rng.uniform(0, 8)):
            if killed < kills:
                rng.choice([lives.kill_agent, lives.kill_worker])()
                killed += 1
    (undisturbed,) = (team.root / "undisturbed" / "tasks").iterdir()
    assert masks(only_folder(team)) == masks(undisturbed)
    assert session_of(only_folder(team)).clicks == session_of(undisturbed).clicks
    # nothing is twice: `shown` refuses two masks on one pixel, and people were asked once
    assert [one.tolist() for one in team.shown()] == [one.tolist() for one in team.shown(other)]
    asked = set(team.cvat.world.tasks) - {team.task, other}
    assert len(asked) == 2
