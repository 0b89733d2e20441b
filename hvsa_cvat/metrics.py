"""Scores of label maps: mIoU, pixel accuracy, Boundary IoU and temporal consistency.

Each class takes one frame at a time and gives its score at the end, so a video is scored in one
pass with two frames in memory. Scores are fractions, and NaN if there was nothing to score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from hvsa_cvat.types import IGNORE, Correspondence, LabelMap, LabelSet, Size

BOUNDARY_RATIO = 0.02
"""Width of the boundary region, as a share of the image diagonal (Cheng et al. 2021)."""

Correspondences = Callable[[int], Correspondence | None]
"""Gives the correspondence of frame t to frame t + 1, or None if it was not computed."""


class Scores(BaseModel):
    """The scores of one set of predictions, as fractions; None where a score is undefined."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    miou: float | None
    iou: dict[str, float | None]
    pixel_accuracy: float | None
    boundary_iou: float | None
    boundary_iou_classes: dict[str, float | None]
    temporal_consistency: float | None
    """Along the flow, over the pixels whose flow passed the forward-backward check."""
    temporal_consistency_plain: float | None
    """Over all pixels, without flow: it counts flicker, and real motion too."""


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs of pixels."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes, classes + 1), np.int64)
        """int64 (C, C + 1): one row for each true class, one column for each predicted class. The
        last column counts predictions of `IGNORE`, which are errors where the truth is known."""

    def add(self, truth: LabelMap, prediction: LabelMap) -> None:
        """Count the pixels of one frame whose truth is not `IGNORE`."""
        _check(self.classes, truth, prediction)
        known = truth != IGNORE
        row = truth[known].astype(np.int64)
        # IGNORE is the largest value, so the minimum puts it into the last column.
        column = np.minimum(prediction[known], self.classes)
        counts = np.bincount(row * (self.classes + 1) + column, minlength=self.counts.size)
        self.counts += counts.reshape(self.counts.shape)

    @property
    def pixel_accuracy(self) -> float:
        """The share of labelled pixels whose predicted class is right."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else math.nan

    @property
    def iou(self) -> NDArray[np.float64]:
        """float64 (C,), NaN for classes absent from both truth and prediction."""
        inside = self.counts[:, : self.classes]
        both = np.diagonal(inside)
        return _ratio(both, self.counts.sum(axis=1) + inside.sum(axis=0) - both)

    @property
    def miou(self) -> float:
        return _mean(self.iou)


class BoundaryIoU:
    """Boundary IoU (Cheng et al., CVPR 2021, Eq. 1) of label maps, summed over frames.

    The boundary region of a class is its mask minus the mask eroded by d pixels. Outside the image
    there is no class. Pixels whose truth is `IGNORE` are first set to `IGNORE` in the prediction
    too, so that a perfect prediction scores 1 beside them as well.
    """

    def __init__(self, classes: int, ratio: float = BOUNDARY_RATIO) -> None:
        self.classes = classes
        self.ratio = ratio
        self._both = np.zeros(classes, np.int64)
        self._truth = np.zeros(classes, np.int64)
        self._prediction = np.zeros(classes, np.int64)

    def add(self, truth: LabelMap, prediction: LabelMap) -> None:
        """Count one frame."""
        _check(self.classes, truth, prediction)
        width = boundary_width(truth.shape, self.ratio)
        prediction = np.where(truth == IGNORE, np.uint8(IGNORE), prediction)
        near_truth = boundary_region(truth, width)
        near_prediction = boundary_region(prediction, width)
        both = near_truth & near_prediction & (truth == prediction)
        self._both += self._count(truth[both])
        self._truth += self._count(truth[near_truth])
        self._prediction += self._count(prediction[near_prediction])

    def _count(self, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=IGNORE + 1)[: self.classes]

    @property
    def iou(self) -> NDArray[np.float64]:
        """float64 (C,), NaN for classes absent from both truth and prediction."""
        return _ratio(self._both, self._truth + self._prediction - self._both)

    @property
    def miou(self) -> float:
        return _mean(self.iou)


def boundary_width(size: Size, ratio: float = BOUNDARY_RATIO) -> int:
    """The width d of the boundary region of a frame of `size`, in pixels; at least 1."""
    return max(1, round(ratio * math.hypot(*size)))


def boundary_region(label_map: LabelMap, width: int) -> NDArray[np.bool_]:
    """bool (H, W): the pixels that are lost when the mask of their class is eroded by `width`.

    A pixel is kept if all labels in the (2 width + 1)-square around it are equal, which means that
    their maximum and minimum are equal. So two filters do the work for all classes. Outside the
    image the maximum filter sees 255 and the minimum filter 0.
    """
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    highest = cv2.dilate(label_map, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=255)
    lowest = cv2.erode(label_map, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(highest != lowest)


@dataclass(frozen=True)
class TemporalConsistency:
    """TC (Liu et al., ECCV 2020): the mIoU of consecutive predictions. NaN for a single frame."""

    along_flow: float
    """Compares frame t with frame t + 1 warped along the flow, where the flow is valid."""
    plain: float
    """Compares frame t with frame t + 1 as it is, over all pixels."""


class ConsistencyMeter:
    """Computes `TemporalConsistency` from the predictions of frames 0, 1, 2, ..."""

    def __init__(self, correspondences: Correspondences, classes: int) -> None:
        self._correspondences = correspondences
        self._along_flow = ConfusionMatrix(classes)
        self._plain = ConfusionMatrix(classes)
        self._previous: LabelMap | None = None
        self._frame = -1

    def add(self, label_map: LabelMap) -> None:
        """Count the prediction of the next frame.

        A pixel that is `IGNORE` in one of the two frames does not count.
        """
        if self._previous is not None:
            _add_known(self._plain, self._previous, label_map)
            correspondence = self._correspondences(self._frame)
            if correspondence is not None:
                warped = warp_label_map(label_map, correspondence)
                _add_known(self._along_flow, self._previous, warped)
        self._previous = label_map
        self._frame += 1

    @property
    def result(self) -> TemporalConsistency:
        return TemporalConsistency(self._along_flow.miou, self._plain.miou)


def score_consistency(
    label_maps: Iterable[LabelMap], correspondences: Correspondences, classes: int
) -> TemporalConsistency:
    """The temporal consistency of the predictions of frames 0, 1, 2, ..."""
    meter = ConsistencyMeter(correspondences, classes)
    for label_map in label_maps:
        meter.add(label_map)
    return meter.result


def warp_label_map(label_map: LabelMap, correspondence: Correspondence) -> LabelMap:
    """Warp the label map of frame `target` to frame `source`, taking the nearest pixel.

    The result is `IGNORE` where the flow is not valid or leaves the image. Flow of another size
    than the label map is resized: bilinearly, with scaled vectors; `valid` by the nearest pixel.
    """
    height, width = label_map.shape
    dx, dy = correspondence.flow.astype(np.float32)
    valid = correspondence.valid
    if dx.shape != label_map.shape:
        dx = cv2.resize(dx, (width, height)) * np.float32(width / correspondence.flow.shape[2])
        dy = cv2.resize(dy, (width, height)) * np.float32(height / correspondence.flow.shape[1])
        small = valid.astype(np.uint8)
        valid = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    x = np.floor(np.arange(width, dtype=np.float32) + dx + 0.5).astype(np.int64)
    y = np.floor(np.arange(height, dtype=np.float32)[:, None] + dy + 0.5).astype(np.int64)
    seen = valid & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    warped = np.full_like(label_map, IGNORE)
    warped[seen] = label_map[y[seen], x[seen]]
    return warped


def score_video(
    predictions: Iterable[LabelMap],
    truths: Iterable[LabelMap],
    labels: LabelSet,
    correspondences: Correspondences,
) -> Scores:
    """Score the predictions of all frames, given in order of time.

    The truth of a frame without labels is all `IGNORE`. Such a frame counts for temporal
    consistency only.
    """
    regions = ConfusionMatrix(len(labels))
    boundaries = BoundaryIoU(len(labels))
    consistency = ConsistencyMeter(correspondences, len(labels))
    for prediction, truth in zip(predictions, truths, strict=True):
        regions.add(truth, prediction)
        boundaries.add(truth, prediction)
        consistency.add(prediction)
    over_time = consistency.result
    return Scores(
        miou=_number(regions.miou),
        iou=_by_name(labels, regions.iou),
        pixel_accuracy=_number(regions.pixel_accuracy),
        boundary_iou=_number(boundaries.miou),
        boundary_iou_classes=_by_name(labels, boundaries.iou),
        temporal_consistency=_number(over_time.along_flow),
        temporal_consistency_plain=_number(over_time.plain),
    )


def _check(classes: int, truth: LabelMap, prediction: LabelMap) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {prediction.shape}")
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if ((labels >= classes) & (labels != IGNORE)).any():
            raise ValueError(f"{name} holds a class index that is not below {classes}")


def _add_known(matrix: ConfusionMatrix, first: LabelMap, second: LabelMap) -> None:
    matrix.add(np.where(second == IGNORE, np.uint8(IGNORE), first), second)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _by_name(labels: LabelSet, values: NDArray[np.float64]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(labels, values, strict=True)}
