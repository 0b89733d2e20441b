"""A task of a Ray cluster that has several GPUs of a machine: one process for each trains.

The worker of the task leads. For each training it starts an actor for every other GPU, on its own
machine, where arrays in files are mapped and not sent. Ray ends them with the worker. Where one of
them is lost, so is the training: the agent begins the order again, which goes on after the last
whole epoch.
"""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hvsa_cvat.errors import HvsaError, ProcessLostError
from hvsa_cvat.segmentation.distributed import (
    Team,
    backend,
    check_devices,
    losing_a_process,
    pack,
)
from hvsa_cvat.threads import limit_processors

_START = 300.0
"""Seconds for which helpers may take to start: they import PyTorch."""
_TICK = 0.5
"""Seconds after which the leader looks again whether it has lost a helper."""
_GRACE = 30.0
"""Seconds after which a leader without its helpers ends: a GPU may wait for theirs for ever."""
_PATIENCE = 10.0
"""Seconds for which helpers may take to end after a training."""


class Helper:
    """An actor that takes part in one training."""

    def ready(self) -> None:
        """Return when the process can begin."""
        import hvsa_cvat.segmentation.finetune  # noqa: F401

    def take_part(self, packed: bytes, port: int, team: Team, processors: int) -> bytes:
        """Train; a pickled `HvsaError`, or None where all went well."""
        from hvsa_cvat.segmentation.finetune import take_part

        limit_processors(processors)
        torch.set_num_threads(processors)
        try:
            with losing_a_process():
                _join(_store(port, team), team)
                take_part(pickle.loads(packed), team)
                dist.destroy_process_group()
        except HvsaError as error:
            return pickle.dumps(error)
        return pickle.dumps(None)


@dataclass(frozen=True)
class RayLeader:
    """What the worker of a task trains with."""

    size: int
    """Processes, this one included."""
    processors: int
    """Cores of the task."""

    @contextmanager
    def training(self, given: object, device: torch.device) -> Iterator[Team]:
        """Start the training in helpers, and end them after it. After a `ProcessLostError` this
        process must end, too."""
        check_devices(self.size, device, "set [compute] gpus_per_task = {}")
        team = Team(0, self.size)
        store = _store(0, team)
        helpers = [_start() for _ in range(1, self.size)]
        work: list[Any] = []
        try:
            ray.get([one.ready.remote() for one in helpers], timeout=_START)
            packed = ray.put(pack(given))
            each = max(1, self.processors // self.size)
            for rank, one in enumerate(helpers, 1):
                its = Team(rank, self.size)
                work.append(one.take_part.remote(packed, store.port, its, each))
            with _watched(work, helpers), losing_a_process():
                _join(store, team)
                yield team
            ray.wait(work, num_returns=len(work), timeout=_PATIENCE)
            dist.destroy_process_group()
        except ProcessLostError as error:
            raise _cause(work, error) from error
        except RayError as error:
            raise ProcessLostError(
                f"a process that trains with others did not start: {type(error).__name__}"
            ) from error
        finally:
            for one in helpers:
                ray.kill(one)


def _store(port: int, team: Team) -> Any:
    """Over which the processes of this machine find each other; that of the leader, at any port, or
    the one at its port."""
    leads = team.rank == 0
    found: Any = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", port, team.size, is_master=leads, wait_for_workers=False
    )
    return found


def _join(store: Any, team: Team) -> None:
    if team.rank < torch.cuda.device_count():
        torch.cuda.set_device(team.rank)
    dist.init_process_group(backend(), store=store, rank=team.rank, world_size=team.size)


def _start() -> Any:
    """A helper on this machine, which sees the GPUs that Ray has given to this process. The task
    has taken the helper's share of the machine already."""
    seen = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
    if devices := os.environ.get("CUDA_VISIBLE_DEVICES"):
        seen["CUDA_VISIBLE_DEVICES"] = devices
    here = ray.get_runtime_context().get_node_id()
    actor: Any = ray.remote(Helper)
    return actor.options(
        num_cpus=0,
        max_restarts=0,
        runtime_env={"env_vars": seen},
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
    ).remote()


@contextmanager
def _watched(work: Sequence[Any], helpers: Sequence[Any]) -> Iterator[None]:
    """Where a helper fails, end all. Then gloo fails in this process; NCCL may not, which is why
    the process ends a while later."""
    over = threading.Event()

    def watch() -> None:
        waiting = list(work)
        while waiting and not over.is_set():
            ended, waiting = ray.wait(waiting, timeout=_TICK)
            failures = [found for one in ended if (found := _failure(one)) is not None]
            if failures:
                traceback.print_exception(failures[0])  # Ray keeps it in the worker's log
                for one in helpers:
                    ray.kill(one)
                if not over.wait(_GRACE):
                    os._exit(1)
                return

    watcher = threading.Thread(target=watch, name="helpers", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _failure(work: Any) -> Exception | None:
    """What ended a helper whose work is over."""
    try:
        found: Exception | None = pickle.loads(ray.get(work))
    except RayError as error:
        return error
    return found


def _cause(work: list[Any], lost: ProcessLostError) -> HvsaError:
    """Why this process has lost the others, as far as one of them could tell."""
    with suppress(RayError):
        for one in ray.wait(work, num_returns=len(work), timeout=_PATIENCE)[0] if work else ():
            found = _failure(one)
            if isinstance(found, HvsaError) and not isinstance(found, ProcessLostError):
                return found
    return lost
