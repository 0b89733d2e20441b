"""What the shapes of CVAT show: the pixels they cover, and the clicks that drawing them took.

Pure functions over the server's JSON. CVAT's coordinates are those of `hvsa_cvat.types`:
continuous, pixel (0, 0) covers [0, 1] x [0, 1]. A pixel belongs to a shape when its centre lies
inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.clicks import AnnotationRules, annotate_sample
from hvsa_cvat.annotation.polygons import Window, fill
from hvsa_cvat.errors import AnnotationError
from hvsa_cvat.types import IGNORE, Clicks, LabelMap, Mask, Size

Json = dict[str, Any]
"""A shape as the server sends and takes it; a key that is absent or null has its default."""

_FARTHEST = 2.0**31
"""Coordinates and run lengths from this size on belong to no image, and would overflow products."""

_TRUST = {"auto": 0, "semi-auto": 1}
"""By source; every other source, whatever a server calls it, is a person's: 2."""


def fill_shape(shape: Json, size: Size) -> tuple[Window, Mask] | None:
    """The pixels that a shape covers, as a window of the frame and a mask of it.

    Polygons, rectangles, ellipses and masks; None for kinds that cover nothing. What lies outside
    the frame is cut off. Ellipses are exact, as people see them while they draw; CVAT's mask export
    first rounds them to whole pixels. `AnnotationError` where the numbers make no sense: the
    server stores any numbers.
    """
    kind = shape.get("type")
    if kind not in ("polygon", "rectangle", "ellipse", "mask"):
        return None
    points = _points(shape)
    if kind == "mask":
        return _fill_mask(shape, points, size)
    if kind == "polygon":
        if points.size % 2:
            raise _unreadable(shape, f"{points.size} numbers are no pairs of coordinates")
        return fill(points.reshape(-1, 2), size)
    if points.size != 4:
        raise _unreadable(shape, f"it has {points.size} numbers instead of 4")
    rotation = float(shape.get("rotation") or 0)
    if kind == "ellipse":
        return _fill_ellipse(points, rotation, size)
    left, top, right, bottom = points.tolist()
    box = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    if rotation:
        centre = np.array([(left + right) / 2, (top + bottom) / 2])
        cos, sin = _direction(rotation)
        box = centre + (box - centre) @ np.array([[cos, sin], [-sin, cos]])
    return fill(box, size)


