"""What a pass costs in which nothing has changed, against one that looks at every task.

    python -m benchmarks.idle --tasks 200

Runs against the server of the tests, on this machine: as many tasks of a few small frames, each of
which waits for people. Prints Markdown. Making the tasks takes longer than the passes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import click

from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
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


if __name__ == "__main__":
    main()
