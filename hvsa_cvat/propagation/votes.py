"""Reading the labels around carried places, and deciding by vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import IGNORE, LabelMap, Size

_ALIKE = 10.0
"""The mean difference of the colour channels (of 255) at which a vote counts 1/e."""

_AT_ONCE = 2**16
"""Pixels whose votes are counted at the same time, which takes about 20 MB."""

VOTE_PIXEL = 260
"""Bytes for each pixel of a frame that one thread takes while it counts the votes."""


class Colours(NamedTuple):
    """The pixels of a frame and of the annotated frames."""

    frame: int
    annotated: Sequence[int]
    """The annotated frames. The source of a place is an index into them."""
    video: NDArray[np.uint8]
    """uint8 (N, h, w, 3) RGB; any size."""


class Disputed(NamedTuple):
    """The votes for each label at the pixels where they are not all for one label."""

    pixels: NDArray[np.intp]
    """intp (M,): indices into the flattened frame."""
    votes: NDArray[np.float32]
    """float32 (L, M): one row for each label, up to the largest label that has a vote."""


class Votes(NamedTuple):
    """The result of the vote for one frame, at the video's own size."""

    label_map: LabelMap
    """`IGNORE` where no label reaches."""
    confidence: NDArray[np.float32]
    """float32 (H, W) in 0..1: the larger confidence of the chains times the label's share of the
    vote."""
    lead: NDArray[np.float32]
    """float32 (H, W): the confidence in votes for the label minus that for the next label. It is at
    most the number of chains."""
    disputed: Disputed
    """Elsewhere all votes are for one label, so `lead` is their sum."""


def count_votes(
    chains: Sequence[NDArray[Any]], labels: NDArray[np.uint8], colours: Colours | None = None
) -> Votes:
    """The label with the most votes for every pixel.

    `chains` are the places of each chain, (h, w) with offset, source and confidence (see
    `propagate`). `labels` are the label maps of the annotated frames, uint8 (A, H, W). The four
    pixels around a place share the chain's confidence as votes, bilinearly. With `colours` the
    sixteen pixels around it share it, and those of a similar colour get more: that helps where the
    flow or a drawn outline is wrong by a pixel.
    """
    size = labels.shape[1:]
    reach = 1 if colours is None else 2
    found = [_Places.of(places, size) for places in chains] if len(labels) else []
    flat = np.asarray(labels).reshape(-1)

    label_map = np.full(size, IGNORE, np.uint8)
    reached, disputed = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    best, lead = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for one in found:
        first, *others = _shifts(reach)
        seen = flat.take(one.pixels(first))
        mixed = np.zeros(size, np.bool_)
        for shift in others:
            mixed |= flat.take(one.pixels(shift)) != seen
        disputed |= one.known & (mixed | (reached & (seen != label_map)))
        label_map = np.where(one.known & ~reached, seen, label_map)
        reached |= one.known
        best = np.maximum(best, one.confidence)
        lead += one.confidence
    share = (label_map != IGNORE).astype(np.float32)
    lead *= share

    # Nearly everywhere all votes are for one label. Count votes only where they are not.
    rows, columns = np.nonzero(disputed)
    counted = []
    for begin in range(0, len(rows), _AT_ONCE):
        here = rows[begin : begin + _AT_ONCE], columns[begin : begin + _AT_ONCE]
        votes = _counted([one.at(here) for one in found], reach, flat, colours)
        counted.append(votes)
        winners, won, cast = votes.argmax(axis=0), votes.max(axis=0), votes.sum(axis=0)
        label_map[here] = np.where(won > 0, winners, IGNORE)
        share[here] = won / np.maximum(cast, np.finfo(np.float32).tiny)
        np.put_along_axis(votes, winners[np.newaxis], 0, axis=0)
        lead[here] = won - votes.max(axis=0)
        np.put_along_axis(votes, winners[np.newaxis], won, axis=0)
    kept = Disputed(rows * size[1] + columns, _joined(counted))
    return Votes(label_map, best * share, lead, kept)


