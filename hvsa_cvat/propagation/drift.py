"""Drift of carried places, taken out by what the frames show.

Small errors of the flow add up along a chain. But the places of a frame paint a picture of it with
pixels of the annotated frames; what still moves between that picture and the frame is the drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import Image
from hvsa_cvat.video.flow import DisFlow, warp

_WINDOW = 5
"""Cells; the side of the square over which frame and picture are compared."""


class Places(NamedTuple):
    """Where the cells of one frame come from."""

    offset: NDArray[np.float32]
    """float32 (h, w, 2): dx, dy in cells to the place in the source."""
    source: NDArray[np.int32]
    """int32 (h, w): index of the annotated frame, -1 for none."""
    confidence: NDArray[np.float32]
    """float32 (h, w) in 0..1."""


def without_drift(
    places: Places, video: NDArray[np.uint8], number: int, annotated: Sequence[int]
) -> Places:
    """The places of frame `number`, moved by the flow from it to what they paint, where that paints
    it better.

    video uint8 (N, h, w, 3) RGB; annotated: the frames that `source` counts.
    """
    frame = video[number]
    painted = paint(places, video, number, annotated)
    estimated = DisFlow().estimate(frame[np.newaxis], np.rint(painted).astype(np.uint8)[np.newaxis])
    moved = moved_places(places, estimated[0])
    known = (places.source >= 0) & (moved.source >= 0)
    repainted = paint(moved, video, number, annotated)
    better = known & (_difference(frame, repainted) < _difference(frame, painted))
    return Places(
        np.where(better[..., np.newaxis], moved.offset, places.offset),
        np.where(better, moved.source, places.source),
        np.where(better, moved.confidence, places.confidence),
    )


def moved_places(places: Places, flow: NDArray[np.floating[Any]]) -> Places:
    """The places that the cells reach by first following `flow` (2, h, w), in cells.

    The nearest cell's place and the exact motion: no mean of two different sources.
    """
    cells = places.source.size
    nearest = warp(np.arange(cells).reshape(places.source.shape), flow)
    return Places(
        places.offset.reshape(cells, 2)[nearest] + np.moveaxis(flow, 0, -1).astype(np.float32),
        places.source.ravel()[nearest],
        places.confidence.ravel()[nearest],
    )


def paint(
    places: Places, video: NDArray[np.uint8], number: int, annotated: Sequence[int]
) -> NDArray[np.float32]:
    """float32 (h, w, 3): frame `number` painted with the pixels of its places, read bilinearly; the
    frame itself where it has none. The arguments are those of `without_drift`.
    """
    height, width = places.source.shape
    painted: NDArray[np.float32] = video[number].astype(np.float32)
    rows, columns = np.nonzero(places.source >= 0)
    if not len(rows):
        return painted
    source = np.asarray(annotated)[places.source[rows, columns]]
    offset = places.offset[rows, columns]
    x = (columns + offset[:, 0]).clip(0, width - 1).astype(np.float32)
    y = (rows + offset[:, 1]).clip(0, height - 1).astype(np.float32)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, np.newaxis], (y - top)[:, np.newaxis]
    # one index into a flat view: several at once take six times as long
    pixels = np.asarray(video).reshape(-1, 3)
    upper_row, lower_row = (source * height + top) * width, (source * height + bottom) * width

    def at(index: NDArray[np.intp]) -> NDArray[np.uint8]:
        return pixels.take(index, axis=0)

    upper = at(upper_row + left) * (1 - across) + at(upper_row + right) * across
    lower = at(lower_row + left) * (1 - across) + at(lower_row + right) * across
    painted[rows, columns] = upper * (1 - down) + lower * down
    return painted


def _difference(frame: Image, painted: NDArray[np.float32]) -> NDArray[np.float32]:
    apart = np.abs(frame.astype(np.float32) - painted).mean(axis=2)
    return np.asarray(cv2.blur(apart, (_WINDOW, _WINDOW)), np.float32)
