"""One story in SQLite files and in PostgreSQL; and agents there that die, stall or lose it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.reports import TaskReport
from hvsa_cvat.agent.status import read_status
from hvsa_cvat.agent.withdraw import withdraw
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.cvat.state import State
from hvsa_cvat.database import Place
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store
from tests.postgres import LocalServer
from tests.standin import StandIn
from tests.team import Team, only, only_folder

pytestmark = pytest.mark.cluster


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    with StandIn() as cvat:
        yield Team(cvat, tmp_path, checkpoint)


def sharing(
    team: Team, address: str, owner: str = "agent", lease_seconds: float = 60
) -> AgentContext:
    """An agent whose workspace is in PostgreSQL."""
    agent = team.agent(owner, workspace="elsewhere")
    settings = replace(agent.settings, workspace=team.root / "shared", database=address)
    key = server_key(team.cvat.url)
    workspace = Workspace(settings.place, key, owner, lambda: team.now, lease_seconds)
    return replace(agent, settings=settings, workspace=workspace)


def masks(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("label_maps/*.png"))
    assert found
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in found}


def session_of(agent: AgentContext, task: int) -> Session:
    enrollment = agent.workspace.enrollment(task)
    assert enrollment is not None
    session = Store.peek(agent.workspace.session_place(enrollment))
    assert session is not None
    return session


def run_to_the_end(
    team: Team,
    agents: list[AgentContext],
    task: int,
    between: Callable[[int], None] = lambda number: None,
) -> TaskReport:
    """Passes of the agents in turn, and people who answer, until all rounds are over."""
    for number in range(12):
        between(number)
        report = only(sync(agents[number % len(agents)], task))
        assert report.error is None, report.error
        if report.done:
            return report
        team.answer()
    raise AssertionError("it does not end")


def test_a_story_in_postgresql_ends_like_one_in_files(
    team: Team, postgres: str, postgres_server: LocalServer
) -> None:
    """Two agents take turns; the database is restarted between their passes."""
    other, alone = team.add_task("clip"), team.agent()
    enroll(alone, other, team.options)
    run_to_the_end(team, [alone], other)
    one, two = sharing(team, postgres, "one"), sharing(team, postgres, "two")
    enroll(one, team.task, team.options)

    def restart(number: int) -> None:
        if number == 2:
            postgres_server.stop()
            postgres_server.start()

    run_to_the_end(team, [one, two], team.task, restart)
    (shared,) = (team.root / "shared" / "tasks").iterdir()
    assert masks(shared) == masks(only_folder(team))
    assert not list((team.root / "shared").rglob("*.db"))
    shown = [[one.tolist() for one in team.shown(task)] for task in (team.task, other)]
    assert shown[0] == shown[1]
    # an idle look, as status and dashboard have it
    (status,) = read_status(one.settings.place, team.cvat.url, team.now)
    assert (status.phase, status.error) == ("done", None)
    withdraw(two, team.task, children=True)
    assert one.workspace.enrollments() == []


def test_an_agent_without_its_lease_writes_nothing(
    team: Team, postgres: str, postgres_server: LocalServer
) -> None:
    """It stalls right before people are asked; another one takes the task and asks them."""
    one, two = sharing(team, postgres, "one"), sharing(team, postgres, "two")
    enroll(one, team.task, team.options)
    requests = len(team.cvat.world.tasks)
    create = one.client.create

    def stall(*arguments: object) -> object:
        one.client.create = create  # type: ignore[method-assign]
        name = postgres.rpartition("/")[2]
        postgres_server.execute("UPDATE hvsa_workspace.leases SET expires = 0", name)
        # the lock of the folder would stop it on this machine: it stands for another one
        lock = only_shared(team) / ".lock"
        lock.rename(lock.with_name("lock-of-another-machine"))
        assert only(sync(two, team.task)).error is None
        return create(*arguments)  # type: ignore[arg-type]

    one.client.create = stall  # type: ignore[method-assign,assignment]
    report = only(sync(one, team.task))
    assert report.error is not None
    assert "another agent has taken task" in report.error
    assert len(team.cvat.world.tasks) == requests + 1, "people are asked once"
    assert session_of(two, team.task).current.phase is Phase.ANNOTATE
    run_to_the_end(team, [two, one], team.task)


def only_shared(team: Team) -> Path:
    (folder,) = (team.root / "shared" / "tasks").iterdir()
    return folder


@pytest.mark.timeout(700)  # on a busy machine
def test_a_killed_agent_frees_its_tasks(team: Team, postgres: str) -> None:
    """SIGKILL of a process that holds the lease; its worker ends with it."""
    agent = sharing(team, postgres, "tester", lease_seconds=3)
    enroll(agent, team.task, {**team.options, "budget": "40%", "rounds": 1})
    first = Life(team, postgres, "first")
    try:
        deadline = time.monotonic() + 200
        while agent.workspace.lease(team.task) is None:
            assert first.process.poll() is None, first.log()
            assert time.monotonic() < deadline, first.log()
            time.sleep(0.02)
        held = agent.workspace.lease(team.task)
        assert held is not None
        assert held.owner.startswith("first")
    finally:
        first.kill()
    killed = time.monotonic()
    second = Life(team, postgres, "second")
    try:
        while second.process.poll() is None:
            if session_of(agent, team.task).current.phase is Phase.ANNOTATE:
                team.answer()
            time.sleep(0.1)
            assert time.monotonic() < killed + 400, second.log()
    finally:
        second.kill()
    assert second.process.returncode == 0, second.log()
    assert session_of(agent, team.task).done
    assert len(team.cvat.world.tasks) == 2, "people were asked once"


class Life:
    """An agent with a worker, as a program."""

    def __init__(self, team: Team, address: str, name: str) -> None:
        environment = {
            **os.environ,
            "CVAT_HOST": team.cvat.url,
            "CVAT_ACCESS_TOKEN": team.cvat.admin.token,
            "HVSA_DATABASE": address,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        program = [sys.executable, "-m", "tests.agent_life", "shared", name, "3"]
        self._log = team.root / f"{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                program, stdout=log, stderr=log, env=environment, cwd=team.root
            )

    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def test_memory_and_session_are_in_the_same_place(team: Team, postgres: str) -> None:
    agent = sharing(team, postgres)
    enrolled = enroll(agent, team.task, team.options).enrollment
    place = agent.workspace.session_place(enrolled)
    assert isinstance(place, Place)
    assert State(place / "cvat").facts.frames_in_use() == list(range(6))
