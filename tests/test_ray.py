"""Computing on a Ray cluster, which the tests start on this machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from hvsa_cvat.agent.compute import Computed, Contact, Ended, UnderWay
from hvsa_cvat.agent.ray_cluster import Cluster, Node, Share, connected, refusal, versions_here
from hvsa_cvat.agent.ray_pool import RayPool
from hvsa_cvat.agent.settings import ComputeSection
from hvsa_cvat.agent.workspace import HeldLease
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.ports import silent
from tests.ray_nodes import started
from tests.standin import StandIn
from tests.story import ends_as_in_one_process
from tests.team import Team
from tests.worker_orders import Death, Gate, Refusal, Steps

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of one machine with two processor cores."""
    with started(2) as nodes:
        yield nodes.address


@pytest.fixture(scope="module")
def cluster(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    options = ComputeSection(engine="ray", address=address, retries=2)
    with connected(options, tmp_path_factory.mktemp("workspace")) as found:
        yield found


@pytest.fixture
def pool(cluster: Cluster) -> Iterator[RayPool]:
    with RayPool(cluster) as workers:
        yield workers


def contact(lines: list[str], stopping: Callable[[], bool] = lambda: False) -> Contact:
    return Contact(lines.append, silent, stopping, time.time)


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end_of(pool: RayPool, task: int) -> Ended:
    wait_for(lambda: pool.under_way(task) is None)
    ended = pool.take(task)
    assert ended is not None
    return ended


def gate(path: Path, task: int) -> Gate:
    os.mkfifo(path)
    return Gate(task, path)


def pid_in(lines: list[str]) -> int:
    wait_for(lambda: any("gate" in line for line in lines))
    return int(next(line for line in lines if "gate" in line).rpartition(" ")[2])


# -- orders


def test_two_cores_compute_two_tasks_and_tell_what_they_do(pool: RayPool, tmp_path: Path) -> None:
    lines: list[str] = []
    gates = [gate(tmp_path / str(task), task) for task in (1, 2, 3, 4)]
    assert pool.places == 2
    for one in gates:
        assert pool.has_room()
        assert pool.begin(one, contact(lines), HeldLease(), ExitStack()) is None
    assert not pool.has_room()
    wait_for(lambda: len(lines) == 2)
    load = pool.load()
    assert (load.places, load.running, load.waiting) == (2, 2, 2)
    assert len(set(lines)) == 2  # two processes
    assert pool.under_way(1) == UnderWay("a task", "round 9: finetune", None)
    for one in gates:  # in any order, and each returns when its order is carried out
        threading.Thread(target=one.pipe.write_text, args=("done",), daemon=True).start()
    for task in (1, 2, 3, 4):
        assert end_of(pool, task).computed == Computed(("done",))
    assert len(lines) == 4
    assert pool.load().running == pool.load().waiting == 0
    assert pool.load().busy_seconds > 0


def test_errors_come_back(pool: RayPool) -> None:
    with pytest.raises(ConfigError, match=r"^no such device; choose cpu$"):
        pool.ask(Refusal(), contact([]))
    with pytest.raises(RuntimeError, match="Peculiar: one and two") as found:
        pool.ask(Refusal(foreign=True), contact([]))
    assert "worker_orders.py" in found.value.__notes__[0]


def test_a_worker_that_dies_is_replaced_a_bounded_number_of_times(pool: RayPool) -> None:
    lines: list[str] = []
    pool.begin(Death(2), contact(lines), HeldLease(), ExitStack())
    assert end_of(pool, 2).computed == Computed(
        error="the worker died, 3 times; see the logs of its machine; the next pass retries"
    )
    assert lines == [f"task 2: the worker died; begun again ({n} of 2 times)" for n in (1, 2)]


def test_a_lost_lease_ends_the_worker(pool: RayPool, tmp_path: Path) -> None:
    lines: list[str] = []
    lease, ended = HeldLease(), []
    with ExitStack() as hold:
        hold.callback(lambda: ended.append("lease"))
        pool.begin(gate(tmp_path / "pipe", 1), contact(lines), lease, hold)
    assert ended == []
    worker = pid_in(lines)
    lease.lose()
    found = end_of(pool, 1)
    assert found.computed == Computed()
    assert found.lease.lost
    wait_for(lambda: not Path(f"/proc/{worker}").exists())
    found.hold.close()
    assert ended == ["lease"]


def test_a_stop_ends_after_the_current_step_and_begins_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    lines: list[str] = []
    ended: list[str] = []
    with RayPool(cluster) as pool:
        for task in (1, 2):
            with ExitStack() as hold:
                hold.callback(lambda: ended.append("lease"))
                pool.begin(Steps(task), contact(lines), HeldLease(), hold)
        wait_for(lambda: pool.load().running == 2)
        wait_for(lambda: lines)
        pool.begin(gate(tmp_path / "pipe", 3), contact(lines), HeldLease(), ExitStack())
    assert ended == ["lease", "lease"]
    assert not any("gate" in line for line in lines)
    assert ray.is_initialized()  # it was connected before


def test_masks_are_those_of_one_process(cluster: Cluster, tmp_path: Path, checkpoint: Path) -> None:
    with StandIn() as cvat, RayPool(cluster) as pool:
        ends_as_in_one_process(Team(cvat, tmp_path, checkpoint), pool)


# -- what is checked before anything moves


def test_versions_that_differ_are_one_line(cluster: Cluster, tmp_path: Path) -> None:
    mine = replace(versions_here(), hvsa_cvat="99.0")
    with (
        pytest.raises(ConfigError, match=r"hvsa-cvat .*, the agent has .*99\.0; install the same"),
        connected(ComputeSection(engine="ray", address=cluster.address), tmp_path, mine=mine),
    ):
        raise AssertionError
    text = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.12.1\n"
        "This process on Ray Client was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    assert refusal("ray://head:10001", RuntimeError(text)) == (
        "the Ray cluster at ray://head:10001 runs Ray 2.50.0 with Python 3.12.1, the agent Ray "
        "2.60.0 with Python 3.11.7; install the same versions of both on all machines"
    )


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"gpus_per_task": 1},
            r"has 1 GPUs and 1 CPUs for a task \(it has .*: 2 CPUs, 0 GPUs\);",
        ),
        ({"gpus_per_task": 4}, r"has 4 GPUs and 1 CPUs for a task .*lower \[compute\] gpus_per"),
        ({"cpus_per_task": 8}, r"has 8 CPUs for a task .*: 2 CPUs, 0 GPUs.*cpus_per_task$"),
    ],
)
def test_a_cluster_without_what_a_task_takes_is_one_line(
    cluster: Cluster, tmp_path: Path, asked: dict[str, float], told: str
) -> None:
    options = ComputeSection(engine="ray", address=cluster.address, **asked)
    with pytest.raises(ConfigError, match=told), connected(options, tmp_path):
        raise AssertionError


