"""What an annotation costs in mouse clicks, and what the label map looks like as a person draws it.

Paper, section 4: a person outlines each connected component of one class inside a sample by a
polygon, here found by Ramer-Douglas-Peucker. Each vertex is a boundary click, each polygon one
class click. Training sees the polygons only ("mimic manual annotation"), never the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.polygons import Outline, advance, corners, fill, outlines
from hvsa_cvat.types import IGNORE, Clicks, LabelMap, Mask, Polygon, SegmentMap


@dataclass(frozen=True)
class AnnotationRules:
    """How carefully people draw, and what counts as a click."""

    epsilon: float = 1.0
    """Tolerance of Ramer-Douglas-Peucker in pixels; 0 draws the truth exactly."""
    charge_junctions: bool = False
    """Whether the points where a drawn line meets a free sample border cost a click. The paper does
    not say; charging them about doubles the cost of small rectangles."""

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon must be 0 or more, not {self.epsilon}")


@dataclass(frozen=True)
class Drawn:
    """One component of one class inside one segment, as drawn."""

    segment: int
    label: int
    area: float
    """Pixels inside the true outline, holes filled. Larger polygons are painted first."""
    vertices: Outline
    boundary_clicks: int


def annotate_sample(
    label_map: LabelMap,
    region: Mask | None,
    rules: AnnotationRules,
    border_is_free: bool,
) -> tuple[list[Polygon], Clicks]:
    """The polygons drawn in one sample (None: the whole frame), in order of painting, and the cost.

    Void is not drawn. Where polygons cover void, or pixels outside `region`, it does not count.
    """
    if region is None:
        region = np.ones(label_map.shape, dtype=np.bool_)
    segments = np.where(region, 0, 1).astype(np.int32)
    simple, _ = _split(label_map, segments, np.array([0]), border_is_free)
    if simple.size:
        rules = AnnotationRules(epsilon=0)
    drawn = list(draw(label_map, segments, np.array([0]), rules, border_is_free))
    drawn.sort(key=lambda each: -each.area)
    polygons = [
        Polygon(each.label, each.vertices.astype(np.float64), z_order)
        for z_order, each in enumerate(drawn)
    ]
    if simple.size:
        return polygons, Clicks(classes=1)
    return polygons, Clicks(sum(one.boundary_clicks for one in drawn), len(drawn), len(drawn))


def mimic_annotation(
    label_map: LabelMap,
    segments: SegmentMap,
    wanted: Sequence[int],
    rules: AnnotationRules,
    border_is_free: bool,
) -> tuple[LabelMap, dict[int, Clicks]]:
    """The truth `label_map` as people draw it in the `wanted` segments, and the clicks of each.

    `IGNORE` outside the wanted segments, where the truth is `IGNORE`, and in the slivers that no
    polygon covers.
    """
    ids = np.asarray(wanted, dtype=np.intp)
    simple, mixed = _split(label_map, segments, ids, border_is_free)
    free_of_drawing = np.zeros(segments.max() + 1, dtype=np.bool_)
    free_of_drawing[simple] = True
    annotation = np.where(free_of_drawing[segments], label_map, np.uint8(IGNORE))

    clicks = {int(segment): Clicks() for segment in ids}
    clicks.update({int(segment): Clicks(classes=1) for segment in simple})
    drawn = list(draw(label_map, segments, mixed, rules, border_is_free))
    for each in drawn:
        clicks[each.segment] += Clicks(each.boundary_clicks, 1, 1)
    paint(drawn, segments, annotation)
    annotation[label_map == IGNORE] = IGNORE
    return annotation, clicks


def click_cost(
    label_map: LabelMap,
    segments: SegmentMap,
    wanted: Sequence[int],
    rules: AnnotationRules,
    border_is_free: bool,
) -> NDArray[np.int64]:
    """Clicks, of both kinds, for each of the `wanted` segments: int64 (len(wanted),).

    A whole frame is the one segment of a map of zeros, its border not free.
    """
    ids = np.asarray(wanted, dtype=np.intp)
    simple, mixed = _split(label_map, segments, ids, border_is_free)
    cost = np.zeros(segments.max() + 1, dtype=np.int64)
    cost[simple] = 1
    for each in draw(label_map, segments, mixed, rules, border_is_free):
        cost[each.segment] += each.boundary_clicks + 1
    return cost[ids]


def _split(
    label_map: LabelMap, segments: SegmentMap, ids: NDArray[np.intp], border_is_free: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The segments `ids`, divided into those that one class click answers and those to draw in."""
    if label_map.shape != segments.shape:
        raise ValueError(f"label map {label_map.shape} and segments {segments.shape} differ")
    present = np.zeros((segments.max() + 1, IGNORE + 1), dtype=np.bool_)
    present[segments, label_map] = True
    classes = present[ids, :IGNORE].sum(axis=1)
    is_simple = (classes == 1) & border_is_free
    return ids[is_simple], ids[(classes > 0) & ~is_simple]


