"""Carried labels read around their places and put to the vote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import IGNORE, LabelMap, Size

_ALIKE = 10.0
"""Mean difference of the colour channels, of 255, at which a vote has fallen to 1/e."""


class Colours(NamedTuple):
    """What a frame and the annotated ones look like."""

    frame: int
    annotated: Sequence[int]
    """The frames that places count as sources."""
    video: NDArray[np.uint8]
    """uint8 (N, h, w, 3) RGB, of any size."""


class Votes(NamedTuple):
    """What the chains say of one frame, at the video's own size."""

    label_map: LabelMap
    """`IGNORE` where no label reaches."""
    confidence: NDArray[np.float32]
    """float32 (H, W) in 0..1: the better chain's, times the label's share of the vote."""
    lead: NDArray[np.float32]
    """float32 (H, W), at most one a chain: by how much confidence it is ahead of the next label."""


def count_votes(
    chains: Sequence[NDArray[Any]], labels: NDArray[np.uint8], colours: Colours | None = None
) -> Votes:
    """The label of every pixel with the most votes.

    chains: of each the places, (h, w) with offset, source and confidence (`propagate`); labels:
    uint8 (A, H, W), of the sources. A chain's confidence is shared out among the four pixels around
    its place, bilinearly. With `colours` it goes to the sixteen around it, more to those that
    look like the pixel: where the flow is off, or an outline drawn, by a pixel, the others know.
    """
    size = labels.shape[1:]
    reach = 1 if colours is None else 2
    found = [_Found.of(places, size) for places in chains] if len(labels) else []
    flat = np.asarray(labels).reshape(-1)

    label_map = np.full(size, IGNORE, np.uint8)
    reached, disputed = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    for one in found:
        for tap in one.taps(reach):
            seen = flat.take(tap.pixel)
            label_map = np.where(one.known & ~reached, seen, label_map)
            reached |= one.known
            disputed |= one.known & (seen != label_map)
    best, lead = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for one in found:
        best = np.maximum(best, one.confidence)
        lead += one.confidence
    share = (label_map != IGNORE).astype(np.float32)
    lead *= share

    # Nearly everywhere all are of one mind; count only where they are not.
    if disputed.any():
        here = [one.at(disputed) for one in found]
        votes = _counted(here, reach, flat, colours)
        winners, won, cast = votes.argmax(axis=0), votes.max(axis=0), votes.sum(axis=0)
        np.put_along_axis(votes, winners[np.newaxis], 0, axis=0)
        label_map[disputed] = np.where(won > 0, winners, IGNORE)
        share[disputed] = won / np.maximum(cast, np.finfo(np.float32).tiny)
        lead[disputed] = won - votes.max(axis=0)
    return Votes(label_map, best * share, lead)


def _counted(
    found: Sequence[_Found], reach: int, flat: NDArray[np.uint8], colours: Colours | None
) -> NDArray[np.float32]:
    """float32 (C, M): votes of each label, up to the largest, at M pixels."""
    seen = [[flat.take(tap.pixel) for tap in one.taps(reach)] for one in found]
    largest = max(int(label.max(initial=0, where=label != IGNORE)) for label in chain(*seen))
    pixels = np.arange(len(found[0].confidence))
    votes = np.zeros((largest + 1, len(pixels)), np.float32)
    for one, labels in zip(found, seen, strict=True):
        weights = []
        for tap in one.taps(reach):
            weights.append(tap.weight)
            if colours is not None:
                weights[-1] *= one.alike(tap, colours)
        total = np.maximum(sum(weights), np.finfo(np.float32).tiny)
        for weight, label in zip(weights, labels, strict=True):
            drawn = one.known & (label != IGNORE)
            share = weight[drawn] / total[drawn] * one.confidence[drawn]
            votes[label[drawn], pixels[drawn]] += share
    return votes


class _Tap(NamedTuple):
    """One pixel near each place."""

    row: NDArray[np.intp]
    column: NDArray[np.intp]
    pixel: NDArray[np.intp]
    """Into the label maps of all sources, laid flat."""
    weight: NDArray[np.float32]
    """Falls linearly to 0 at the distance of the reach, along either side."""


@dataclass(frozen=True, eq=False)
class _Found:
    """Places of some pixels of a frame, in pixels of the video's own size; arrays of one shape."""

    size: Size
    row: NDArray[np.intp]
    """Of the pixel itself."""
    column: NDArray[np.intp]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    source: NDArray[np.intp]
    """0 where there is no place."""
    known: NDArray[np.bool_]
    confidence: NDArray[np.float32]

    @classmethod
    def of(cls, places: NDArray[Any], size: Size) -> _Found:
        """Those of a whole frame; each pixel has the place of the cell that its centre lies in."""
        (height, width), (h, w) = size, places.shape
        cells = np.asarray(places)
        if cells.shape != size:
            cells = cells[np.ix_(cells_of(height, h), cells_of(width, w))]
        offset = cells["offset"].astype(np.float32)
        row, column = np.broadcast_arrays(np.arange(height)[:, np.newaxis], np.arange(width))
        x = (column + offset[..., 0] * (width / w)).clip(0, width - 1)
        y = (row + offset[..., 1] * (height / h)).clip(0, height - 1)
        known = cells["source"] >= 0
        source = np.where(known, cells["source"], 0).astype(np.intp)
        confidence = np.where(known, cells["confidence"], 0).astype(np.float32)
        return cls(
            size,
            row,
            column,
            x.astype(np.float32),
            y.astype(np.float32),
            source,
            known,
            confidence,
        )

    def at(self, chosen: NDArray[np.bool_]) -> _Found:
        names = ("row", "column", "x", "y", "source", "known", "confidence")
        return _Found(self.size, *(getattr(self, name)[chosen] for name in names))

    def taps(self, reach: int) -> Iterator[_Tap]:
        """The pixels nearer to the places than `reach` along either side."""
        height, width = self.size
        left, top = self.x.astype(np.intp), self.y.astype(np.intp)
        for down in range(1 - reach, reach + 1):
            row = (top + down).clip(0, height - 1)
            begin = (self.source * height + row) * width
            near = reach - np.abs(self.y - (top + down))
            for right in range(1 - reach, reach + 1):
                column = (left + right).clip(0, width - 1)
                weight = near * (reach - np.abs(self.x - (left + right)))
                yield _Tap(row, column, begin + column, weight.astype(np.float32))

    def alike(self, tap: _Tap, colours: Colours) -> NDArray[np.float32]:
        """float32 in 0..1: how much pixels look like those near their places."""
        h, w = colours.video.shape[1:3]
        rows, columns = cells_of(self.size[0], h), cells_of(self.size[1], w)
        # one index into a flat view: several at once take six times as long
        flat = np.asarray(colours.video).reshape(-1, 3)
        first = np.asarray(colours.annotated)[self.source] * h
        there = flat.take((first + rows[tap.row]) * w + columns[tap.column], axis=0)
        begin = (colours.frame * h + rows[self.row]) * w
        here = flat.take(begin + columns[self.column], axis=0)
        apart = np.abs(here.astype(np.int16) - there).sum(axis=1, dtype=np.float32) / 3
        alike: NDArray[np.float32] = np.exp(-apart / _ALIKE)
        return alike


def cells_of(count: int, other: int) -> NDArray[np.intp]:
    """Of `count` cells along a side, which of `other` cells each centre lies in."""
    return ((np.arange(count) + 0.5) * other / count).astype(np.intp)
