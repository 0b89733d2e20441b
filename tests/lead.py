"""A workspace as a lead finds it: tasks in different phases, one stopped, one with an odd name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.enrolled.runs import Run, read_run
from hvsa_cvat.enrolled.tasks import EnrolledTasks
from tests.standin import StandIn
from tests.team import Team, only

HOSTILE = "<img src=x onerror=alert(1)> \"kitchen\" & 'hall'"
STOPPED = "task 4 is gone; if it was deleted, end its enrollment: hvsa-agent withdraw 4"

DONE, WAITING, FRESH, FAILED = 1, 2, 3, 4


@dataclass(frozen=True)
class Filled:
    """A workspace that nobody works in now; the server is gone."""

    workspace: Path
    url: str
    """Address of the server."""

    def environment(self) -> dict[str, str]:
        return {"CVAT_HOST": self.url, "HVSA_WORKSPACE": str(self.workspace)}


def fill_workspace(root: Path, checkpoint: Path) -> Filled:
    """Task `DONE` has had both rounds, `WAITING` waits for people in round 2, `FRESH` has had no
    pass, and `FAILED` has stopped in round 1."""
    with StandIn() as cvat:
        team = Team(cvat, root, checkpoint)
        agent = team.agent()
        names = {WAITING: HOSTILE, FRESH: "corridor", FAILED: "stairs"}
        assert [team.add_task(name) for name in names.values()] == list(names)
        for task in (DONE, *names):
            enroll(agent, task, team.options)
        _pass(agent, DONE)
        for task in (DONE, DONE, WAITING):
            if task == WAITING:
                _pass(agent, WAITING)
            assert team.answer() == 2
            _pass(agent, task)
        _pass(agent, FAILED)
        agent.workspace.set_error(FAILED, STOPPED)
    return Filled(root / "workspace", cvat.url)


def run_of(filled: Filled, task: int) -> Run:
    return read_run(EnrolledTasks(filled.workspace, filled.url, lambda: 0.0).one(task).folder)


def _pass(agent: AgentContext, task: int) -> None:
    assert only(sync(agent, task)).error is None
