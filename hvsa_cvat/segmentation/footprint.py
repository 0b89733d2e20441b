"""What a network's tensors take in memory, counted before it runs.

The network runs on PyTorch's meta device, where tensors have sizes and no content: nothing is
computed, and every tensor that would live is counted from its making to its end.
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

from hvsa_cvat.segmentation.hrnet import SegmentationNetwork
from hvsa_cvat.segmentation.losses import labeled_cross_entropy, temporal_consistency
from hvsa_cvat.types import Size

_SIDE = 256
"""Pixels of the square image on which is counted: what tensors take grows with the pixels, and the
gradients of weights, which do not, are little beside it."""

_STRIDE = 32
"""Sides that are no multiple of it are counted as the next one."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one network, for any size of image."""

    weights: int
    """Parameters and buffers, float32."""
    features: int
    """Channels of its feature map."""
    pair: float
    """At most held a pixel and pair of frames in a training step, the gradients of the weights left
    out."""
    image: float
    """At most held a pixel and image in prediction."""


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made while it is on; `peak` is the most at once."""

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
        if key in self._known:  # a view, or written in place
            return

        def gone(_: object) -> None:
            self._now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self._now += size
        self.peak = max(self.peak, self._now)


@dataclass(frozen=True)
class Step:
    """What of a training step decides which tensors there are."""

    consistent: bool
    """Whether there is a loss of temporal consistency."""
    weighted: bool
    """Whether targets have weights."""


@lru_cache
def footprint(name: str, classes: int, step: Step | None, half: bool) -> Footprint:
    """Of the network `name`, which trains by `step`, if at all. `half`: the network's own tensors
    are bfloat16, as under autocast; what comes after its logits is float32."""
    with torch.device("meta"):
        network = SegmentationNetwork(name, classes)
        weights = sum(value.nbytes for value in network.state_dict().values())
        network.to(torch.bfloat16 if half else torch.float32)
        pair = 0.0 if step is None else _pair(network.train(), step)
        image = _image(network.eval())
    return Footprint(weights, network.feature_channels, pair, image)


def counted_pixels(size: Size) -> int:
    """Pixels of an image as `Footprint` counts them."""
    height, width = (-(-side // _STRIDE) * _STRIDE for side in size)
    return height * width


def _pair(network: SegmentationNetwork, step: Step) -> float:
    """A step of `finetune` on one pair, both frames with labels."""
    with LiveTensors() as live:
        images = torch.zeros(2, 3, _SIDE, _SIDE, dtype=torch.uint8)
        targets = torch.zeros(2, _SIDE, _SIDE, dtype=torch.int64)
        flow, valid = torch.zeros(1, 2, _SIDE, _SIDE), torch.zeros(1, _SIDE, _SIDE)
        weights = torch.zeros(2, _SIDE, _SIDE) if step.weighted else None
        taught = torch.arange(2)
        logits = network.logits_at(network(images), (_SIDE, _SIDE))
        value = labeled_cross_entropy(
            logits[taught], targets[taught], None if weights is None else weights[taught]
        )
        if step.consistent:
            probs = logits.softmax(dim=1)
            value = value + temporal_consistency(probs[:1], probs[1:], flow, valid > 0)
        value.backward()  # type: ignore[no-untyped-call]
    return float(live.peak) / _SIDE**2


def _image(network: SegmentationNetwork) -> float:
    with torch.inference_mode(), LiveTensors() as live:
        features = network.features(torch.zeros(1, 3, _SIDE, _SIDE, dtype=torch.uint8))
        network.last_layer(features).float()
        features.float()
    return float(live.peak) / _SIDE**2