def _points(shape: Json) -> NDArray[np.float64]:
    try:
        points = np.asarray(shape.get("points"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _unreadable(shape, "its points are not numbers") from error
    if points.ndim != 1 or not (np.abs(points) < _FARTHEST).all():
        raise _unreadable(shape, "its points are missing, endless or no numbers")
    return points


def _unreadable(shape: Json, reason: str) -> AnnotationError:
    which = " ".join(str(part) for part in (shape["type"], shape.get("id")) if part is not None)
    return AnnotationError(
        f"{which} on frame {shape.get('frame')} cannot be read: {reason}; "
        "delete it in CVAT or draw it again"
    )


def _fill_mask(shape: Json, points: NDArray[np.float64], size: Size) -> tuple[Window, Mask]:
    if points.size < 5:
        raise _unreadable(shape, f"{points.size} numbers are too few for runs and a box")
    if (points % 1).any():
        raise _unreadable(shape, "its run lengths and box must be whole numbers")
    runs = points[:-4].astype(np.int64)
    left, top, right, bottom = points[-4:].astype(np.int64).tolist()
    width, height = right - left + 1, bottom - top + 1
    if width < 1 or height < 1:
        raise _unreadable(shape, f"its box {left}, {top}, {right}, {bottom} is empty")
    if (runs < 0).any():
        raise _unreadable(shape, "a run length is negative")
    if runs.sum() != width * height:
        raise _unreadable(shape, f"its runs are {runs.sum()} pixels, its box {width * height}")

    rows, columns = _clip(top, bottom + 1, size[0]), _clip(left, right + 1, size[1])
    if (rows.stop - rows.start, columns.stop - columns.start) == (height, width):
        inside = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(height, width)
        return (rows, columns), inside
    # The box may be of any size, so only the pixels of the frame are looked up.
    begin = (np.arange(rows.start, rows.stop) - top) * width
    position = begin[:, None] + np.arange(columns.start, columns.stop) - left
    run: NDArray[np.intp] = np.searchsorted(np.cumsum(runs), position, side="right")
    return (rows, columns), run % 2 == 1


def _fill_ellipse(points: NDArray[np.float64], rotation: float, size: Size) -> tuple[Window, Mask]:
    """`points` are the centre's x and y, the x of its right and the y of its topmost point."""
    centre_x, centre_y, right, top = points.tolist()
    radius_x, radius_y = abs(right - centre_x), abs(centre_y - top)
    cos, sin = _direction(rotation)
    reach_x = math.hypot(radius_x * cos, radius_y * sin)
    reach_y = math.hypot(radius_x * sin, radius_y * cos)
    rows = _clip(math.floor(centre_y - reach_y), math.ceil(centre_y + reach_y), size[0])
    columns = _clip(math.floor(centre_x - reach_x), math.ceil(centre_x + reach_x), size[1])
    x = np.arange(columns.start, columns.stop) + 0.5 - centre_x
    y = (np.arange(rows.start, rows.stop) + 0.5 - centre_y)[:, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    inside = (along * radius_y) ** 2 + (across * radius_x) ** 2 < (radius_x * radius_y) ** 2
    return (rows, columns), inside


def _clip(start: int, stop: int, length: int) -> slice:
    return slice(min(max(start, 0), length), min(max(stop, 0), length))


def _direction(degrees: float) -> tuple[float, float]:
    """Cosine and sine; clockwise, because y points down."""
    # Rounded, so that quarter turns are exact and corners stay on the pixel grid.
    return round(math.cos(math.radians(degrees)), 12), round(math.sin(math.radians(degrees)), 12)


def compose(
    shapes: Sequence[tuple[int, Json]],
    size: Size,
    note: Callable[[str], None] | None = None,
) -> LabelMap:
    """The label map that (class index, shape) pairs of one frame add up to; else `IGNORE`.

    Later shapes cover earlier ones in the order of: source (automatic shapes lowest, then those
    that people corrected, then people's own), z-order, shape before track, id. The z-order does not
    come first: a new shape takes the layer that is shown, which may lie below ours.
    Shapes that cannot be read are left out and `note` is told of them; without `note` the first
    such shape raises its `AnnotationError`.
    """
    label_map = np.full(size, IGNORE, dtype=np.uint8)
    for label, shape in sorted(shapes, key=lambda pair: _height(pair[1])):
        try:
            filled = fill_shape(shape, size)
        except AnnotationError as error:
            if note is None:
                raise
            note(str(error))
            continue
        if filled is not None:
            window, inside = filled
            label_map[window][inside] = label
    return label_map


def _height(shape: Json) -> tuple[int, int, bool, int]:
    track = shape.get("track_id")
    return (
        _TRUST.get(shape.get("source") or "manual", 2),
        shape.get("z_order") or 0,
        track is not None,
        track or shape.get("id") or 0,
    )


def shape_clicks(shape: Json, size: Size, epsilon: float = 1.0) -> Clicks:
    """What drawing a shape took: a click for each vertex and one for its class.

    Rectangles and ellipses take two clicks, on opposite corners, and one to turn them. A mask costs
    the polygons around its components, simplified with a tolerance of `epsilon` pixels. Its holes
    are free, because what lies in them is a shape of its own.
    """
    if shape["type"] == "mask":
        filled = fill_shape(shape, size)
        if filled is None or not filled[1].any():
            return Clicks()
        label_map = np.where(filled[1], np.uint8(0), np.uint8(IGNORE))
        return annotate_sample(label_map, None, AnnotationRules(epsilon), border_is_free=False)[1]
    if shape["type"] in ("rectangle", "ellipse"):
        return Clicks(3 if shape.get("rotation") else 2, classes=1, polygons=1)
    return Clicks(len(shape.get("points") or ()) // 2, classes=1, polygons=1)
