"""The network's pass of a training step as a CUDA graph.

An HRNet has thousands of small kernels a step, and a GPU waits for each of them to be started: on
an H200 it waited for 69 % of a step of W48. A graph is recorded once and started as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from hvsa_cvat.segmentation.device import autocast, computes_in_bfloat16

_FEWEST_STEPS = 20
"""Recording takes about as long as this many steps gain."""

_SPARE_MEMORY = 2.0
"""A graph keeps its tensors. It is recorded where this multiple of what the first step took is
free."""


class _Pass(nn.Module):
    """The network under autocast; recording changes this module and leaves the network as it is."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self._device = device

    def forward(self, images: Tensor) -> Tensor:
        # the cache would outlive the recording, with weights that the optimizer changes
        kind = torch.bfloat16 if computes_in_bfloat16(self._device) else None
        with torch.autocast("cuda", dtype=kind, enabled=kind is not None, cache_enabled=False):
            logits: Tensor = self.network(images)
        return logits


class ReplayedNetwork:
    """Computes logits as `network` does in training; batches of the first one's shape by a graph.

    The first batch runs kernel by kernel and shows how much memory a step takes. The second one is
    recorded, if the memory allows it. Batches of another shape run kernel by kernel.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network = network
        self._device = device
        self._shape: torch.Size | None = None
        self._recorded: Callable[[Tensor], Tensor] | None = None
        self._may_record = True

    @property
    def recorded(self) -> bool:
        return self._recorded is not None

    def __call__(self, images: Tensor) -> Tensor:
        if self._shape is None:
            self._shape = images.shape
        elif self._may_record and images.shape == self._shape:
            self._may_record = False
            free, _ = torch.cuda.mem_get_info(self._device)
            free += torch.cuda.memory_reserved(self._device)
            free -= torch.cuda.memory_allocated(self._device)
            if free > _SPARE_MEMORY * torch.cuda.max_memory_allocated(self._device):
                self._recorded = self._record(images)
        if self._recorded is not None and images.shape == self._shape:
            return self._recorded(images)
        with autocast(self._device):
            logits: Tensor = self._network(images)
        return logits

    def _record(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        # passes that only warm up must not count in the running statistics of batch norm
        kept = {name: one.clone() for name, one in self._network.named_buffers()}
        with torch.autocast("cuda", enabled=False, cache_enabled=False):
            made = torch.cuda.make_graphed_callables(
                _Pass(self._network, self._device), (images.clone(),), allow_unused_input=True
            )
        with torch.no_grad():
            for name, one in self._network.named_buffers():
                one.copy_(kept[name])
        return cast(Callable[[Tensor], Tensor], made)


def for_training(
    network: nn.Module, device: torch.device, steps: int
) -> Callable[[Tensor], Tensor]:
    """What computes the logits in a training of `steps` steps: a graph on a GPU, else `network`."""
    if device.type != "cuda" or steps < _FEWEST_STEPS:
        return network
    return ReplayedNetwork(network, device)


@contextmanager
def searched_kernels(device: torch.device) -> Iterator[None]:
    """On a GPU, cuDNN tries its kernels at the first batch of a shape and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
