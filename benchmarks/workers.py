"""How fast tasks that are ready at once are computed by one worker and by two.

    python -m benchmarks.workers --tasks 8

Runs against the server of the tests, on this machine: small tasks that people have answered, from
there until they are asked again. A pass before has started the workers. Prints Markdown. The memory
is that of an agent started by the command, which holds no PyTorch. Every worker has one thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.workers import WorkerPool
from hvsa_cvat.agent.workspace import HeldLease
from tests import tiny
from tests.standin import StandIn
from tests.team import Team
from tests.worker_orders import Warm


@click.command()
@click.option("--tasks", default=8, show_default=True)
@click.option("--method", default="hvsa", show_default=True)
def main(tasks: int, method: str) -> None:
    # one thread a worker in both rows: else the first row has two threads that share tiny arrays,
    # wait for each other on a busy machine, and the second row only looks better
    os.environ["OMP_NUM_THREADS"] = "1"
    click.echo(
        "| workers | tasks a minute | a worker's time without a task | memory of the agent |\n"
        "| ---: | ---: | ---: | ---: |"
    )
    rates = []
    for workers in (1, 2):
        with StandIn() as cvat, tempfile.TemporaryDirectory() as scratch:
            team = Team(cvat, Path(scratch), tiny.write_checkpoint(Path(scratch) / "s.safetensors"))
            agent = team.agent()
            for number in range(tasks):
                task = team.task if number == 0 else team.add_task(f"clip {number}")
                enroll(agent, task, {**team.options, "method": method})
            peak = _ask_by_command(team, workers)
            seconds, waiting = _timed(team, agent, workers)
        rates.append(tasks / seconds * 60)
        click.echo(f"| {workers} | {rates[-1]:.1f} | {waiting:.0%} | {peak / 1e6:.0f} MB |")
    click.echo(f"\n{rates[1] / rates[0]:.2f} times as fast with two ({os.cpu_count()} cores).")


def _ask_by_command(team: Team, workers: int) -> int:
    """Ask people about all tasks, by the command; the most memory that its process took, bytes."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "hvsa_cvat", "sync"),
            *("--workspace", str(team.root / "workspace"), "--workers", str(workers)),
        ],
        stdout=subprocess.DEVNULL,
        env={
            **os.environ,
            "CVAT_HOST": team.cvat.url,
            "CVAT_ACCESS_TOKEN": team.cvat.admin.token,
        },
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise click.ClickException("a task could not be asked about")
    return peak


def _peak(pid: int) -> int:
    """The most memory that a process has taken so far, in bytes; 0 if it is gone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((1024 * int(one.split()[1]) for one in lines if one.startswith("VmHWM")), 0)


def _start(pool: WorkerPool, agent: AgentContext, workers: int) -> None:
    """Start all workers, each of which imports what computing needs."""
    for number in range(workers):
        pool.begin(Warm(-number), agent.contact(), HeldLease(), ExitStack())
    for number in range(workers):
        while pool.take(-number) is None:
            pool.wait(lambda: False)


def _timed(team: Team, agent: AgentContext, workers: int) -> tuple[float, float]:
    """The seconds from everybody's answers until all are asked again, and the share of them in
    which a worker had no task."""
    with WorkerPool(workers) as pool:
        _start(pool, agent, workers)
        team.answer()
        begun, busy = time.perf_counter(), pool.busy_seconds
        for report in sync(replace(agent, compute=pool), to_the_end=True):
            if report.error is not None:
                raise click.ClickException(report.error)
        seconds = time.perf_counter() - begun
        return seconds, 1 - (pool.busy_seconds - busy) / (workers * seconds)


if __name__ == "__main__":
    main()
