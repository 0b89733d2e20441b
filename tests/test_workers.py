"""Workers: what is computed in them, and what becomes of it when they, or the agent, are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from hvsa_cvat.agent.compute import Computed, Contact, Ended, UnderWay
from hvsa_cvat.agent.settings import SECRETS
from hvsa_cvat.agent.worker import Worker
from hvsa_cvat.agent.workers import WorkerPool
from hvsa_cvat.agent.workspace import HeldLease
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.ports import silent
from tests.worker_orders import Death, Gate, Refusal, Steps, Surroundings


def contact(lines: list[str], stopping: Callable[[], bool] = lambda: False) -> Contact:
    return Contact(lines.append, silent, stopping, time.time)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Each test leaves it with nothing to do; to start a worker takes seconds."""
    with WorkerPool(1) as workers:
        yield workers


def gate(path: Path, task: int) -> Gate:
    os.mkfifo(path)
    return Gate(task, path)


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end_of(pool: WorkerPool, task: int) -> Ended:
    wait_for(lambda: pool.under_way(task) is None)
    ended = pool.take(task)
    assert ended is not None
    return ended


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pid_in(lines: list[str]) -> int:
    wait_for(lambda: any("gate" in line for line in lines))
    return int(next(line for line in lines if "gate" in line).rpartition(" ")[2])


def test_a_worker_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("HVSA_TOLD", "no secret")
    with WorkerPool(1) as pool:
        found = pool.ask(Surroundings(), contact([]))
    assert found["HVSA_TOLD"] == "no secret"
    assert not SECRETS & set(found)
    assert "a secret" not in found.values()


def test_errors_come_back(pool: WorkerPool) -> None:
    with pytest.raises(ConfigError, match=r"^no such device; choose cpu$"):
        pool.ask(Refusal(), contact([]))
    with pytest.raises(RuntimeError, match="Peculiar: one and two") as found:
        pool.ask(Refusal(foreign=True), contact([]))
    assert "worker_orders.py" in found.value.__notes__[0]


def test_a_killed_worker_is_told_and_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    lines: list[str] = []
    woken: list[None] = []
    with WorkerPool(2, lambda: woken.append(None)) as pool:
        held = gate(tmp_path / "pipe", 1)
        assert pool.begin(held, contact(lines), HeldLease(), ExitStack()) is None
        first = pid_in(lines)
        assert pool.begin(Death(2), contact(lines), HeldLease(), ExitStack()) is None
        ended = end_of(pool, 2)
        assert ended.computed.moved == ()
        assert "was killed" in str(ended.computed.error)
        assert runs(first)
        assert pool.under_way(1) == UnderWay("a task", "round 9: finetune", None)
        assert pool.take(1) is None
        again = gate(tmp_path / "again", 2)
        pool.begin(again, contact(lines), HeldLease(), ExitStack())
        assert pool.under_way(2) == UnderWay("a task", "round 9: finetune", ended.computed.error)
        again.pipe.write_text("done")
        assert end_of(pool, 2).computed == Computed(("done",))
        held.pipe.write_text("held")
        assert end_of(pool, 1).computed == Computed(("held",))
        assert len(woken) == 3
    assert not runs(first)


def test_a_lost_lease_ends_the_worker(pool: WorkerPool, tmp_path: Path) -> None:
    lines: list[str] = []
    lease, ended = HeldLease(), []
    with ExitStack() as hold:
        hold.callback(lambda: ended.append("lease"))
        pool.begin(gate(tmp_path / "pipe", 1), contact(lines), lease, hold)
    assert ended == []  # the pool has taken the lease over
    worker = pid_in(lines)
    lease.lose()
    found = end_of(pool, 1)
    assert found.computed == Computed()
    assert found.lease.lost
    assert not runs(worker)
    found.hold.close()
    assert ended == ["lease"]


def test_a_stop_ends_after_the_current_step(tmp_path: Path) -> None:
    lines: list[str] = []
    ended: list[str] = []
    with WorkerPool(1) as pool, ExitStack() as hold:
        hold.callback(lambda: ended.append("lease"))
        pool.begin(Steps(), contact(lines), HeldLease(), hold)
        wait_for(lambda: "a step" in lines)
        later = gate(tmp_path / "pipe", 2)
        pool.begin(later, contact(lines), HeldLease(), ExitStack())
    assert ended == ["lease"]
    assert not any("gate" in line for line in lines)  # what was not begun is not begun any more


def test_orders_wait_in_line(pool: WorkerPool, tmp_path: Path) -> None:
    lines: list[str] = []
    gates = [gate(tmp_path / str(task), task) for task in (1, 2)]
    for one in gates:
        assert pool.has_room()
        pool.begin(one, contact(lines), HeldLease(), ExitStack())
    assert not pool.has_room()
    gates[0].pipe.write_text("one")
    assert end_of(pool, 1).computed.moved == ("one",)
    assert pool.has_room()
    assert pool.under_way(2) is not None
    gates[1].pipe.write_text("two")
    assert end_of(pool, 2).computed.moved == ("two",)


_AGENT = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from hvsa_cvat.agent.compute import Contact
from hvsa_cvat.agent.workers import WorkerPool
from hvsa_cvat.agent.workspace import HeldLease
from tests.worker_orders import Gate

def log(line):
    print(line, flush=True)

pool = WorkerPool(1)
contact = Contact(log, lambda *step: None, lambda: False, time.time)
pool.begin(Gate(1, Path(sys.argv[1])), contact, HeldLease(), ExitStack())
time.sleep(600)
"""


def test_a_worker_ends_with_its_agent(tmp_path: Path) -> None:
    pipe = gate(tmp_path / "pipe", 1).pipe
    command = [sys.executable, "-c", _AGENT, str(pipe)]
    root = str(Path(__file__).parents[1])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    ) as agent:
        assert agent.stdout is not None
        worker = int(agent.stdout.readline().rpartition(" ")[2])
        assert runs(worker)
        agent.send_signal(signal.SIGKILL)
    wait_for(lambda: not runs(worker))


def test_a_worker_leaves_it_to_the_agent_when_to_stop(tmp_path: Path) -> None:
    """A terminal and a service manager signal all processes of the agent."""
    lines: list[str] = []
    worker, held = Worker(), gate(tmp_path / "pipe", 1)

    def log(line: str) -> None:
        lines.append(line)
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
        held.pipe.write_text("done")

    assert worker.carry_out(held, replace(contact(lines), log=log)) == Computed(("done",))
    assert runs(worker.pid)
    worker.close()
    assert not runs(worker.pid)
