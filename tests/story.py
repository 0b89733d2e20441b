"""The story of a task from its first pass to its last masks, wherever it is computed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hvsa_cvat.agent.compute import Compute
from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.reports import TaskReport
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store
from tests.team import Team, only, only_folder


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


def ends_as_in_one_process(team: Team, pool: Compute) -> tuple[AgentContext, int]:
    """A task is computed here, another one like it in `pool`; the agent and task of that."""
    options = {**team.options, "method": "hvsa", "budget": "40%", "rounds": 1}
    alone, other = team.agent(), team.add_task("clip")
    enroll(alone, team.task, options)
    run_to_the_end(team, alone, team.task)
    apart = replace(team.agent(), compute=pool)
    enroll(apart, other, options)
    run_to_the_end(team, apart, other)
    folders = [only_folder(team, task) for task in (team.task, other)]
    assert len(masks(folders[0])) == 2 * 6
    # everything but the random parts of the two sessions' names decides the masks
    assert masks(folders[0]) == masks(folders[1])
    first, second = map(session_of, folders)
    assert [one.queried for one in first.rounds] == [one.queried for one in second.rounds]
    return apart, other


def command(team: Team, *more: str) -> tuple[list[str], dict[str, str]]:
    """`sync` as people run it, and its environment."""
    arguments = [sys.executable, "-m", "hvsa_cvat", "sync", "--workspace", "workspace", *more]
    mine = {"CVAT_HOST": team.cvat.url, "CVAT_ACCESS_TOKEN": team.cvat.admin.token}
    root = str(Path(__file__).parents[1])
    return arguments, {**os.environ, **mine, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


@contextmanager
def watching(team: Team, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """`sync --watch`, whose log is in `log`; it is killed afterwards."""
    arguments, environment = command(team, "--watch", "--interval", "0.2", *more)
    with (
        (team.root / "log").open("wb") as log,
        subprocess.Popen(
            arguments, stdout=log, stderr=log, env=environment, cwd=team.root
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def said(team: Team, text: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the log of `watching` says so."""
    deadline = time.monotonic() + 200
    while text not in (team.root / "log").read_text():
        assert process.poll() is None, (team.root / "log").read_text()
        assert time.monotonic() < deadline, (team.root / "log").read_text()
        time.sleep(0.05)


def memory_of(pid: int) -> int:
    """Bytes that a process has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
