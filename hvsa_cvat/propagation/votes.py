"""Carried labels read around their places and put to the vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import IGNORE, LabelMap, Size

_ALIKE = 10.0
"""Mean difference of the colour channels, of 255, at which a vote has fallen to 1/e."""

_AT_ONCE = 2**16
"""Pixels whose votes are counted at once: about 20 MB."""

VOTE_PIXEL = 260
"""Bytes for each pixel of a frame that one thread takes while it counts the votes."""


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
    best, lead = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for one in found:
        first, *others = _taps(reach)
        seen = flat.take(one.pixels(first))
        mixed = np.zeros(size, np.bool_)
        for tap in others:
            mixed |= flat.take(one.pixels(tap)) != seen
        disputed |= one.known & (mixed | (reached & (seen != label_map)))
        label_map = np.where(one.known & ~reached, seen, label_map)
        reached |= one.known
        best = np.maximum(best, one.confidence)
        lead += one.confidence
    share = (label_map != IGNORE).astype(np.float32)
    lead *= share

    # Nearly everywhere all are of one mind; count only where they are not.
    rows, columns = np.nonzero(disputed)
    for begin in range(0, len(rows), _AT_ONCE):
        here = rows[begin : begin + _AT_ONCE], columns[begin : begin + _AT_ONCE]
        votes = _counted([one.at(here) for one in found], reach, flat, colours)
        winners, won, cast = votes.argmax(axis=0), votes.max(axis=0), votes.sum(axis=0)
        np.put_along_axis(votes, winners[np.newaxis], 0, axis=0)
        label_map[here] = np.where(won > 0, winners, IGNORE)
        share[here] = won / np.maximum(cast, np.finfo(np.float32).tiny)
        lead[here] = won - votes.max(axis=0)
    return Votes(label_map, best * share, lead)


def _counted(
    found: Sequence[_Found], reach: int, flat: NDArray[np.uint8], colours: Colours | None
) -> NDArray[np.float32]:
    """float32 (C, M): votes of each label, up to the largest, at M pixels."""
    taps = _taps(reach)
    seen = [[flat.take(one.pixels(tap)) for tap in taps] for one in found]
    largest = max(int(label.max(initial=0, where=label != IGNORE)) for label in chain(*seen))
    pixels = np.arange(len(found[0].confidence))
    # the last row takes what says nothing
    votes = np.zeros((largest + 2, len(pixels)), np.float32)
    for one, labels in zip(found, seen, strict=True):
        weights = one.nearness(taps, reach)
        if colours is not None:
            here, mean = one.colour(None, colours), np.full(3, 1 / 3, np.float32)
            for tap, weight in zip(taps, weights, strict=True):
                weight *= np.exp(np.abs(one.colour(tap, colours) - here) @ mean / -_ALIKE)
        scale = one.confidence / np.maximum(sum(weights), np.finfo(np.float32).tiny)
        for label, weight in zip(labels, weights, strict=True):
            votes[np.minimum(label, largest + 1), pixels] += weight * scale
    return votes[:-1]


class _Tap(NamedTuple):
    """A pixel near each place, as seen from the one that the place is in; in pixels."""

    down: int
    right: int


def _taps(reach: int) -> list[_Tap]:
    """Those nearer than `reach` along either side."""
    shifts = range(1 - reach, reach + 1)
    return [_Tap(down, right) for down in shifts for right in shifts]


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

    def at(self, chosen: tuple[NDArray[np.intp], NDArray[np.intp]]) -> _Found:
        """Those of the pixels in these rows and columns."""
        names = ("row", "column", "x", "y", "source", "known", "confidence")
        return _Found(self.size, *(getattr(self, name)[chosen] for name in names))

    def pixels(self, tap: _Tap) -> NDArray[np.intp]:
        """Into the label maps of all sources, laid flat; the border's goes on beyond it."""
        row, column = self._cell(tap, self.size)
        pixels: NDArray[np.intp] = (self.source * self.size[0] + row) * self.size[1] + column
        return pixels

    def nearness(self, taps: Sequence[_Tap], reach: int) -> list[NDArray[np.float32]]:
        """float32 of each tap: falls linearly to 0 at the distance `reach`, along either side."""

        def falling(place: NDArray[np.float32], shift: int) -> NDArray[np.float32]:
            within = place - place.astype(np.intp)
            return np.asarray(reach - np.abs(within - shift), np.float32)

        down = {tap.down: falling(self.y, tap.down) for tap in taps}
        right = {tap.right: falling(self.x, tap.right) for tap in taps}
        return [down[tap.down] * right[tap.right] for tap in taps]

    def colour(self, tap: _Tap | None, colours: Colours) -> NDArray[np.float32]:
        """float32 (..., 3) RGB of the tapped pixels, or of those that the places are of."""
        (height, width), (h, w) = self.size, colours.video.shape[1:3]
        if tap is None:
            rows, columns = cells_of(height, h)[self.row], cells_of(width, w)[self.column]
            frames: NDArray[np.intp] | int = colours.frame
        else:
            rows, columns = self._cell(tap, (h, w))
            frames = np.asarray(colours.annotated)[self.source]
        # one index into a flat view: several at once take six times as long
        flat = np.asarray(colours.video).reshape(-1, 3)
        found = flat.take((frames * h + rows) * w + columns, axis=0)
        return np.asarray(found, np.float32)

    def _cell(self, tap: _Tap, size: Size) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column of the tapped pixel in a picture of any size."""
        (height, width), (h, w) = self.size, size
        row, column = self.y.astype(np.intp) + tap.down, self.x.astype(np.intp) + tap.right
        return (
            cells_of(height, h).take(row, mode="clip"),
            cells_of(width, w).take(column, mode="clip"),
        )


def cells_of(count: int, other: int) -> NDArray[np.intp]:
    """Of `count` cells along a side, which of `other` cells each centre lies in."""
    return ((np.arange(count) + 0.5) * other / count).astype(np.intp)
