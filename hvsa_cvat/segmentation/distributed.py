"""Fine-tuning on several devices of one machine, with a process for each.

The first process, the leader, runs the program. The others, the helpers, only take part in its
trainings and compute a share of the pairs of every step. They write no file, call no server and
print nothing. `torchrun` starts them beside the leader, and they wait for its trainings; on a Ray
cluster the leader starts them for each training (`agent/ray_team.py`).
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hvsa_cvat.errors import ConfigError, ProcessLostError, SessionError

T = TypeVar("T")

_PATIENCE = timedelta(days=365)
"""How long helpers wait for the next training. People annotate in between."""

# every process computes the same statistics of batch norm, so they need not be sent
_OPTIONS: dict[str, Any] = {
    "gradient_as_bucket_view": True,
    # the option has another name since PyTorch 2.14
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False,
}


@dataclass(frozen=True)
class Team:
    """The processes that train together, seen from one of them. One alone is a team, too."""

    rank: int = 0
    """0 is the leader, who writes."""
    size: int = 1

    def share(self, pairs: Sequence[T]) -> Sequence[T]:
        """The pairs of a step that this process computes. They may be none."""
        return pairs[self.rank :: self.size]

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value

    @contextmanager
    def parallel(self, network: nn.Module) -> Iterator[nn.Module]:
        """A module that runs `network` on this process's share of the batch.

        Gradients are averaged over all processes, batch norm uses the statistics of the whole
        batch, and all processes start from the leader's weights.
        """
        norms = [module for module in network.modules() if type(module) is nn.BatchNorm2d]
        on_cuda = next(network.parameters()).is_cuda
        synced: Any = _SyncedNormOnCuda if on_cuda else _SyncedNorm
        for norm in norms:
            norm.__class__ = synced
        try:
            yield DistributedDataParallel(network, **_OPTIONS)
        finally:
            for norm in norms:
                norm.__class__ = nn.BatchNorm2d


ALONE = Team()


class Leader(Protocol):
    """How the process that runs the program gets others to take part in its trainings."""

    @property
    def size(self) -> int:
        """How many train together, this process included."""

    def training(self, given: object, device: torch.device) -> AbstractContextManager[Team]:
        """Start the training that is `given` in the others; train inside this context."""


_leader: Leader | None = None


def current_leader() -> Leader | None:
    """By what this process trains together with others; None where it trains alone."""
    return _leader


def team_size() -> int:
    """How many processes train together."""
    return 1 if _leader is None else _leader.size


@contextmanager
def led_by(leader: Leader) -> Iterator[None]:
    """Trainings inside this context are those of all processes of `leader`."""
    global _leader
    _leader = leader
    try:
        yield
    finally:
        _leader = None


def check_devices(size: int, device: torch.device, fix: str) -> None:
    """`ConfigError` where fewer GPUs than processes are seen; `fix` takes their number."""
    seen = torch.cuda.device_count()
    if device.type == "cuda" and size > seen:
        raise ConfigError(f"{size} processes, but this machine has {seen} GPUs; {fix.format(seen)}")


class Torchrun:
    """The processes that torchrun has started, seen from one of them."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self._waiting: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._training = False

    @property
    def size(self) -> int:
        return self.team.size

    @contextmanager
    def training(self, given: object, device: torch.device) -> Iterator[Team]:
        """Start `given` in the helpers too; the leader trains inside this context."""
        check_devices(self.size, device, "start torchrun with --nproc-per-node {}")
        if self._training:
            raise SessionError(
                "an earlier training on several devices failed, so the processes no longer wait "
                "for the same step; start the program again, and the training goes on"
            )
        self._training = True
        with losing_a_process():
            self._send(given)
            yield self.team
        self._training = False

    def trainings(self) -> Iterator[Any]:
        """The trainings that the leader sends to this helper, until it sends no more."""
        self._training = True
        while (training := self._receive()) is not None:
            yield training
        self._training = False

    def part(self) -> None:
        """Leave the team. After a failed training this does nothing: the process must end."""
        if self._training:
            return
        if self.team.rank == 0:
            with suppress(RuntimeError):  # a helper may have ended already
                self._send(None)
        dist.destroy_process_group()

    def _send(self, message: object) -> None:
        dist.broadcast_object_list([pack(message)], src=0, group=self._waiting)

    def _receive(self) -> Any:
        packed = [b""]
        dist.broadcast_object_list(packed, src=0, group=self._waiting)
        return pickle.loads(packed[0])


class _Total(torch.autograd.Function):
    """The sum over all processes. Losses are summed too, and so gradients are as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class _SyncedNormOnCuda(nn.SyncBatchNorm):
    # all processes; a BatchNorm2d whose class is set to this one has no such attribute
    process_group = None


class _SyncedNorm(nn.BatchNorm2d):
    """Does on a CPU what `nn.SyncBatchNorm` does on a GPU only."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        x = values.float()
        here = x.new_tensor([x.numel() // self.num_features])
        sums: Tensor = _Total.apply(torch.cat([x.sum(dim=(0, 2, 3)), here]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        x = x - mean[:, None, None]
        squares: Tensor = _Total.apply(x.square().sum(dim=(0, 2, 3)))
        variance = squares / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        x = x * scale[:, None, None] + self.bias[:, None, None]
        return x.to(values.dtype)


def pack(message: object) -> bytes:
    """The message, pickled. For an array in a file it holds the file's name, not the content."""
    packed = io.BytesIO()
    _Pickler(packed).dump(message)
    return packed.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        # a slice of such an array is pickled with its content
        mapped = isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap)
        if not mapped or not value.flags.c_contiguous:
            return NotImplemented
        return np.memmap, (value.filename, value.dtype, "r", value.offset, value.shape)


def backend() -> str:
    """By what the processes speak."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


@contextmanager
def joined() -> Iterator[Torchrun]:
    """Join all processes that torchrun has started. All of them must call this."""
    rank, size, local = (int(os.environ[n]) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if int(os.environ["LOCAL_WORLD_SIZE"]) != size:
        raise ConfigError("all processes must run on one machine; start torchrun on one only")
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    dist.init_process_group(backend())
    processes = Torchrun(Team(rank, size))
    try:
        with led_by(processes):
            yield processes
    finally:
        processes.part()


@contextmanager
def losing_a_process() -> Iterator[None]:
    """Turn what PyTorch raises when another process has ended into a `ProcessLostError`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise ProcessLostError(
                "one of the processes that train together has ended; start the program again, "
                "and the training goes on"
            ) from error
        raise
