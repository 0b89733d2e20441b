from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.segmentation.predict import DensePrediction
from hvsa_cvat.segmentation.scoring import (
    Pooled,
    pool_by_scipy,
    pool_by_torch,
    score_segments,
)

pooling = pytest.mark.parametrize("pool", [pool_by_scipy, pool_by_torch])
Pool = Callable[..., Pooled]


def drawn(*rows: str) -> np.ndarray:
    return np.array([[int(mark) for mark in row] for row in rows], np.int32)


def pool_features(pool: Pool, features: np.ndarray, segments: np.ndarray, count: int) -> np.ndarray:
    return pool(torch.zeros(segments.shape), torch.from_numpy(features), segments, count)[1]


def pooled_slowly(features: np.ndarray, segments: np.ndarray, count: int) -> np.ndarray:
    sums, sizes = np.zeros((count, len(features))), np.zeros(count)
    (height, width), (rows, columns) = segments.shape, features.shape[1:]
    for y in range(height):
        for x in range(width):
            sums[segments[y, x]] += features[:, y * rows // height, x * columns // width]
            sizes[segments[y, x]] += 1
    return sums / sizes[:, None]


@pooling
def test_features_by_hand(pool: Pool) -> None:
    # two cells, each over 2x2 pixels
    features = np.array([[[1.0, 5.0]], [[0.0, 2.0]]], np.float32)
    segments = drawn("0011", "0122")

    # segment 1 has three pixels, one in the left cell and two in the right one
    assert pool_features(pool, features, segments, 3) == pytest.approx(
        np.array([[1, 0], [(1 + 5 + 5) / 3, (0 + 2 + 2) / 3], [5, 2]])
    )


@pooling
def test_segments_smaller_than_a_cell_keep_their_own_feature(pool: Pool) -> None:
    features = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    segments = np.zeros((8, 8), np.int32)
    segments[1, 6], segments[7, 0], segments[3:5, 3] = 1, 2, 3

    pooled = pool_features(pool, features, segments, 4)

    assert pooled[1:, 0].tolist() == [1.0, 2.0, 1.0]  # the last lies half in cell 0, half in 2


@pooling
@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 13), st.integers(1, 13)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.integers(1, 6),
    st.integers(0, 1000),
)
def test_features_equal_those_of_a_loop(
    pool: Pool, size: tuple[int, int], cells: tuple[int, int], most: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    segments = np.unique(rng.integers(0, most, size), return_inverse=True)[1].reshape(size)
    segments = segments.astype(np.int32)
    count = int(segments.max()) + 1
    features = rng.normal(size=(3, *cells)).astype(np.float32)

    pooled = pool_features(pool, features, segments, count)

    assert pooled.dtype == np.float32
    assert pooled.shape == (count, 3)
    assert pooled == pytest.approx(pooled_slowly(features, segments, count), abs=1e-5)


@pooling
def test_the_uncertainty_of_the_segments_is_that_of_the_frame(pool: Pool) -> None:
    rng = np.random.default_rng(0)
    uncertainty = torch.from_numpy(rng.random((9, 14), np.float32))
    segments = np.arange(9 * 14, dtype=np.int32).reshape(9, 14) // 10

    summed, _ = pool(uncertainty, torch.zeros(5, 3, 4), segments, 13)

    assert (summed.dtype, summed.shape) == (np.float32, (13,))
    assert summed[1] == pytest.approx(uncertainty.flatten()[10:20].sum().item())
    assert summed.sum() == pytest.approx(uncertainty.sum().item())


def test_scores_of_a_frame() -> None:
    rng = np.random.default_rng(0)
    uncertainty, features = (torch.rand(shape) for shape in ((9, 14), (5, 3, 4)))
    segments = np.arange(9 * 14, dtype=np.int32).reshape(9, 14) // 10
    label_map = rng.integers(0, 3, (9, 14), np.uint8)

    scored = score_segments(DensePrediction(4, label_map, uncertainty, features), segments, 13)

    assert scored.frame == 4
    assert scored.label_map is label_map
    for pool in (pool_by_scipy, pool_by_torch):
        sums, means = pool(uncertainty, features, segments, 13)
        assert scored.uncertainty == pytest.approx(sums)
        assert scored.features == pytest.approx(means)