def paint(drawn: Sequence[Drawn], segments: SegmentMap, onto: LabelMap) -> None:
    """Paint each component inside its segment into the label map `onto`, larger ones first."""
    for each in sorted(drawn, key=lambda each: -each.area):
        window, inside = fill(each.vertices, segments.shape)
        onto[window][inside & (segments[window] == each.segment)] = each.label


def draw(
    label_map: LabelMap,
    segments: SegmentMap,
    ids: NDArray[np.intp],
    rules: AnnotationRules,
    border_is_free: bool,
) -> Iterator[Drawn]:
    """Every component of one class inside one of the segments `ids`, void left out."""
    if ids.size == 0:
        return
    wanted = np.zeros(segments.max() + 1, dtype=np.bool_)
    wanted[ids] = True
    keys = segments.astype(np.int64) * (IGNORE + 1) + label_map
    keys[~wanted[segments] | (label_map == IGNORE)] = -1
    surrounded = np.pad(segments, 1, constant_values=-1)
    for key, outline in outlines(keys):
        segment, label = divmod(key, IGNORE + 1)
        if border_is_free:
            on_border = _outside(outline, surrounded) != segment
        else:
            on_border = np.zeros(len(outline), dtype=np.bool_)
        vertices, charged = _simplify(outline, on_border, rules.epsilon, rules.charge_junctions)
        if len(vertices) < 3 or cv2.contourArea(vertices) == 0:
            # Too small for the tolerance; a person would still draw it.
            vertices, charged = _simplify(outline, on_border, 0.0, rules.charge_junctions)
        yield Drawn(segment, label, cv2.contourArea(outline), vertices, charged)


def _outside(outline: Outline, surrounded: SegmentMap) -> SegmentMap:
    """For each edge of `outline`, the segment of the pixel on its outer side.

    Edge i runs from point i to the next. `surrounded` is the segment map with a margin of 1 pixel.
    """
    step = advance(outline, 1) - outline
    (x, y), (dx, dy) = outline.T, step.T
    column, row = (2 * x + dx - dy - 1) >> 1, (2 * y + dy + dx - 1) >> 1
    outside: SegmentMap = surrounded[row + 1, column + 1]
    return outside


def _simplify(
    outline: Outline, on_border: NDArray[np.bool_], epsilon: float, charge_junctions: bool
) -> tuple[Outline, int]:
    """Vertices drawn for `outline`, and how many of them cost a click.

    `on_border`, bool (N,), marks the edges along the free border: they stay exact and cost nothing.
    The stretches between them are simplified with fixed ends.
    """
    if not on_border.any():
        closed = _approximate(outline, epsilon, closed=True)
        return closed, len(closed)
    if on_border.all():
        return corners(outline), 0
    start = int(np.flatnonzero(on_border & ~advance(on_border, 1))[0]) + 1
    outline, on_border = advance(outline, start), advance(on_border, start)
    looped = np.concatenate([outline, outline[:1]])
    cuts = [0, *(np.flatnonzero(on_border[1:] != on_border[:-1]) + 1).tolist(), len(outline)]
    pieces, charged = [], 0
    for first, last in pairwise(cuts):
        stretch = looped[first : last + 1]
        free = on_border[first]
        piece = _approximate(stretch, 0.0 if free else epsilon, closed=False)
        pieces.append(piece[:-1])
        if not free:
            charged += len(piece) - 2 + 2 * charge_junctions
    return np.concatenate(pieces), charged


def _approximate(points: Outline, epsilon: float, *, closed: bool) -> Outline:
    return np.asarray(cv2.approxPolyDP(points, epsilon, closed), dtype=np.int32).reshape(-1, 2)
