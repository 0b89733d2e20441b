import math
import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from hvsa_cvat.metrics import (
    BoundaryIoU,
    ConfusionMatrix,
    boundary_region,
    boundary_width,
    score_consistency,
    score_video,
    warp_label_map,
)
from hvsa_cvat.types import IGNORE, Correspondence, LabelMap, LabelSet

nan = math.nan


def drawn(*rows: str) -> LabelMap:
    """One character a pixel: a digit is a class, a dot is `IGNORE`."""
    return np.array([[IGNORE if c == "." else int(c) for c in row] for row in rows], np.uint8)


def shift(
    dx: float, dy: float, size: tuple[int, int], valid: bool = True, source: int = 0
) -> Correspondence:
    flow = np.empty((2, *size), np.float16)
    flow[0], flow[1] = dx, dy
    return Correspondence(source, source + 1, flow, np.full(size, valid))


def no_flow(frame: int) -> None:
    return None


def confusion(truth: LabelMap, prediction: LabelMap, classes: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes)
    matrix.add(truth, prediction)
    return matrix


def label_maps(classes: int = 3, ignore: bool = True) -> st.SearchStrategy[LabelMap]:
    values = st.sampled_from([*range(classes), *([IGNORE] if ignore else [])])
    return arrays(np.uint8, (5, 7), elements=values)


