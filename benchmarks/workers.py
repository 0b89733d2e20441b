"""How fast tasks that are ready at once are computed by one worker and by two.

    python -m benchmarks.workers --tasks 8
    python -m benchmarks.workers --tasks 8 --engine ray

Runs against the server of the tests, on this machine: small tasks that people have answered, from
there until they are asked again. A pass before has started the workers. Prints Markdown. The memory
is that of an agent started by the command, which holds no PyTorch. Every worker has one thread.
The frames are tiny and the network works at `--size`: the agent and the server take about a second
of a core for each task, whatever it computes, which leaves two workers less of two cores.
With Ray, a cluster of that many cores runs on this machine. What Ray adds to an order are the
seconds from giving an empty one until its result, less those of a worker process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from hvsa_cvat.agent.compute import Computed, Contact
from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.pool import Pool
from hvsa_cvat.agent.settings import ComputeSection
from hvsa_cvat.agent.workers import WorkerPool
from hvsa_cvat.agent.workspace import HeldLease
from tests import tiny
from tests.standin import StandIn
from tests.team import Team
from tests.worker_orders import Nothing, Warm

_EMPTY = 20
"""Empty orders, one after the other."""


@dataclass(frozen=True)
class _Row:
    rate: float
    """Tasks a minute."""
    waiting: float
    """Share of the workers' time without a task."""
    peak: int
    """Bytes of the agent."""
    order: float
    """Median of the seconds of an empty order."""
    busy: float
    """Seconds of a worker for a task."""


@click.command()
@click.option("--tasks", default=8, show_default=True)
@click.option("--method", default="hvsa", show_default=True)
@click.option("--engine", type=click.Choice(["workers", "ray"]), default="workers")
@click.option("--size", default="144x192", show_default=True, help="At which the network works.")
def main(tasks: int, method: str, engine: str, size: str) -> None:
    # one thread a worker in both rows: else the first row has two threads that share tiny arrays,
    # wait for each other on a busy machine, and the second row only looks better
    os.environ["OMP_NUM_THREADS"] = "1"
    click.echo(
        "| workers | tasks a minute | a worker's time without a task | a task | an empty order | "
        "memory of the agent |\n| ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    rows = []
    for workers in (1, 2):
        row = _measured(tasks, {"method": method, "size": size}, engine, workers)
        rows.append(row)
        click.echo(
            f"| {workers} | {row.rate:.1f} | {row.waiting:.1%} | {row.busy:.2f} s | "
            f"{1000 * row.order:.1f} ms | {row.peak / 1e6:.0f} MB |"
        )
    times = rows[1].rate / rows[0].rate
    click.echo(f"\n{times:.2f} times as fast with two ({engine}, {os.cpu_count()} cores).")


def _measured(tasks: int, options: dict[str, str], engine: str, workers: int) -> _Row:
    with (
        StandIn() as cvat,
        tempfile.TemporaryDirectory() as scratch,
        _cluster(engine, workers) as address,
    ):
        team = Team(cvat, Path(scratch), tiny.write_checkpoint(Path(scratch) / "s.safetensors"))
        agent = team.agent()
        for number in range(tasks):
            task = team.task if number == 0 else team.add_task(f"clip {number}")
            enroll(agent, task, {**team.options, **options})
        peak = _ask_by_command(team, workers, address)
        with _pool(team, workers, address) as pool:
            _start(pool, agent, workers)
            order = _empty(pool, agent)
            team.answer()
            begun, before = time.perf_counter(), pool.load().busy_seconds
            for report in sync(replace(agent, compute=pool), to_the_end=True):
                if report.error is not None:
                    raise click.ClickException(report.error)
            seconds = time.perf_counter() - begun
            busy = pool.load().busy_seconds - before
    waiting = 1 - busy / (workers * seconds)
    return _Row(tasks / seconds * 60, waiting, peak, order, busy / tasks)


@contextmanager
def _cluster(engine: str, workers: int) -> Iterator[str | None]:
    """The address of a Ray cluster with so many cores; None for worker processes."""
    if engine == "workers":
        yield None
        return

    from tests.ray_nodes import started

    with started(workers) as nodes:
        yield nodes.address


@contextmanager
def _pool(team: Team, workers: int, address: str | None) -> Iterator[Pool]:
    if address is None:
        with WorkerPool(workers) as pool:
            yield pool
        return

    from hvsa_cvat.agent.ray_cluster import connected
    from hvsa_cvat.agent.ray_pool import RayPool

    options = ComputeSection(engine="ray", address=address)
    with connected(options, team.root / "workspace") as cluster, RayPool(cluster) as on_ray:
        yield on_ray


def _ask_by_command(team: Team, workers: int, address: str | None) -> int:
    """Ask people about all tasks, by the command; the most memory that its process took, bytes."""
    more = ["--workers", str(workers)]
    if address is not None:
        text = f'[compute]\nengine = "ray"\naddress = "{address}"\n'
        (team.root / "hvsa.toml").write_text(text)
        more = ["--config", str(team.root / "hvsa.toml")]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "hvsa_cvat", "sync"),
            *("--workspace", str(team.root / "workspace"), *more),
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


def _carry_out(pool: Pool, contact: Contact, order: Warm | Nothing) -> None:
    pool.begin(order, contact, HeldLease(), ExitStack())


def _start(pool: Pool, agent: AgentContext, workers: int) -> None:
    """Start all workers, each of which imports what computing needs."""
    for number in range(workers):
        _carry_out(pool, agent.contact(), Warm(-number))
    for number in range(workers):
        _end(pool, -number)


def _empty(pool: Pool, agent: AgentContext) -> float:
    """The median of the seconds of an order in which nothing is done."""
    seconds = []
    for _ in range(_EMPTY):
        begun = time.perf_counter()
        _carry_out(pool, agent.contact(), Nothing(-1))
        _end(pool, -1)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _end(pool: Pool, task: int) -> Computed:
    while (ended := pool.take(task)) is None:
        pool.wait(lambda: False)
    return ended.computed


if __name__ == "__main__":
    main()
