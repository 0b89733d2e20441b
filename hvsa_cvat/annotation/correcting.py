"""What it costs to answer from a label map that is shown, and what the answer looks like.

A person who sees masks confirms them, corrects them or draws anew, whichever takes the fewest
clicks. What counts as wrong follows the rule of drawing: a band along a border that is no thicker
than the tolerance is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from hvsa_cvat.annotation.clicks import AnnotationRules, Drawn, draw, mimic_annotation, paint
from hvsa_cvat.types import IGNORE, AnswerKind, Clicks, LabelMap, Mask, SegmentMap

_CONFIRM = Clicks(classes=1)
"""The click that says that a sample is right, as it is shown or after it was corrected."""


@dataclass(frozen=True)
class Answered:
    """The answer to some samples of one frame."""

    label_map: LabelMap
    """`IGNORE` outside the samples and where the truth is."""
    clicks: dict[int, Clicks]
    """One entry for each segment."""
    kinds: dict[int, AnswerKind]
    """One entry for each segment."""


def cheapest_answer(
    truth: LabelMap,
    shown: LabelMap,
    segments: SegmentMap,
    wanted: Sequence[int],
    rules: AnnotationRules,
    border_is_free: bool,
    tolerance: float,
) -> Answered:
    """Each of the `wanted` segments as a person answers it who sees `shown` there.

    `tolerance` is in pixels. Where confirming or correcting costs what drawing costs, nobody draws.
    """
    drawn, drawing = mimic_annotation(truth, segments, wanted, rules, border_is_free)
    corrected, correcting = correct(
        truth, shown, segments, wanted, rules, border_is_free, tolerance
    )
    kinds, redrawn = {}, np.zeros(segments.max() + 1, np.bool_)
    for segment in wanted:
        if drawing[segment].total < correcting[segment].total:
            kinds[segment], redrawn[segment] = AnswerKind.DRAWN, True
        elif correcting[segment] == _CONFIRM:
            kinds[segment] = AnswerKind.CONFIRMED
        else:
            kinds[segment] = AnswerKind.CORRECTED
    clicks = {one: (drawing if redrawn[one] else correcting)[one] for one in wanted}
    return Answered(np.where(redrawn[segments], drawn, corrected), clicks, kinds)


def correct(
    truth: LabelMap,
    shown: LabelMap,
    segments: SegmentMap,
    wanted: Sequence[int],
    rules: AnnotationRules,
    border_is_free: bool,
    tolerance: float,
) -> tuple[LabelMap, dict[int, Clicks]]:
    """`shown` in the `wanted` segments as a person leaves it who corrects it, and the clicks.

    A connected part that shows a wrong class is relabelled by one click where that saves clicks.
    What is wrong then is drawn by polygons, as `mimic_annotation` draws. One more click says that
    the sample is right. `IGNORE` outside the segments and where the truth is `IGNORE`.
    """
    if truth.shape != shown.shape:
        raise ValueError(f"truth {truth.shape} and shown map {shown.shape} differ")
    chosen = np.zeros(segments.max() + 1, np.bool_)
    chosen[list(wanted)] = True
    known = chosen[segments] & (truth != IGNORE)
    clicks = {int(segment): _CONFIRM for segment in wanted}
    label_map, relabelled = _relabel(truth, shown, segments, known, rules, tolerance)
    for segment in relabelled:
        clicks[segment] += Clicks(classes=1)
    pieces = _pieces(truth, label_map, known, tolerance)
    drawn = list(draw(pieces, segments, np.array(sorted(clicks)), rules, border_is_free))
    for each in drawn:
        clicks[each.segment] += Clicks(each.boundary_clicks, 1, 1)
    answer = np.where(known, label_map, np.uint8(IGNORE))
    paint(drawn, segments, answer)
    answer[~known] = IGNORE
    return answer, clicks


def wrong_beyond(wrong: Mask, tolerance: float) -> Mask:
    """The part of `wrong` that is thicker than `tolerance` pixels in both directions."""
    side = math.floor(tolerance) + 1
    if side == 1:
        return wrong
    # what goes on outside the frame is as thick as it seems
    padded = np.pad(wrong, side, mode="edge")
    opened: Mask = ndimage.binary_opening(padded, np.ones((side, side), np.bool_))
    return opened[side:-side, side:-side]


def _pieces(truth: LabelMap, shown: LabelMap, known: Mask, tolerance: float) -> LabelMap:
    """The truth where a person corrects `shown`; `IGNORE` elsewhere.

    A polygon also covers what it surrounds, so the holes of a piece are drawn again, too.
    """
    wrong = wrong_beyond((shown != truth) & (truth != IGNORE), tolerance) & known
    pieces: LabelMap = np.where(wrong, truth, np.uint8(IGNORE))
    holes = np.zeros_like(wrong)
    for label in np.unique(truth[wrong]):
        holes |= ndimage.binary_fill_holes(pieces == label)
    holes &= known & ~wrong
    pieces[holes] = truth[holes]
    return pieces


def _relabel(
    truth: LabelMap,
    shown: LabelMap,
    segments: SegmentMap,
    known: Mask,
    rules: AnnotationRules,
    tolerance: float,
) -> tuple[LabelMap, list[int]]:
    """`shown` with the connected parts relabelled for which that saves clicks, and the segment of
    each of them."""
    parts = _connected_parts(shown, segments, known)
    count = int(parts.max()) + 1
    classes = _count_classes(parts, truth, known, count)
    first = np.zeros(count, np.intp)
    there, places = np.unique(parts, return_index=True)
    first[there] = places
    common = classes.argmax(axis=1).astype(np.uint8)
    candidates = common != shown.ravel()[first]
    candidates[0] = False  # part 0 is all that lies outside the samples
    if not candidates.any():
        return shown, []
    changed = np.where(candidates[parts], common[parts], shown)
    before = _piece_clicks(_pieces(truth, shown, known, tolerance), parts, count, rules)
    after = _piece_clicks(_pieces(truth, changed, known, tolerance), parts, count, rules)
    saving = candidates & (1 + after < before)
    label_map = np.where(saving[parts], common[parts], shown)
    return label_map, segments.ravel()[first[saving]].tolist()


def _connected_parts(shown: LabelMap, segments: SegmentMap, known: Mask) -> SegmentMap:
    """int32 (H, W): the connected part of one class in one segment, from 1; 0 where not `known`."""
    keys = segments.astype(np.int64) * (IGNORE + 1) + shown + 1
    _, dense = np.unique(np.where(known, keys, 0), return_inverse=True)
    dense = dense.reshape(shown.shape) + (0 if (~known).any() else 1)
    parts: SegmentMap = measure.label(  # type: ignore[no-untyped-call]
        dense, background=0, connectivity=1
    ).astype(np.int32)
    return parts


def _count_classes(
    parts: SegmentMap, truth: LabelMap, known: Mask, count: int
) -> NDArray[np.int64]:
    """int64 (count, IGNORE): pixels of each part by their true class."""
    keys = parts[known].astype(np.int64) * IGNORE + truth[known]
    counts: NDArray[np.int64] = np.bincount(keys, minlength=count * IGNORE)
    return counts.reshape(count, IGNORE)


def _piece_clicks(
    pieces: LabelMap, parts: SegmentMap, count: int, rules: AnnotationRules
) -> NDArray[np.int64]:
    """int64 (count,): the clicks of drawing the pieces inside each part."""
    clicks = np.zeros(count, np.int64)
    wanted = np.unique(parts[pieces != IGNORE])
    each: Drawn
    for each in draw(pieces, parts, wanted.astype(np.intp), rules, border_is_free=False):
        clicks[each.segment] += each.boundary_clicks + 1
    return clicks
