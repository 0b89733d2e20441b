"""Cards: how a sample lies on a frame of the child task, and the way back to its frame's pixels.

A whole frame is shown as it is. A smaller sample is shown enlarged by a whole number, with what
lies around it, so that its pixels can be told apart and the place be recognised.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hvsa_cvat.cvat.state import Card
from hvsa_cvat.types import LabelMap, Mask, Sample, Size

_MARGIN = 0.6
"""What is shown on each side of a sample, as a share of its longer side."""
_LEAST_MARGIN = 8
"""Pixels of the frame."""
PICTURE_SIDE = 700
"""Pixels that the longer side of an enlarged card has, nearly: what a page of 1600 x 900 shows
unscaled."""

T = TypeVar("T", np.int32, np.bool_, np.uint8)


def whole_card(sample: Sample, size: Size, *, suggests: bool) -> Card:
    """The card of a whole frame."""
    return Card(sample, 0, 0, *size, factor=1, suggests=suggests)


def region_card(sample: Sample, region: Mask, *, suggests: bool, side: int = PICTURE_SIDE) -> Card:
    """The card of a sample that covers the pixels `region` of its frame, bool (H, W). Its longer
    side has about `side` pixels, or as many as in the frame where these are more."""
    (rows, columns) = ndimage.find_objects(region.astype(np.uint8))[0]
    longer = max(rows.stop - rows.start, columns.stop - columns.start)
    margin = max(math.ceil(_MARGIN * longer), _LEAST_MARGIN)
    top, left = max(rows.start - margin, 0), max(columns.start - margin, 0)
    height = min(rows.stop + margin, region.shape[0]) - top
    width = min(columns.stop + margin, region.shape[1]) - left
    factor = max(1, round(side / max(height, width)))
    return Card(sample, top, left, height, width, factor, suggests)


def enlarge(array: NDArray[T], factor: int) -> NDArray[T]:
    """(H, W) -> (H * factor, W * factor): each pixel becomes a square."""
    return array if factor == 1 else array.repeat(factor, axis=0).repeat(factor, axis=1)


def shrink(label_map: LabelMap, factor: int) -> LabelMap:
    """The reverse for label maps: each square becomes a pixel of the class that most of it has.

    Of several that are as frequent the first one is taken, `IGNORE` last.
    """
    if factor == 1:
        return label_map
    height, width = (side // factor for side in label_map.shape)
    squares = label_map.reshape(height, factor, width, factor)
    classes = np.unique(label_map)
    counts = np.stack([(squares == one).sum(axis=(1, 3)) for one in classes])
    shrunk: LabelMap = classes[counts.argmax(axis=0)]
    return shrunk
