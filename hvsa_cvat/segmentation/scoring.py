"""From pixels to samples: uncertainty (Eq. 1) and feature (Eq. 2) of every segment."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from hvsa_cvat.segmentation.predict import DensePrediction
from hvsa_cvat.types import FramePrediction, SegmentMap, Size


def score_segments(
    prediction: DensePrediction, segments: SegmentMap, count: int
) -> FramePrediction:
    """Uncertainty and feature of each of the `count` segments of one frame.

    Both are pooled where the prediction lies. On a CPU by SciPy, which takes half of PyTorch's time
    or less.
    """
    pool = pool_by_scipy if prediction.feature_map.device.type == "cpu" else pool_by_torch
    uncertainty, features = pool(prediction.uncertainty, prediction.feature_map, segments, count)
    return FramePrediction(prediction.frame, prediction.label_map, uncertainty, features)


Pooled = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of each segment: the sum of its uncertainty, float32 (count,); and the mean over its pixels of
the feature of the cell they lie in, float32 (count, D). The mean is exact for segments smaller than
a cell, which taking the segment map down to the features' size would lose."""


def pool_by_scipy(
    uncertainty: Tensor, feature_map: Tensor, segments: SegmentMap, count: int
) -> Pooled:
    """uncertainty (H, W), feature_map (D, h, w), segments (H, W)."""
    of_pixel, cells = segments.ravel(), feature_map[0].numel()
    ones = np.ones(of_pixel.size, np.float32)
    cell = _cells(segments.shape, feature_map).numpy()
    pixels = csr_array((ones, (of_pixel, cell)), shape=(count, cells))
    features = pixels @ feature_map.numpy().reshape(len(feature_map), -1).T
    sizes = np.bincount(of_pixel, minlength=count)
    summed = np.bincount(of_pixel, weights=uncertainty.numpy().ravel(), minlength=count)
    return summed.astype(np.float32), np.asarray(features / sizes[:, None], np.float32)


def pool_by_torch(
    uncertainty: Tensor, feature_map: Tensor, segments: SegmentMap, count: int
) -> Pooled:
    """The same as `pool_by_scipy`, on the device of `uncertainty` and `feature_map`."""
    device, cells = feature_map.device, feature_map[0].numel()
    of_pixel = torch.tensor(segments, dtype=torch.int64, device=device).flatten()
    cell = _cells(segments.shape, feature_map)
    ones = torch.ones(len(of_pixel), device=device)
    places = torch.stack([of_pixel, cell])
    # a check would wait for the device
    unchecked = torch.sparse.check_sparse_tensor_invariants(False)  # type: ignore[no-untyped-call]
    with unchecked:
        pixels = torch.sparse_coo_tensor(places, ones, (count, cells))
        features = torch.sparse.mm(pixels.coalesce(), feature_map.flatten(1).T)
    sizes = torch.bincount(of_pixel, minlength=count)
    summed = torch.bincount(of_pixel, weights=uncertainty.flatten().double(), minlength=count)
    return summed.float().cpu().numpy(), (features / sizes[:, None]).cpu().numpy()


def _cells(size: Size, feature_map: Tensor) -> Tensor:
    """int64 (H W,): the cell in which each pixel lies, on the device of the features."""
    (height, width), (rows, columns) = size, feature_map.shape[1:]
    row = torch.arange(height, device=feature_map.device) * rows // height
    column = torch.arange(width, device=feature_map.device) * columns // width
    return (row[:, None] * columns + column).flatten()
