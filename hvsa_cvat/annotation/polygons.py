"""Polygons to label maps and back.

Outlines run along pixel borders, so their vertices are integers: pixel (0, 0) has the corners
(0, 0), (1, 0), (1, 1), (0, 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from hvsa_cvat.types import IGNORE, LabelMap, Mask, Polygon, Size

Window = tuple[slice, slice]
"""Rows and columns of a rectangle of the frame."""

Outline = NDArray[np.int32]
"""int32 (N, 2) xy, pixel corners, open, the inside on the left hand (on a y-down screen)."""

Closed = TypeVar("Closed", NDArray[np.int32], NDArray[np.bool_])


def rasterise(polygons: Sequence[Polygon], size: Size, ignore: int = IGNORE) -> LabelMap:
    """Paint `polygons` in z order (list order within one); what none covers is `ignore`."""
    label_map = np.full(size, ignore, dtype=np.uint8)
    for polygon in sorted(polygons, key=lambda polygon: polygon.z_order):
        window, inside = fill(polygon.points, size)
        label_map[window][inside] = polygon.label
    return label_map


def fill(points: NDArray[np.float64] | Outline, size: Size) -> tuple[Window, Mask]:
    """The pixels whose centres lie inside `points` (even-odd), as a window and a mask of it.

    `points` is (N, 2) xy, open, and may leave the frame. A centre on an edge belongs to the polygon
    right of the edge (below it, if horizontal), so polygons that share an edge never share a pixel.
    `cv2.fillPoly` would also paint every pixel that the edges touch.
    """
    height, width = size
    start, end = points.astype(np.float64), np.roll(points, -1, axis=0).astype(np.float64)
    downward = start[:, 1] <= end[:, 1]
    # From top to bottom whichever way it was drawn: rounding is the same for both neighbours.
    upper_x, upper_y = np.where(downward[:, None], start, end).T
    lower_x, lower_y = np.where(downward[:, None], end, start).T

    first = np.clip(np.ceil(upper_y - 0.5), 0, height).astype(np.intp)
    last = np.clip(np.ceil(lower_y - 0.5), 0, height).astype(np.intp)
    rows_crossed = last - first
    edge = np.repeat(np.arange(len(points)), rows_crossed)
    if edge.size == 0:
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), dtype=np.bool_)
    row = np.arange(edge.size) - np.repeat(np.cumsum(rows_crossed) - last, rows_crossed)
    run, fall = (lower_x - upper_x)[edge], (lower_y - upper_y)[edge]
    crossing = upper_x[edge] + (row + 0.5 - upper_y[edge]) * run / fall
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)

    top, bottom, left, right = row.min(), row.max() + 1, column.min(), column.max()
    stride = right - left + 1
    toggles = np.bincount(
        (row - top) * stride + column - left, minlength=(bottom - top) * stride
    ).astype(np.uint8)
    parity = np.cumsum(toggles.reshape(-1, stride)[:, :-1], axis=1, dtype=np.uint8) & 1
    return (slice(top, bottom), slice(left, right)), parity.astype(np.bool_)


def vectorise(label_map: LabelMap) -> list[Polygon]:
    """Polygons that paint `label_map` exactly, one for each 4-connected component of one value.

    An outline fills the holes of its component; what lies in the holes has a smaller outline and
    is painted later. `IGNORE` is a value like the others, so that voids in holes come back too.
    """
    found = list(outlines(label_map.astype(np.int64)))
    found.sort(key=lambda pair: -cv2.contourArea(pair[1]))
    return [
        Polygon(value, corners(outline).astype(np.float64), z_order)
        for z_order, (value, outline) in enumerate(found)
    ]


def outlines(keys: NDArray[np.int64]) -> Iterator[tuple[int, Outline]]:
    """Key and outer outline of each 4-connected component of equal keys.

    `keys` is int64 (H, W), -1 where no outline is wanted. 4-connected because then components nest
    strictly: each lies wholly inside the outline of another or wholly outside it, even where they
    touch at a corner.
    """
    components = measure.label(keys, background=-1, connectivity=1)  # type: ignore[no-untyped-call]
    key_of = np.zeros(components.max() + 1, dtype=np.int64)
    key_of[components] = keys
    for number, window in enumerate(ndimage.find_objects(components), start=1):
        origin = np.array([window[1].start, window[0].start], dtype=np.int32)
        yield int(key_of[number]), outline_of(components[window] == number) + origin


def outline_of(mask: Mask) -> Outline:
    """Outer outline of a 4-connected mask, in steps of one pixel."""
    # A pixel becomes 2 x 2, so that each of its corners has a boundary pixel of its own.
    doubled = mask.repeat(2, axis=0).repeat(2, axis=1).view(np.uint8)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = (np.asarray(contours[0], dtype=np.int32).reshape(-1, 2) + 1) >> 1
    outline: Outline = points[(points != advance(points, 1)).any(axis=1)]
    return outline


def corners(outline: Outline) -> Outline:
    """`outline` without the points at which it goes straight on."""
    step = advance(outline, 1) - outline
    turning: Outline = outline[(step != advance(step, -1)).any(axis=1)]
    return turning


def advance(closed: Closed, steps: int) -> Closed:
    """The closed sequence `closed`, begun `steps` later; `np.roll`, many times as fast."""
    return np.concatenate([closed[steps:], closed[:steps]])


def encode_polygons(label_map: LabelMap) -> list[tuple[int, list[int]]]:
    """Class and flat xy `points` of polygons that cover every labelled pixel exactly once.

    The polygons have no holes, as CVAT wants them: a component with holes is cut into pieces by
    vertical lines. `IGNORE` is left out.
    """
    keys = label_map.astype(np.int64)
    keys[label_map == IGNORE] = -1
    return [(label, corners(outline).ravel().tolist()) for label, outline in _without_holes(keys)]


def _without_holes(keys: NDArray[np.int64]) -> Iterator[tuple[int, Outline]]:
    """Key and outline of 4-connected pieces of equal keys, int64 (H, W), -1 left out."""
    components = measure.label(keys, background=-1, connectivity=1)  # type: ignore[no-untyped-call]
    for number, (rows, columns) in enumerate(ndimage.find_objects(components), start=1):
        component = components[rows, columns] == number
        key = int(keys[rows, columns].flat[component.argmax()])
        origin = np.array([columns.start, rows.start], dtype=np.int32)
        outline = outline_of(component)
        if cv2.contourArea(outline) == np.count_nonzero(component):
            yield key, outline + origin
            continue
        _, filled = fill(outline, component.shape)
        holed = np.flatnonzero((filled & ~component).any(axis=0))
        middle = int(holed[len(holed) // 2])
        for left, half in ((0, component[:, :middle]), (middle, component[:, middle:])):
            for _, piece in _without_holes(np.where(half, key, -1)):
                yield key, piece + origin + np.array([left, 0], dtype=np.int32)
