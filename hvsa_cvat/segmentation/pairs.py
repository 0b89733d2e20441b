"""What one optimizer step sees: pairs of neighbouring frames, labels where people gave them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvsa_cvat.config import Sampling
from hvsa_cvat.segmentation.frozen import VideoFeatures
from hvsa_cvat.types import IGNORE, LabelMap, Size
from hvsa_cvat.video.flow import OFFSETS, FlowStore

Pair = tuple[int, int]
"""An anchor frame t and its partner t' with |t - t'| < 3; (t, t) where a video has one frame."""


@dataclass(frozen=True)
class TrainingData:
    """One video as fine-tuning sees it, everything at network size (h, w)."""

    frames: NDArray[np.uint8]
    """uint8 (N, h, w, 3) RGB."""
    targets: Mapping[int, LabelMap]
    """Frame -> uint8 (h, w); only frames with labels."""
    flow: FlowStore | None
    """None trains without temporal consistency."""
    weights: Mapping[int, NDArray[np.float32]] | None = None
    """Frame -> float32 (h, w) in 0..1, of each target's pixels; None: all weigh the same."""
    features: VideoFeatures | None = None
    """Of a backbone that does not learn; None trains the backbone too."""


@dataclass(frozen=True)
class Batch:
    """B pairs as 2 B frames: all anchors, then all partners in the same order."""

    images: Tensor
    """uint8 (2B, 3, h, w) RGB."""
    targets: Tensor
    """int64 (2B, h, w), `IGNORE` where nobody labelled."""
    flow: Tensor
    """float32 (B, 2, h, w) of the anchors, O_{t->t'}."""
    valid: Tensor
    """bool (B, h, w), their M."""
    taught: Tensor
    """int64 (T,), the images that have targets."""
    weights: Tensor | None = None
    """float32 (2B, h, w), of the targets; None: all weigh the same."""
    branches: tuple[Tensor, ...] | None = None
    """The backbone's maps of the images, where it does not learn."""

    def to(self, device: torch.device) -> Batch:
        """On `device`; the host does not wait for what comes from pinned memory."""
        return self._each(lambda one: one.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """In memory from which a GPU copies by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        parts = {one.name: getattr(self, one.name) for one in fields(self)}
        changed: dict[str, Any] = {
            name: tuple(map(change, part)) if isinstance(part, tuple) else change(part)
            for name, part in parts.items()
            if part is not None
        }
        return replace(self, **changed)


class Gathered:
    """The batches of an epoch, each gathered when it is asked for, or while the one before is at
    work."""

    def __init__(
        self,
        steps: Sequence[Sequence[Pair]],
        gather: Callable[[Sequence[Pair]], Batch],
        ahead: bool,
    ) -> None:
        self._steps = steps
        self._gather = gather
        self._ahead = ahead

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Batch]:
        if not self._ahead:
            yield from map(self._gather, self._steps)
            return
        with ThreadPoolExecutor(1) as thread:
            steps = iter(self._steps)
            gathered = [thread.submit(self._gather, pairs) for pairs in islice(steps, 1)]
            while gathered:
                batch = gathered.pop().result()
                gathered = [thread.submit(self._gather, pairs) for pairs in islice(steps, 1)]
                yield batch


def epoch_pairs(
    length: int,
    labeled: Sequence[int],
    sampling: Sampling,
    batch_pairs: int,
    rng: np.random.Generator,
) -> list[list[Pair]]:
    """The batches of one epoch, as many in every epoch; every frame of the video is an anchor at
    least once."""
    everyone = _anchored(length, rng)
    extra = 0 if sampling == "every-frame" else min(batch_pairs // 2, len(labeled))
    batches = []
    while fresh := list(islice(everyone, batch_pairs - extra)):
        # no frame twice: a single labeled one would be learnt by heart
        again = rng.choice(labeled, extra, replace=False).tolist() if extra else []
        batches.append(fresh + [(t, _partner(t, length, rng)) for t in again])
    return batches


def _anchored(length: int, rng: np.random.Generator) -> Iterator[Pair]:
    for t in rng.permutation(length).tolist():
        yield t, _partner(t, length, rng)


def _partner(frame: int, length: int, rng: np.random.Generator) -> int:
    neighbours = [t for t in range(frame - 2, frame + 3) if t != frame and 0 <= t < length]
    return int(rng.choice(neighbours)) if neighbours else frame


def make_batch(data: TrainingData, pairs: Sequence[Pair]) -> Batch:
    """Gather `pairs`; no flow, and no valid pixel, where none was computed."""
    height, width = data.frames.shape[1:3]
    flow = np.zeros((len(pairs), 2, height, width), np.float32)
    valid = np.zeros((len(pairs), height, width), bool)
    for k, (source, target) in enumerate(pairs):
        found = data.flow.get(source, target) if data.flow is not None else None
        if found is not None:
            flow[k], valid[k] = found.flow, found.valid
    order = [source for source, _ in pairs] + [target for _, target in pairs]
    images = data.frames[order]
    targets = np.full((len(order), height, width), IGNORE, np.uint8)
    weights = None if data.weights is None else np.zeros(targets.shape, np.float32)
    taught = [k for k, frame in enumerate(order) if frame in data.targets]
    for k in taught:
        targets[k] = data.targets[order[k]]
        if weights is not None and data.weights is not None and order[k] in data.weights:
            weights[k] = data.weights[order[k]]
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(targets).long(),
        torch.from_numpy(flow),
        torch.from_numpy(valid),
        torch.tensor(taught).long(),
        None if weights is None else torch.from_numpy(weights),
        None if data.features is None else data.features.of(order),
    )


_SENT = 64
"""Frames sent to the device at a time."""


class ResidentVideo:
    """A video that lies on the device whole, so that gathering a batch sends indices alone."""

    def __init__(self, data: TrainingData, device: torch.device) -> None:
        def sent(rows: Sequence[NDArray[Any]] | NDArray[Any]) -> Tensor:
            # a few at a time: the host's memory need not hold what lies in a mapped file
            whole: Tensor | None = None
            for start in range(0, len(rows), _SENT):
                part = torch.from_numpy(np.stack(list(rows[start : start + _SENT])))
                if whole is None:
                    shape = len(rows), *part.shape[1:]
                    whole = torch.empty(shape, dtype=part.dtype, device=device)
                whole[start : start + _SENT] = part
            assert whole is not None
            return whole

        size = data.frames.shape[1:3]
        self._device = device
        self._images = sent(data.frames)
        self._flow = None if data.flow is None else [sent(array) for array in data.flow.arrays]
        self._maps = None if data.features is None else [sent(one) for one in data.features.maps]
        # the last row is that of all frames without labels
        self._rows = {frame: row for row, frame in enumerate(data.targets)}
        nothing = np.full(size, IGNORE, np.uint8)
        self._targets = sent([*data.targets.values(), nothing])
        self._weights = None
        if data.weights is not None:
            weightless = np.zeros(size, np.float32)
            of_targets = [data.weights.get(frame, weightless) for frame in data.targets]
            self._weights = sent([*of_targets, weightless])

    @staticmethod
    def bytes(data: TrainingData) -> int:
        """What it takes on the device."""
        flow = 0 if data.flow is None else sum(array.nbytes for array in data.flow.arrays)
        weights = 0 if data.weights is None else 4
        rows = (len(data.targets) + 1) * (1 + weights) * data.frames[0, ..., 0].size
        features = 0 if data.features is None else data.features.nbytes
        return int(data.frames.nbytes + flow + rows + features)

    def batch(self, pairs: Sequence[Pair]) -> Batch:
        """The same as `make_batch`, on the device."""
        order = [source for source, _ in pairs] + [target for _, target in pairs]
        rows = self._index([self._rows.get(frame, len(self._rows)) for frame in order])
        size = self._images.shape[1:3]
        if self._flow is None:
            flow = torch.zeros(len(pairs), 2, *size, device=self._device)
            valid = torch.zeros(len(pairs), *size, dtype=torch.bool, device=self._device)
        else:
            sources = self._index([s for s, _ in pairs])
            offsets = [OFFSETS.index(t - s) if t != s else -1 for s, t in pairs]
            known = self._index(offsets) >= 0
            at = self._index(offsets).clamp(min=0)
            flow = self._flow[0][sources, at].float() * known[:, None, None, None]
            valid = self._flow[1][sources, at] & known[:, None, None]
        chosen = self._index(order)
        return Batch(
            self._images[chosen].permute(0, 3, 1, 2),
            self._targets[rows].long(),
            flow,
            valid,
            self._index([k for k, frame in enumerate(order) if frame in self._rows]),
            None if self._weights is None else self._weights[rows],
            None if self._maps is None else tuple(one[chosen] for one in self._maps),
        )

    def _index(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device, non_blocking=True)


def shrink_labels(label_map: LabelMap, size: Size) -> LabelMap:
    """A label map at network size: the class of the pixel under each new pixel's centre."""
    resized = cv2.resize(label_map, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def shrink_weights(weights: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Weights of a label map at network size, of the same pixels as `shrink_labels` takes."""
    resized = cv2.resize(weights, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.float32)