def _joined(counted: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The blocks side by side, with rows of zeros where a block has fewer labels."""
    labels = max((len(votes) for votes in counted), default=0)
    return np.concatenate(
        [np.empty((labels, 0), np.float32)]
        + [np.pad(votes, ((0, labels - len(votes)), (0, 0))) for votes in counted],
        axis=1,
    )


def _counted(
    found: Sequence[_Places], reach: int, flat: NDArray[np.uint8], colours: Colours | None
) -> NDArray[np.float32]:
    """float32 (C, M): the votes for each label, up to the largest label, at M pixels."""
    shifts = _shifts(reach)
    seen = [[flat.take(one.pixels(shift)) for shift in shifts] for one in found]
    largest = max(int(label.max(initial=0, where=label != IGNORE)) for label in chain(*seen))
    pixels = np.arange(len(found[0].confidence))
    # the last row takes the votes of unlabelled pixels
    votes = np.zeros((largest + 2, len(pixels)), np.float32)
    for one, labels in zip(found, seen, strict=True):
        weights = one.nearness(shifts, reach)
        if colours is not None:
            here, mean = one.colour(None, colours), np.full(3, 1 / 3, np.float32)
            for shift, weight in zip(shifts, weights, strict=True):
                weight *= np.exp(np.abs(one.colour(shift, colours) - here) @ mean / -_ALIKE)
        scale = one.confidence / np.maximum(sum(weights), np.finfo(np.float32).tiny)
        for label, weight in zip(labels, weights, strict=True):
            votes[np.minimum(label, largest + 1), pixels] += weight * scale
    return votes[:-1]


class _Shift(NamedTuple):
    """From the pixel in which a place lies to a pixel near it, in pixels."""

    down: int
    right: int


def _shifts(reach: int) -> list[_Shift]:
    """The shifts to all pixels that are nearer than `reach` in both directions."""
    steps = range(1 - reach, reach + 1)
    return [_Shift(down, right) for down in steps for right in steps]


@dataclass(frozen=True, eq=False)
class _Places:
    """The places of some pixels of a frame, as arrays of one shape.

    All coordinates are pixels of the video's own size.
    """

    size: Size
    row: NDArray[np.intp]
    """The row of the pixel itself, not of its place."""
    column: NDArray[np.intp]
    x: NDArray[np.float32]
    """The place."""
    y: NDArray[np.float32]
    source: NDArray[np.intp]
    """The index of the annotated frame; 0 if there is no place."""
    known: NDArray[np.bool_]
    confidence: NDArray[np.float32]

    @classmethod
    def of(cls, places: NDArray[Any], size: Size) -> _Places:
        """The places of all pixels: each has the place of the cell in which its centre lies."""
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

    def at(self, chosen: tuple[NDArray[np.intp], NDArray[np.intp]]) -> _Places:
        """The places of the pixels in these rows and columns."""
        names = ("row", "column", "x", "y", "source", "known", "confidence")
        return _Places(self.size, *(getattr(self, name)[chosen] for name in names))

    def pixels(self, shift: _Shift) -> NDArray[np.intp]:
        """Indices into the flattened label maps. Outside a map, its border pixel is taken."""
        row, column = self._cell(shift, self.size)
        pixels: NDArray[np.intp] = (self.source * self.size[0] + row) * self.size[1] + column
        return pixels

    def nearness(self, shifts: Sequence[_Shift], reach: int) -> list[NDArray[np.float32]]:
        """A weight for each shift, float32. It falls linearly to 0 at the distance `reach`."""

        def falling(place: NDArray[np.float32], shift: int) -> NDArray[np.float32]:
            within = place - place.astype(np.intp)
            return np.asarray(reach - np.abs(within - shift), np.float32)

        down = {shift.down: falling(self.y, shift.down) for shift in shifts}
        right = {shift.right: falling(self.x, shift.right) for shift in shifts}
        return [down[shift.down] * right[shift.right] for shift in shifts]

    def colour(self, shift: _Shift | None, colours: Colours) -> NDArray[np.float32]:
        """float32 (..., 3) RGB of the pixels near the places; of the pixels themselves for None."""
        (height, width), (h, w) = self.size, colours.video.shape[1:3]
        if shift is None:
            rows, columns = cells_of(height, h)[self.row], cells_of(width, w)[self.column]
            frames: NDArray[np.intp] | int = colours.frame
        else:
            rows, columns = self._cell(shift, (h, w))
            frames = np.asarray(colours.annotated)[self.source]
        # one index into a flat view, because indexing with several arrays takes six times as long
        flat = np.asarray(colours.video).reshape(-1, 3)
        found = flat.take((frames * h + rows) * w + columns, axis=0)
        return np.asarray(found, np.float32)

    def _cell(self, shift: _Shift, size: Size) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column of the shifted pixel in a picture of `size`."""
        (height, width), (h, w) = self.size, size
        row, column = self.y.astype(np.intp) + shift.down, self.x.astype(np.intp) + shift.right
        return (
            cells_of(height, h).take(row, mode="clip"),
            cells_of(width, w).take(column, mode="clip"),
        )


def cells_of(count: int, other: int) -> NDArray[np.intp]:
    """For each of `count` cells along a side: in which of `other` cells does its centre lie?"""
    return ((np.arange(count) + 0.5) * other / count).astype(np.intp)