def test_confusion_counts_rows_of_truth_and_columns_of_prediction() -> None:
    matrix = confusion(drawn("0011", "01.."), drawn("0112", "0.01"), 3)
    assert_array_equal(matrix.counts, [[2, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    assert matrix.counts.dtype == np.int64
    assert matrix.pixel_accuracy == 3 / 6
    # class 0: 2 / 3; class 1: 1 / (3 truth + 2 predicted - 1); class 2: 0 / 1
    assert_allclose(matrix.iou, [2 / 3, 1 / 4, 0])
    assert matrix.miou == pytest.approx((2 / 3 + 1 / 4) / 3)


def test_confusion_of_perfect_and_of_all_wrong() -> None:
    truth = drawn("0011", "2211")
    perfect = confusion(truth, truth, 4)
    assert_array_equal(perfect.iou, [1, 1, 1, nan])
    assert (perfect.miou, perfect.pixel_accuracy) == (1, 1)
    wrong = confusion(truth, drawn("1100", "0000"), 4)
    assert_array_equal(wrong.iou, [0, 0, 0, nan])
    assert (wrong.miou, wrong.pixel_accuracy) == (0, 0)


def test_confusion_of_one_class_and_of_nothing_labelled() -> None:
    one = confusion(drawn("00", "0."), drawn("00", ".0"), 1)
    assert_array_equal(one.iou, [2 / 3])
    nothing = confusion(drawn(".."), drawn("01"), 2)
    assert math.isnan(nothing.miou)
    assert math.isnan(nothing.pixel_accuracy)


def test_confusion_takes_255_classes() -> None:
    truth = np.array([[254, 0, IGNORE]], np.uint8)
    matrix = confusion(truth, np.array([[254, IGNORE, 3]], np.uint8), 255)
    assert matrix.counts[254, 254] == 1
    assert matrix.counts[0, 255] == 1
    assert matrix.counts.sum() == 2


def test_confusion_adds_up_over_frames() -> None:
    truth, prediction = drawn("0101"), drawn("0011")
    matrix = ConfusionMatrix(2)
    matrix.add(truth[:, :2], prediction[:, :2])
    matrix.add(truth[:, 2:], prediction[:, 2:])
    assert_array_equal(matrix.counts, confusion(truth, prediction, 2).counts)


@pytest.mark.parametrize("meter", [ConfusionMatrix(2), BoundaryIoU(2)])
def test_meters_refuse_what_cannot_be_compared(meter: ConfusionMatrix | BoundaryIoU) -> None:
    with pytest.raises(ValueError, match="truth is"):
        meter.add(drawn("01"), drawn("011"))
    with pytest.raises(ValueError, match="prediction holds"):
        meter.add(drawn("01"), drawn("02"))
    with pytest.raises(ValueError, match="truth holds"):
        meter.add(drawn("02"), drawn("01"))


def test_boundary_width_is_two_percent_of_the_diagonal() -> None:
    assert boundary_width((360, 480)) == 12
    assert boundary_width((3, 4)) == 1


def test_boundary_region_includes_the_image_border() -> None:
    assert_array_equal(
        boundary_region(drawn("00000", "00000", "00000", "00011", "00011"), 1),
        [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 1, 1], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]],
    )


def reference_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Section 3 of the paper, taken literally: mask minus its erosion, zeros around the image."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (eroded == 0)


@given(label_maps(), st.integers(1, 3))
def test_boundary_region_is_that_of_every_class_by_itself(label_map: LabelMap, width: int) -> None:
    region = boundary_region(label_map, width)
    for label in range(3):
        mask = label_map == label
        assert_array_equal(region & mask, reference_boundary(mask, width))


def test_boundary_iou_by_hand() -> None:
    # d = 1. Truth: a 3x3 square of class 1 (ring of 8) in a frame of 7x7; predicted 3x4 (ring of
    # 10). Common ring pixels: 7 (the square's right middle is inside the larger one: all but it).
    truth, prediction = np.zeros((7, 7), np.uint8), np.zeros((7, 7), np.uint8)
    truth[2:5, 2:5] = 1
    prediction[2:5, 2:6] = 1
    meter = BoundaryIoU(3)
    meter.add(truth, prediction)
    # Class 0: in both all its pixels are within 1 pixel of the square or of the image border.
    assert_allclose(meter.iou, [37 / 40, 7 / 11, nan])
    assert meter.miou == pytest.approx((37 / 40 + 7 / 11) / 2)


def test_boundary_iou_of_perfect_all_wrong_and_nothing() -> None:
    truth = drawn("00111", "00111", "0.111", "22222")
    perfect, wrong, nothing = BoundaryIoU(4), BoundaryIoU(4), BoundaryIoU(4)
    perfect.add(truth, np.where(truth == IGNORE, np.uint8(2), truth))
    assert_array_equal(perfect.iou, [1, 1, 1, nan])
    wrong.add(truth, drawn("11222", "11222", "11222", "00000"))
    assert_array_equal(wrong.iou, [0, 0, 0, nan])
    nothing.add(drawn("..."), drawn("012"))
    assert math.isnan(nothing.miou)


def test_boundary_iou_of_one_class_sees_the_image_border_alone() -> None:
    meter = BoundaryIoU(1)
    truth, prediction = np.zeros((5, 5), np.uint8), np.zeros((5, 5), np.uint8)
    prediction[0, 0] = IGNORE
    meter.add(truth, prediction)
    # truth: 16 border pixels; prediction: 15 of them and (1, 1), which now touches a hole
    assert_allclose(meter.iou, [15 / 17])


def test_boundary_iou_adds_up_over_frames() -> None:
    right, wrong = drawn("000", "000", "000"), drawn("111", "111", "111")
    meter = BoundaryIoU(2)
    meter.add(right, right)
    meter.add(right, wrong)
    assert_allclose(meter.iou, [8 / 16, 0])


@given(label_maps(), label_maps(ignore=False))
def test_scores_are_fractions_and_the_truth_scores_one(
    truth: LabelMap, prediction: LabelMap
) -> None:
    labels = LabelSet(("a", "b", "c"))
    right = np.where(truth == IGNORE, prediction, truth)
    for predicted in (prediction, right):
        scores = score_video([predicted], [truth], labels, no_flow)
        for value in (scores.miou, scores.pixel_accuracy, scores.boundary_iou):
            assert value is None or 0 <= value <= 1
    assert scores.miou in (1, None)
    assert scores.boundary_iou in (1, None)


def test_boundary_iou_is_quick() -> None:
    rng = np.random.default_rng(0)
    truth = cv2.resize(
        rng.integers(0, 11, (36, 48), np.uint8), (480, 360), interpolation=cv2.INTER_NEAREST
    )
    meter = BoundaryIoU(11)
    start = time.perf_counter()
    for _ in range(10):
        meter.add(truth, truth[:, ::-1])
    assert (time.perf_counter() - start) / 10 < 0.1  # about 6 ms; slack for a busy machine


def test_warp_brings_the_target_back_to_the_source() -> None:
    later = drawn("0123", "0123")
    assert_array_equal(warp_label_map(later, shift(1, 0, (2, 4))), drawn("123.", "123."))
    assert_array_equal(warp_label_map(later, shift(-0.6, 0, (2, 4))), drawn(".012", ".012"))
    assert_array_equal(warp_label_map(later, shift(0.4, 1, (2, 4))), drawn("0123", "...."))
    assert_array_equal(
        warp_label_map(later, shift(0, 0, (2, 4), valid=False)), drawn("....", "....")
    )


def test_warp_scales_the_flow_to_the_label_map() -> None:
    small = shift(0.5, 1, (2, 4))
    small.valid[:, 0] = False
    later = drawn("00112233", "44556677", "00112233", "44556677")
    # twice the size: one pixel right, two down; the leftmost two columns are not valid
    assert_array_equal(
        warp_label_map(later, small), drawn("..12233.", "..56677.", "........", "........")
    )


def test_consistency_of_a_moving_object_is_seen_along_the_flow_only() -> None:
    frames = [drawn("01000"), drawn("00100"), drawn("00010")]
    result = score_consistency(frames, lambda t: shift(1, 0, (1, 5), source=t), 2)
    assert result.along_flow == 1
    # each pair: class 0 has 3 common of 5, class 1 none of 2
    assert result.plain == pytest.approx((6 / 10 + 0) / 2)


def test_consistency_asks_for_each_pair_and_counts_valid_pixels_only() -> None:
    asked = []

    def correspondences(frame: int) -> Correspondence | None:
        asked.append(frame)
        if frame == 1:
            return None
        correspondence = shift(0, 0, (1, 4), source=frame)
        correspondence.valid[0, 3] = False
        return correspondence

    frames = [drawn("0010"), drawn("0011"), drawn("1111")]
    result = score_consistency(frames, correspondences, 3)
    assert asked == [0, 1]
    assert result.along_flow == 1
    # pairs of classes: 00 00 11 01 | 01 01 11 11
    assert result.plain == pytest.approx((2 / 5 + 3 / 6) / 2)


def test_consistency_leaves_out_pixels_unknown_in_either_frame() -> None:
    frames = [drawn("0.11"), drawn("01.0")]
    assert score_consistency(frames, no_flow, 2).plain == pytest.approx((1 / 2 + 0) / 2)


@pytest.mark.parametrize("frames", [[], [drawn("01")]])
def test_consistency_of_fewer_than_two_frames_is_undefined(frames: list[LabelMap]) -> None:
    result = score_consistency(frames, no_flow, 2)
    assert math.isnan(result.along_flow)
    assert math.isnan(result.plain)


def test_score_video_in_one_pass() -> None:
    labels = LabelSet(("wall", "door", "lamp"))
    truths = [drawn("0011"), drawn("...."), drawn("0111")]
    predictions = [drawn("0011"), drawn("0011"), drawn("0011")]
    scores = score_video(
        iter(predictions), iter(truths), labels, lambda t: shift(0, 0, (1, 4), source=t)
    )
    assert scores.iou == {"wall": 3 / 4, "door": 4 / 5, "lamp": None}
    assert scores.miou == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert scores.pixel_accuracy == 7 / 8
    assert scores.boundary_iou == pytest.approx(scores.miou)  # one row is all boundary
    assert scores.temporal_consistency == scores.temporal_consistency_plain == 1


def test_undefined_scores_are_null_in_json() -> None:
    scores = score_video([drawn("0")], [drawn(".")], LabelSet(("a",)), no_flow)
    assert scores.model_dump_json() == (
        '{"miou":null,"iou":{"a":null},"pixel_accuracy":null,"boundary_iou":null,'
        '"boundary_iou_classes":{"a":null},"temporal_consistency":null,'
        '"temporal_consistency_plain":null}'
    )
    assert type(scores).model_validate_json(scores.model_dump_json()) == scores


def test_score_video_wants_as_many_truths_as_predictions() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score_video([drawn("0")] * 2, [drawn("0")], LabelSet(("a",)), no_flow)
