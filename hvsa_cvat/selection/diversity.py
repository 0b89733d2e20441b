"""Diversity: members that lie spread over the feature space (active sample selection)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

MAX_STEPS = 50
"""Steps of k-means; selection needs spread members, not the last digit of the inertia."""

CAREFUL_CLUSTERS = 100
"""Up to here k-means++ starts the clusters; above, its passes cost more than they mend."""

BOUNDS_LIMIT = 100_000_000
"""Entries (N x clusters) up to which Elkan's bounds are kept in memory, about 0.4 GB."""


def nearest_members(
    features: NDArray[np.float32], clusters: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """For each of `clusters` k-means clusters (Euclidean), the member nearest to its centroid.

    `features` is float32 (N, D), finite. Returns int64 (min(clusters, N),), distinct, ascending;
    equal distances go to the lower index. Where equal points leave clusters empty, the lowest
    indices not yet chosen stand in.
    """
    if features.ndim != 2:
        raise ValueError(f"features must be (N, D), not {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite")
    if clusters < 0:
        raise ValueError(f"clusters must not be negative, got {clusters}")
    count = len(features)
    if clusters >= count or clusters == 0:
        return np.arange(min(clusters, count))
    distance, cluster = _cluster(features, clusters, rng)
    # lexsort is stable, so among equal distances the lower index stays first
    order = np.lexsort((distance, cluster))
    _, firsts = np.unique(cluster[order], return_index=True)
    chosen = np.zeros(count, np.bool_)
    chosen[order[firsts]] = True
    missing = clusters - int(chosen.sum())
    chosen[np.flatnonzero(~chosen)[:missing]] = True
    return np.flatnonzero(chosen)


def _cluster(
    features: NDArray[np.float32], clusters: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Squared distance to the own centroid, float64 (N,), and cluster, int32 (N,)."""
    means = KMeans(
        clusters,
        init="k-means++" if clusters <= CAREFUL_CLUSTERS else "random",
        n_init=1,
        max_iter=MAX_STEPS,
        algorithm="elkan" if 1 < clusters <= BOUNDS_LIMIT // len(features) else "lloyd",
        random_state=int(rng.integers(2**31)),
    )
    # One thread: sums of several threads add up in any order, and a seed must mean one result.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        cluster = means.fit_predict(np.ascontiguousarray(features, np.float32))
    offset = features - means.cluster_centers_[cluster]
    return np.einsum("nd,nd->n", offset, offset, dtype=np.float64), cluster
