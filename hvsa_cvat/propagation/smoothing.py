"""Evidence for the classes, averaged over neighbouring frames along the flow."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.propagation.fusion import Fused, certainty_of
from hvsa_cvat.propagation.propagate import Propagated
from hvsa_cvat.types import IGNORE, LabelMap, Size
from hvsa_cvat.video.flow import OFFSETS, FlowStore, warp

_VOTES = 2.0
"""The evidence for a label from a vote with confidence 1. The network's probabilities, which are
its evidence, add up to 1 over the classes."""

_ALIKE = 10.0
"""The mean difference of the colours (of 255) at which a neighbour's evidence counts 1/e."""

_WINDOW = 3
"""The side of the square over which colours are compared, in cells of the flow."""

SMOOTHED_PIXEL = 60
"""Bytes for each pixel of a frame that smoothing takes, evidence left out."""

SMOOTHED_CLASS_PIXEL = 2 * (len(OFFSETS) + 1) + 3 * 4
"""Bytes for each pixel of a frame and class: the evidence of the frames around it, kept as float16,
and what is made of it."""


def evidence(carried: Propagated, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (C, H, W): twice the votes for each class plus its probability."""
    added = carried.votes(len(probabilities))
    added *= _VOTES
    added += probabilities
    return added


class Smoother:
    """Takes the evidence of each frame in order, and gives the label maps in the same order.

    A frame's evidence becomes the weighted mean of its own and that of the frames at distance 1 and
    2, brought along the flow. The frame itself has weight 1. A neighbour has weight 0 where the
    flow fails its check, elsewhere exp(-difference / 10) of the colours.
    """

    def __init__(self, flow: FlowStore, pictures: NDArray[np.uint8], length: int) -> None:
        """`pictures` are the frames at the flow's size, uint8 (N, h, w, 3) RGB. `length` frames
        will be added."""
        self._flow = flow
        self._pictures = pictures
        self._length = length
        self._done = 0
        self._begun = 0
        self._around: deque[tuple[int, NDArray[np.float16]]] = deque()
        self._persons: deque[LabelMap] = deque()

    def add(self, carried: Propagated, probabilities: NDArray[np.float32]) -> Iterator[Fused]:
        """Add the next frame. Gives the frames that wait for no other one."""
        added = evidence(carried, probabilities).astype(np.float16)
        self._around.append((self._begun, added))
        self._persons.append(np.where(carried.by_person, carried.label_map, np.uint8(IGNORE)))
        self._begun += 1
        last = self._begun == self._length
        while self._done + max(OFFSETS) < self._begun or (last and self._done < self._begun):
            yield self._next()

    def _next(self) -> Fused:
        frame = self._done
        self._done += 1
        while self._around[0][0] < frame + min(OFFSETS):
            self._around.popleft()
        around = dict(self._around)
        return decide(self._mean(frame, around), self._persons.popleft())

    def _mean(self, frame: int, around: dict[int, NDArray[np.float16]]) -> NDArray[np.float32]:
        """float32 (C, H, W)."""
        mean = around[frame].astype(np.float32)
        size = mean.shape[1:]
        total = np.ones(size, np.float32)
        for offset in OFFSETS:
            if frame + offset not in around:
                continue
            place = self._place(frame, frame + offset, size)
            total += place.weight
            for own, other in zip(mean, around[frame + offset], strict=True):
                own += place.weight * place.read(other)
        mean /= total
        return mean

    def _place(self, frame: int, other: int, size: Size) -> _Place:
        """Where the pixels of `frame` lie in frame `other`."""
        step = self._flow.get(frame, other)
        assert step is not None
        here, there = self._pictures[frame], self._pictures[other]
        apart = np.abs(here.astype(np.float32) - warp(there.astype(np.float32), step.flow))
        apart = cv2.blur(apart.mean(axis=2), (_WINDOW, _WINDOW))
        weight = step.valid * np.exp(apart / -_ALIKE)
        dx, dy, weight = (_resized(one, size) for one in (*step.flow, weight))
        (height, width), (h, w) = size, self._flow.size
        x = np.arange(width, dtype=np.float32) + dx * (width / w)
        y = np.arange(height, dtype=np.float32)[:, np.newaxis] + dy * (height / h)
        return _Place(x.astype(np.float32), y.astype(np.float32), weight)


class _Place(NamedTuple):
    """Where the pixels of a frame lie in a neighbouring frame, and what their evidence counts
    there. float32 (H, W) each, x and y in pixels."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    weight: NDArray[np.float32]

    def read(self, values: NDArray[np.float16]) -> NDArray[np.float32]:
        """`values` (H, W) of the neighbour, read bilinearly."""
        wide = values.astype(np.float32)
        found = cv2.remap(wide, self.x, self.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(found, np.float32)


def decide(evidence: NDArray[np.float32], persons: LabelMap) -> Fused:
    """The class with the most evidence; a person's label where there is one.

    `evidence` is float32 (C, H, W). `persons` has `IGNORE` where no person labelled.
    """
    label_map: LabelMap = evidence.argmax(axis=0).astype(np.uint8)
    if len(evidence) > 1:
        second, first = np.partition(evidence, -2, axis=0)[-2:]
        lead = first - second
    else:
        lead = evidence[0]
    certainty = certainty_of(lead * _SCALE)
    drawn = persons != IGNORE
    label_map[drawn] = persons[drawn]
    certainty[drawn] = 1
    return Fused(label_map, certainty)


_SCALE = 3.0
"""Here one sure chain gives a third of the evidence that it gives in `fuse`. The scale of the
certainty stays the same."""


def _resized(values: NDArray[np.floating[Any]], size: Size) -> NDArray[np.float32]:
    values = np.asarray(values, np.float32)
    if values.shape == size:
        return values
    return np.asarray(cv2.resize(values, size[::-1]), np.float32)
