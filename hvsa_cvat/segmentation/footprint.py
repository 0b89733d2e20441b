"""Counts the memory of a network's tensors before the network runs.

The network runs on PyTorch's meta device, where tensors have a size but no content. So nothing is
computed, and every tensor is counted from its creation until it is freed.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hvsa_cvat.segmentation.losses import consistency_loss, labeled_cross_entropy
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.types import Size

_SIDE = 256
"""The side of the square image that is used for counting, in pixels. Nearly all memory grows with
the number of pixels; the gradients of the weights do not, but they are small in comparison."""

_STRIDE = 32
"""Sides are rounded up to a multiple of this before they are counted."""


@dataclass(frozen=True)
class Footprint:
    """The memory of one network, in bytes."""

    weights: int
    """Parameters and buffers, float32."""
    features: int
    """The channels of its feature map."""
    pair: float
    """The most bytes per pixel and pair of frames in a training step, without the gradients of the
    weights."""
    image: float
    """The most bytes per pixel and image in prediction."""


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made inside this context.

    `peak` is the largest number of bytes at the same time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._now = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:  # the tensor is a view, or was written in place
            return

        def gone(_: object) -> None:
            self._now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self._now += size
        self.peak = max(self.peak, self._now)


@dataclass(frozen=True)
class Step:
    """The settings of a training step that change which tensors exist."""

    consistent: bool
    """Whether the loss of temporal consistency is used."""
    weighted: bool
    """Whether targets have weights."""
    frozen: bool = False
    """Whether the head alone learns, on features that are known."""


@lru_cache
def footprint(name: str, classes: int, step: Step | None, half: bool) -> Footprint:
    """The memory of the network `name`. `step` is None if the network is not trained.

    With `half` the network's own tensors are bfloat16, as under autocast. The tensors after its
    logits are float32.
    """
    with torch.device("meta"):
        network = SegmentationNetwork(name, classes)
        weights = sum(value.nbytes for value in network.state_dict().values())
        network.to(torch.bfloat16 if half else torch.float32)
        pair = 0.0 if step is None else _pair(network.train(), step)
        image = _image(network.eval())
    return Footprint(weights, network.feature_channels, pair, image)


def counted_pixels(size: Size) -> int:
    """The number of pixels of an image, with its sides rounded up as `Footprint` needs it."""
    height, width = (-(-side // _STRIDE) * _STRIDE for side in size)
    return height * width


def _pair(network: SegmentationNetwork, step: Step) -> float:
    """The bytes per pixel of a step of `finetune` on one pair, with labels in both frames."""
    images = torch.zeros(2, 3, _SIDE, _SIDE, dtype=torch.uint8)
    if step.frozen:
        with torch.no_grad():
            shapes = [one.shape for one in network.branches(images)]
    with LiveTensors() as live:
        images = torch.zeros_like(images)
        branches = [torch.zeros(shape) for shape in shapes] if step.frozen else None
        targets = torch.zeros(2, _SIDE, _SIDE, dtype=torch.int64)
        flow, valid = torch.zeros(1, 2, _SIDE, _SIDE), torch.zeros(1, _SIDE, _SIDE)
        weights = torch.zeros(2, _SIDE, _SIDE) if step.weighted else None
        taught = torch.arange(2)
        logits = network.logits_at(network(images, branches), (_SIDE, _SIDE))
        value = labeled_cross_entropy(
            logits[taught], targets[taught], None if weights is None else weights[taught]
        )
        if step.consistent:
            probs = logits.softmax(dim=1)
            value = value + consistency_loss(probs[:1], probs[1:], flow, valid > 0)
        value.backward()  # type: ignore[no-untyped-call]
    return float(live.peak) / _SIDE**2


def _image(network: SegmentationNetwork) -> float:
    with torch.inference_mode(), LiveTensors() as live:
        features = network.features(torch.zeros(1, 3, _SIDE, _SIDE, dtype=torch.uint8))
        network.last_layer(features).float()
        features.float()
    return float(live.peak) / _SIDE**2
