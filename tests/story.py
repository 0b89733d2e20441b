"""The story of a task from its first pass to its last masks, wherever it is computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.reports import TaskReport
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store
from tests.team import Team, only


def masks(folder: Path) -> dict[str, bytes]:
    """The label maps of all rounds, by their paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("rounds/*/label_maps/*.png"))
    }


def session_of(folder: Path) -> Session:
    session = Store.peek(folder)
    assert session is not None
    return session


def until(agent: AgentContext, reached: Callable[[dict[int, TaskReport]], bool]) -> None:
    """Passes, until one reports what is waited for."""
    deadline = time.monotonic() + 120
    while not reached({report.task: report for report in sync(agent)}):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run_to_the_end(team: Team, agent: AgentContext, task: int) -> None:
    for _ in range(4):
        report = only(sync(agent, task, to_the_end=True))
        assert report.error is None
        if report.done:
            return
        team.answer()
    raise AssertionError
