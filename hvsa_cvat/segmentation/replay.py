"""The network's pass of a training step as a CUDA graph.

An HRNet has thousands of small kernels a step, and a GPU waits for each of them to be started: on
an H200 it waited for 69 % of a step of W48. A graph is recorded once and started as one.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from hvsa_cvat.segmentation.device import autocast, computes_in_bfloat16
from hvsa_cvat.types import Size

_FEWEST_STEPS = 20
"""Recording takes about as long as this many steps gain."""

_SPARE_MEMORY = 2.0
"""A graph keeps its tensors. It is recorded where this multiple of what a step takes is free."""

_log = logging.getLogger(__name__)

Pass = Callable[[Tensor], Tensor]
"""From uint8 (B, 3, h, w) images to logits."""


class _Autocast(nn.Module):
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
    """Computes logits as `network` does in training; batches of the recorded shape by a graph,
    others kernel by kernel."""

    def __init__(self, network: nn.Module, shape: torch.Size, recorded: Pass) -> None:
        self._network = network
        self._shape = shape
        self._recorded: Pass | None = recorded

    def __call__(self, images: Tensor) -> Tensor:
        if self._recorded is not None and images.shape == self._shape:
            return self._recorded(images)
        with autocast(images.device):
            logits: Tensor = self._network(images)
        return logits

    def release(self) -> None:
        """Give the graph's memory back; from now on all batches run kernel by kernel."""
        self._recorded = None
        gc.collect()  # its tensors lie in cycles of references
        torch.cuda.empty_cache()


@contextmanager
def for_training(
    network: nn.Module, device: torch.device, images: int, size: Size, steps: int
) -> Iterator[Pass]:
    """What computes the logits in a training of `steps` steps of `images` images of `size`: on a
    GPU a graph, where one can be recorded, else `network`.

    Enter it before the first step, and let no other thread copy to the GPU meanwhile: a recording
    fails while the autograd graph of another step is alive, and while another thread waits for the
    GPU. Weights, gradients and the statistics of batch norm stay as they are.
    """
    if device.type != "cuda" or steps < _FEWEST_STEPS:
        yield network
        return
    replayed = _recorded(network, device, images, size)
    if replayed is None:
        yield network
        return
    try:
        yield replayed
    finally:
        replayed.release()


def _recorded(
    network: nn.Module, device: torch.device, images: int, size: Size
) -> ReplayedNetwork | None:
    example = torch.zeros((images, 3, *size), dtype=torch.uint8, device=device)
    example = example.to(memory_format=torch.channels_last)
    # passes that only warm up must not count in the running statistics of batch norm
    kept = {name: one.clone() for name, one in network.named_buffers()}
    mode = network.training
    network.train()
    try:
        if not _fits(network, example):
            _log.info("no CUDA graph: a graph of %d images of %dx%d does not fit", images, *size)
            return None
        return ReplayedNetwork(network, example.shape, _record(network, example))
    except RuntimeError as error:  # CUDA's and PyTorch's errors, memory that runs out among them
        _log.warning("no CUDA graph, so each step takes longer: %s", str(error).splitlines()[0])
        return None
    finally:
        network.train(mode)
        network.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, one in network.named_buffers():
                one.copy_(kept[name])


def _fits(network: nn.Module, example: Tensor) -> bool:
    """Whether the memory is enough for a step and a graph of it, after a look at one step."""
    before = torch.cuda.memory_allocated(example.device)
    logits = _Autocast(network, example.device)(example)
    logits.float().sum().backward()
    taken = torch.cuda.max_memory_allocated(example.device) - before
    del logits
    network.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(example.device)
    return free > _SPARE_MEMORY * taken


def _record(network: nn.Module, example: Tensor) -> Pass:
    # the recorded pass keeps its places for gradients alive, and PyTorch warns of their stream
    quiet = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if quiet is not None:
        quiet(False)
    with torch.autocast("cuda", enabled=False, cache_enabled=False):
        made = torch.cuda.make_graphed_callables(
            _Autocast(network, example.device), (example,), allow_unused_input=True
        )
    return cast(Pass, made)
