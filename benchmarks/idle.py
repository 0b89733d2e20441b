"""What a pass costs in which nothing has changed, against one that looks at every task; and what
it costs to be told how the tasks stand.

    python -m benchmarks.idle --tasks 200 --told 10,100,200,1000

Runs against the server of the tests, on this machine: as many tasks of a few small frames, each of
which waits for people. Prints Markdown. Making the tasks takes longer than the passes.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.looking import look_into
from hvsa_cvat.agent.news import NewsReader
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.status import read_status
from hvsa_cvat.agent.task_counts import TaskCounts
from hvsa_cvat.agent.unchanged import Unchanged
from hvsa_cvat.agent.workspace import Workspace
from tests import tiny
from tests.standin import StandIn
from tests.team import LENGTH, Team

_PASSES = 3


@click.command()
@click.option("--tasks", default=200, show_default=True)
@click.option(
    "--told", default="10,100,200,1000", show_default=True, help="Of how many tasks to be told."
)
def main(tasks: int, told: str) -> None:
    numbers = [int(one) for one in told.split(",")]
    with StandIn() as cvat, tempfile.TemporaryDirectory() as scratch:
        checkpoint = tiny.write_checkpoint(Path(scratch) / "start.safetensors")
        team = Team(cvat, Path(scratch), checkpoint)
        agent = team.agent()
        for number in range(tasks):
            task = team.task if number == 0 else team.add_task(f"clip {number}")
            enroll(agent, task, team.options)
        unchanged = Unchanged(agent)
        begun = time.perf_counter()
        errors = [report.error for report in sync(agent, unchanged=unchanged) if report.error]
        if errors:
            raise click.ClickException(f"a task could not be asked about: {errors[0]}")
        click.echo(
            f"{tasks} tasks were asked about in {time.perf_counter() - begun:.0f} s", err=True
        )
        # what the pass itself wrote counts as written for some seconds
        time.sleep(15)
        list(sync(agent, unchanged=unchanged))
        click.echo("| a pass over tasks that wait | requests | seconds |\n| --- | ---: | ---: |")
        for name, known in (("that looks at each", None), ("in which nothing changed", unchanged)):
            seconds, requests = [], []
            for _ in range(_PASSES):
                cvat.requests.clear()
                begun = time.perf_counter()
                list(sync(agent, unchanged=known))
                seconds.append(time.perf_counter() - begun)
                requests.append(len(cvat.requests))
            click.echo(f"| {name} | {max(requests):,} | {statistics.median(seconds):.2f} |")
        cvat.requests.clear()
        click.echo("\n| seconds (of processor time) to be told of as many tasks | ", nl=False)
        click.echo(" | ".join(map(str, numbers)) + " |")
        click.echo("| --- |" + " ---: |" * len(numbers))
        ways = [_ways_to_be_told(_copied(agent, Path(scratch), number)) for number in numbers]
        for name in ways[0]:
            told_in = [min(map(_seconds, [way[name]] * _PASSES)) for way in ways]
            cells = [f"{wall:.2f} ({processor:.2f})" for wall, processor in told_in]
            click.echo(f"| {name} | {' | '.join(cells)} |")
        assert not cvat.requests
        (first, *_) = agent.workspace.enrollments()
        click.echo(
            f"\nA task of {LENGTH} frames of {tiny.SIZE[1]}x{tiny.SIZE[0]} that waits has "
            f"{size_of(agent.workspace.folder(first)):,} bytes of files; the workspace's database "
            f"has {agent.workspace.database.stat().st_size:,}"
        )


def _copied(agent: AgentContext, scratch: Path, number: int) -> AgentContext:
    """The agent with another workspace, in which the first task is enrolled `number` times. The
    copies share the files, which nobody changes."""
    workspace = agent.workspace
    (first, *_) = workspace.enrollments()
    look = look_into(workspace.root, workspace.server, agent.clock()).looks[first.task]
    many = Workspace(scratch / f"many-{number}", workspace.server, "agent", agent.clock)
    for task in range(1, number + 1):
        copy = many.add_task(task, first.key, first.classes, first.options)
        shutil.copytree(workspace.folder(first), many.folder(copy), copy_function=os.link)
        many.looks.keep(task, first.key, look.jobs)
    return replace(agent, workspace=many)


def _ways_to_be_told(agent: AgentContext) -> dict[str, Callable[[], object]]:
    """Each is run once beforehand where it keeps what it has read."""
    workspace, url = agent.workspace, agent.settings.address.url
    counts = TaskCounts(workspace.root, workspace.server, agent.clock)
    reader = NewsReader()
    list(counts.collect())
    reader.read(workspace, url, 24, agent.clock())
    command = [sys.executable, "-m", "hvsa_cvat", "status", "--json"]
    variables = {**os.environ, "CVAT_HOST": url, "HVSA_WORKSPACE": str(workspace.root)}
    return {
        "`hvsa-agent status --json`, the whole command": lambda: subprocess.run(
            command, env=variables, stdout=subprocess.DEVNULL, check=True
        ),
        "its reading alone": lambda: list(read_status(workspace.root, url, agent.clock())),
        "the tasks of `/metrics`": lambda: list(counts.collect()),
        "news for messages, where nothing is new": lambda: reader.read(
            workspace, url, 24, agent.clock()
        ),
        "the same, when each task is read": lambda: NewsReader().read(
            workspace, url, 24, agent.clock()
        ),
    }


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of processor time with that of processes which it starts."""
    begun, used = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - begun, sum(os.times()[:4]) - used


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
