"""Correcting the drift of carried places by comparing pixels.

Small errors of the flow add up along a chain. The places of a frame reconstruct its picture from
pixels of the annotated frames. The flow that remains between the frame and this picture is the
drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import Image
from hvsa_cvat.video.flow import warp
from hvsa_cvat.video.flow_estimators import DisFlow

_WINDOW = 5
"""The side of the square over which frame and picture are compared, in cells."""


class Places(NamedTuple):
    """Where each cell of one frame comes from: its place in an annotated frame."""

    offset: NDArray[np.float32]
    """float32 (h, w, 2): dx and dy from the cell to its place, in cells."""
    source: NDArray[np.int32]
    """int32 (h, w): the index of the annotated frame; -1 if the cell has no place."""
    confidence: NDArray[np.float32]
    """float32 (h, w) in 0..1."""


def without_drift(
    places: Places, video: NDArray[np.uint8], number: int, annotated: Sequence[int]
) -> Places:
    """Correct the places of frame `number` where that makes its reconstruction better.

    `video` is uint8 (N, h, w, 3) RGB. `annotated` are the frames that `source` is an index of.
    """
    frame = video[number]
    reconstructed = reconstruct(places, video, number, annotated)
    estimated = DisFlow().estimate(
        frame[np.newaxis], np.rint(reconstructed).astype(np.uint8)[np.newaxis]
    )
    moved = moved_places(places, estimated[0])
    known = (places.source >= 0) & (moved.source >= 0)
    reconstructed_again = reconstruct(moved, video, number, annotated)
    better = known & (_difference(frame, reconstructed_again) < _difference(frame, reconstructed))
    return Places(
        np.where(better[..., np.newaxis], moved.offset, places.offset),
        np.where(better, moved.source, places.source),
        np.where(better, moved.confidence, places.confidence),
    )


def moved_places(places: Places, flow: NDArray[np.floating[Any]]) -> Places:
    """The places of the cells after they moved by `flow` (2, h, w), in cells.

    Each cell takes the place of the nearest cell and adds the exact motion, because the mean of
    places in two different sources would mean nothing.
    """
    cells = places.source.size
    nearest = warp(np.arange(cells).reshape(places.source.shape), flow)
    return Places(
        places.offset.reshape(cells, 2)[nearest] + np.moveaxis(flow, 0, -1).astype(np.float32),
        places.source.ravel()[nearest],
        places.confidence.ravel()[nearest],
    )


def reconstruct(
    places: Places, video: NDArray[np.uint8], number: int, annotated: Sequence[int]
) -> NDArray[np.float32]:
    """float32 (h, w, 3): frame `number`, made of the pixels at its places, read bilinearly.

    Cells without a place keep the frame's own pixel. The arguments are those of `without_drift`.
    """
    height, width = places.source.shape
    reconstructed: NDArray[np.float32] = video[number].astype(np.float32)
    rows, columns = np.nonzero(places.source >= 0)
    if not len(rows):
        return reconstructed
    source = np.asarray(annotated)[places.source[rows, columns]]
    offset = places.offset[rows, columns]
    x = (columns + offset[:, 0]).clip(0, width - 1).astype(np.float32)
    y = (rows + offset[:, 1]).clip(0, height - 1).astype(np.float32)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, np.newaxis], (y - top)[:, np.newaxis]
    # one index into a flat view, because indexing with several arrays takes six times as long
    pixels = np.asarray(video).reshape(-1, 3)
    upper_row, lower_row = (source * height + top) * width, (source * height + bottom) * width

    def at(index: NDArray[np.intp]) -> NDArray[np.uint8]:
        return pixels.take(index, axis=0)

    upper = at(upper_row + left) * (1 - across) + at(upper_row + right) * across
    lower = at(lower_row + left) * (1 - across) + at(lower_row + right) * across
    reconstructed[rows, columns] = upper * (1 - down) + lower * down
    return reconstructed


def _difference(frame: Image, reconstructed: NDArray[np.float32]) -> NDArray[np.float32]:
    apart = np.abs(frame.astype(np.float32) - reconstructed).mean(axis=2)
    return np.asarray(cv2.blur(apart, (_WINDOW, _WINDOW)), np.float32)
