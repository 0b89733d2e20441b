"""From pixels to samples: uncertainty (Eq. 1) and feature (Eq. 2) of every segment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hvsa_cvat.segmentation.predict import DensePrediction
from hvsa_cvat.types import FramePrediction, SegmentMap


def pool_features(
    feature_map: NDArray[np.float32], segments: SegmentMap, count: int
) -> NDArray[np.float32]:
    """Eq. 2: mean over each segment's pixels of the feature of the cell they lie in.

    feature_map (D, h, w), segments (H, W) -> float32 (count, D). Exact for segments smaller than
    a cell, which taking the segment map down to (h, w) would lose.
    """
    height, width = segments.shape
    _, rows, columns = feature_map.shape
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    cell = (row[:, None] * columns + column[None, :]).ravel()
    ones = np.ones(cell.size, np.float32)
    pixels = csr_array((ones, (segments.ravel(), cell)), shape=(count, rows * columns))
    sums = pixels @ feature_map.reshape(len(feature_map), -1).T
    sizes = np.bincount(segments.ravel(), minlength=count)
    return np.asarray(sums / sizes[:, None], np.float32)


def score_segments(
    prediction: DensePrediction, segments: SegmentMap, count: int
) -> FramePrediction:
    """Uncertainty and feature of each of the `count` segments of one frame."""
    uncertainty = np.bincount(
        segments.ravel(), weights=prediction.uncertainty.ravel(), minlength=count
    )
    return FramePrediction(
        prediction.frame,
        prediction.label_map,
        uncertainty.astype(np.float32),
        pool_features(prediction.feature_map, segments, count),
    )
