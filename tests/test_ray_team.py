"""A task of a Ray cluster with two GPUs trains in two processes, which talk by gloo here. Ray
counts GPUs that this machine does not have."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from hvsa_cvat.agent.compute import Computed, Contact
from hvsa_cvat.agent.ray_cluster import Cluster, connected
from hvsa_cvat.agent.ray_pool import RayPool
from hvsa_cvat.agent.settings import ComputeSection
from hvsa_cvat.agent.workspace import HeldLease
from hvsa_cvat.ports import silent
from tests.distributed_trainings import Training, assert_as_alone
from tests.ray_nodes import started

pytestmark = pytest.mark.cluster

LOST = "one of the processes that train together has ended"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two GPUs and two cores, all of which a task takes."""
    with started(2, gpus=2) as nodes:
        options = ComputeSection(
            engine="ray", address=nodes.address, gpus_per_task=2, cpus_per_task=2, retries=1
        )
        with connected(options, None) as found:
            yield found


@pytest.fixture
def pool(cluster: Cluster) -> Iterator[RayPool]:
    with RayPool(cluster) as workers:
        yield workers


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 290
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def carried_out(pool: RayPool, order: Training, lines: list[str]) -> Computed:
    contact = Contact(lines.append, silent, lambda: False, time.time)
    pool.begin(order, contact, HeldLease(), ExitStack())
    wait_for(lambda: pool.under_way(order.task) is None)
    ended = pool.take(order.task)
    assert ended is not None
    return ended.computed


def test_two_gpus_of_a_task_train_as_one_process_does(pool: RayPool, tmp_path: Path) -> None:
    lines: list[str] = []
    assert pool.places == 1
    assert carried_out(pool, Training("uneven", tmp_path), lines).error is None
    (line,) = lines
    assert re.fullmatch(r"leader \d+ of 2", line)
    assert_as_alone(tmp_path, "uneven")


def test_a_helper_that_dies_has_the_training_go_on(pool: RayPool, tmp_path: Path) -> None:
    lines: list[str] = []
    assert carried_out(pool, Training("deadly", tmp_path), lines).error is None
    told = [line for line in lines if "leader" not in line]
    assert told == [f"task 7: {LOST}; begun again (1 of 1 times)"]
    assert len({line for line in lines if "leader" in line}) == 2  # in a new process
    assert_as_alone(tmp_path, "deadly")


def test_a_helper_that_dies_again_and_again_is_one_line(pool: RayPool, tmp_path: Path) -> None:
    computed = carried_out(pool, Training("doomed", tmp_path), [])
    assert computed == Computed(
        error=f"{LOST}, 2 times; see the logs of its machine; the next pass retries"
    )
    assert not (tmp_path / "doomed.pt").exists()
    assert len(torch.load(tmp_path / "doomed-state.pt")["losses"]) == 2  # one each time
