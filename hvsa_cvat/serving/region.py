"""The region that an annotator gets for clicking into an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from hvsa_cvat.types import LabelMap, Mask

Click = tuple[float, float]
"""x and y in pixels of the image."""


def clicked_region(
    label_map: LabelMap, positive: Sequence[Click], negative: Sequence[Click]
) -> Mask:
    """The 4-connected parts of one class under the positive clicks.

    A negative click inside them removes the pixels that are nearer to it than to any positive
    click, and then all parts without a positive click. A negative click elsewhere changes nothing.
    So a positive and a negative click separate two objects of one class that touch, half-way
    between the clicks. Taking the second best class around a negative click instead would not
    separate them, and would change pixels far away.
    """
    wanted, unwanted = _pixels(positive, label_map), _pixels(negative, label_map)
    region = np.zeros(label_map.shape, dtype=np.bool_)
    for row, column in wanted:
        if not region[row, column]:
            region |= _part(label_map == label_map[row, column], row, column)
    cuts = [(row, column) for row, column in unwanted if region[row, column]]
    if cuts:
        region &= _distance(wanted, label_map) <= _distance(cuts, label_map)
        region = np.logical_or.reduce([_part(region, row, column) for row, column in wanted])
    return region


def _pixels(clicks: Sequence[Click], label_map: LabelMap) -> list[tuple[int, int]]:
    """The row and column of each click. A click outside the image takes the nearest pixel."""
    height, width = label_map.shape
    return [(min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)) for x, y in clicks]


def _part(mask: Mask, row: int, column: int) -> Mask:
    """The 4-connected part of `mask` that holds the pixel at `row`, `column`."""
    parts = measure.label(mask, connectivity=1)  # type: ignore[no-untyped-call]
    part: Mask = parts == parts[row, column]
    return part


def _distance(pixels: Sequence[tuple[int, int]], label_map: LabelMap) -> NDArray[np.int64]:
    """int64 (H, W): squared distance to the nearest of `pixels`."""
    rows, columns = (np.arange(side, dtype=np.int64) for side in label_map.shape)
    squares = ((rows[:, None] - row) ** 2 + (columns - column) ** 2 for row, column in pixels)
    nearest: NDArray[np.int64] = np.minimum.reduce(list(squares))
    return nearest
