"""What a pass costs in which nothing has changed, against one that looks at every task; and what
it costs to be told how the tasks stand.

    python -m benchmarks.idle --tasks 200

Runs against the server of the tests, on this machine: as many tasks of a few small frames, each of
which waits for people. Prints Markdown. Making the tasks takes longer than the passes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.news import NewsReader
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.status import read_status
from hvsa_cvat.agent.task_counts import TaskCounts
from hvsa_cvat.agent.unchanged import Unchanged
from tests import tiny
from tests.standin import StandIn
from tests.team import Team

_PASSES = 3


@click.command()
@click.option("--tasks", default=200, show_default=True)
def main(tasks: int) -> None:
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
        click.echo("\n| being told of them | seconds |\n| --- | ---: |")
        for name, told in _ways_to_be_told(agent).items():
            click.echo(f"| {name} | {statistics.median(map(_seconds, [told] * _PASSES)):.2f} |")
        assert not cvat.requests
        sizes = [size_of(agent.workspace.folder(one)) for one in agent.workspace.enrollments()]
        click.echo(
            f"\nFiles of a task: {statistics.median(sizes):,.0f} bytes; the database of the "
            f"workspace: {agent.workspace.database.stat().st_size:,} bytes"
        )


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
        "`GET /metrics`, the tasks": lambda: list(counts.collect()),
        "news for messages, where nothing is new": lambda: reader.read(
            workspace, url, 24, agent.clock()
        ),
        "news for messages, the first time": lambda: NewsReader().read(
            workspace, url, 24, agent.clock()
        ),
    }


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
