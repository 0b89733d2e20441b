"""The region that an annotator gets for clicking into an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from hvsa_cvat.types import LabelMap, Mask, Size

Click = tuple[float, float]
"""x and y in pixels of the image."""

Pixel = tuple[int, int]
"""Row and column."""


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
    region = _parts_at(label_map, wanted)
    cuts = [(row, column) for row, column in unwanted if region[row, column]]
    if cuts:
        region &= _distance(wanted, label_map.shape) <= _distance(cuts, label_map.shape)
        region &= _parts_at(region, wanted)
    return region


def _pixels(clicks: Sequence[Click], label_map: LabelMap) -> list[Pixel]:
    """The row and column of each click. A click outside the image takes the nearest pixel."""
    height, width = label_map.shape
    return [(min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)) for x, y in clicks]


def _parts_at(values: LabelMap | Mask, pixels: Sequence[Pixel]) -> Mask:
    """The 4-connected parts of equal values that hold one of `pixels`."""
    # with the background -1, pixels of value 0 are parts like all others
    parts = measure.label(values.astype(np.int16), background=-1, connectivity=1)  # type: ignore[no-untyped-call]
    rows, columns = zip(*pixels, strict=True)
    held: Mask = np.isin(parts, parts[rows, columns])
    return held


def _distance(pixels: Sequence[Pixel], size: Size) -> NDArray[np.int64]:
    """int64 (H, W): the squared distance to the nearest of `pixels`.

    The pixels are taken one by one, so that the memory does not grow with their number.
    """
    rows, columns = (np.arange(side, dtype=np.int64) for side in size)
    nearest = np.full(size, np.iinfo(np.int64).max)
    for row, column in dict.fromkeys(pixels):
        np.minimum(nearest, (rows[:, None] - row) ** 2 + (columns - column) ** 2, out=nearest)
    return nearest