def test_a_folder_that_the_nodes_do_not_see_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    mine = Path(f"/proc/self/fd/{descriptor}")  # another process has another one, or none
    options = ComputeSection(engine="ray", address=cluster.address)
    try:
        with (
            pytest.raises(ConfigError, match=r"cannot write in .*; mount the folder there"),
            connected(options, mine),
        ):
            raise AssertionError
    finally:
        os.close(descriptor)
    assert list(tmp_path.iterdir()) == []
    with connected(options, None) as found:  # the files go another way
        assert found.places() == 2


def test_places() -> None:
    node = Node("id", "a machine", cpus=16, gpus=2)
    assert Share(1, 0).places(node) == 16
    assert Share(4, 1).places(node) == 2
    assert Share(4, 0.5).places(node) == 4
    assert Share(16, 0.5).places(node) == 1
    assert Share(0.5, 0).places(node) == 32
    assert Share(32, 0).places(node) == 0


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:9", r"no Ray cluster answers at 127\.0\.0\.1:9 \(3 calls: .*refused\)"),
        ("ray://localhost:9", r"no Ray cluster answers at ray://localhost:9"),
        ("head", r"address = 'head' is no address of a Ray cluster"),
    ],
)
def test_a_head_that_does_not_answer_is_one_line(tmp_path: Path, address: str, told: str) -> None:
    pauses: list[float] = []
    ray.shutdown()  # the last tests, because they need no cluster
    with (
        pytest.raises(ConfigError, match=told),
        connected(ComputeSection(engine="ray", address=address), tmp_path, sleep=pauses.append),
    ):
        raise AssertionError
    assert sum(pauses) < 30
