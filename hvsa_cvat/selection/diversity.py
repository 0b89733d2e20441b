"""Diversity: choosing samples that are spread over the feature space (active selection).

The rows of a feature array are called members. k-means is our own because scikit-learn's KMeans
takes 7 to 13 times as long, and its MiniBatchKMeans leaves out points where features repeat
(docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Device = torch.device | str
"""The device that computes the distances."""

MAX_STEPS = 50
"""The most steps of k-means. Selection needs spread members, not the exact minimum."""

STALLED = 5e-4
"""k-means ends when a step lowers the inertia by less than this share."""

KEPT_VARIANCE = 0.99
"""Distances are taken in the principal directions that hold this share of the variance."""

FEW_DIMENSIONS = 32
"""Features with at most this many dimensions are not reduced."""

START_MEMBERS = 20_000
"""k-means starts on this many members, or on `START_PER_CLUSTER` for each cluster if that is more,
before it takes all members."""

START_PER_CLUSTER = 8

LOWER_QUARTER = 0.5
"""How k-means finds out that features repeat, so that most clusters hold copies of one point: the
squared distance of a quarter of the members to their centres is below this share of the mean. Then
it starts again on all members."""

_CHUNK = 2**24
"""Distances held at the same time: 64 MiB."""


def nearest_members(
    features: NDArray[np.float32],
    clusters: int,
    rng: np.random.Generator,
    device: Device = "cpu",
) -> NDArray[np.int64]:
    """The member nearest to the centroid of each of `clusters` k-means clusters (Euclidean).

    `features` is float32 (N, D), finite. The result is int64 (min(clusters, N),), distinct and
    ascending. Of equal distances, the lower index wins. For each cluster that stays empty because
    points are equal, the lowest index that is not chosen yet is taken. On a CPU the same `rng`
    gives the same result.
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
    distance, cluster = cluster_members(features, clusters, rng, device)
    # lexsort is stable, so the lower index stays first among equal distances
    order = np.lexsort((distance, cluster))
    _, firsts = np.unique(cluster[order], return_index=True)
    chosen = np.zeros(count, np.bool_)
    chosen[order[firsts]] = True
    missing = clusters - int(chosen.sum())
    chosen[np.flatnonzero(~chosen)[:missing]] = True
    return np.flatnonzero(chosen)


@torch.inference_mode()
def farthest_members(
    features: NDArray[np.float32],
    weights: NDArray[np.float32],
    known: NDArray[np.float32],
    count: int,
    rng: np.random.Generator,
    device: Device = "cpu",
) -> NDArray[np.int64]:
    """Choose `count` members, each far from the `known` points and from those chosen before it.

    Each step takes the member with the largest product of its weight and its squared distance to
    the nearest known or chosen point. This is the greedy k-center of Gonzalez 1985, as in Sener
    and Savarese 2018, with weights.

    `features` is float32 (N, D), `weights` float32 (N,) not negative, `known` float32 (K, D), all
    finite. The result is int64 (min(count, N),), distinct, in the order of choice. If `known` is
    empty, the first member is drawn at random. Only a random part of a large pool is considered.
    Of equal products, the lower index wins. On a CPU the same `rng` gives the same result.
    """
    if features.ndim != 2 or known.ndim != 2 or weights.shape != features.shape[:1]:
        raise ValueError(
            f"shapes {features.shape} of features, {weights.shape} of weights and {known.shape} of "
            "known do not fit together"
        )
    if not (np.isfinite(features).all() and np.isfinite(known).all()):
        raise ValueError("features must be finite")
    count = min(count, len(features))
    if count <= 0:
        return np.empty(0, np.int64)
    fewer = max(START_MEMBERS, START_PER_CLUSTER * count)
    looked_at = np.arange(len(features))
    if len(features) > fewer:
        looked_at = np.sort(rng.permutation(len(features))[:fewer])
    with _one_thread():
        rows = np.concatenate([features[looked_at], known]).astype(np.float32, copy=False)
        points = torch.from_numpy(rows).to(device)
        del rows  # large for a long video
        points = points - points.mean(dim=0)
        generator = torch.Generator(points.device).manual_seed(int(rng.integers(2**31)))
        points = _reduced(points, generator)
        points, before = points[: len(looked_at)], points[len(looked_at) :]
        weight = torch.from_numpy(weights[looked_at].astype(np.float32)).to(device)
        nearest = torch.full((len(points),), torch.inf, device=points.device)
        if len(before):
            for part in _chunks(len(points), len(before)):
                nearest[part] = torch.cdist(points[part], before).amin(dim=1).square()
            best = (weight * nearest).argmax()
        else:
            best = torch.randint(len(points), (), generator=generator, device=points.device)
        taken = [best]
        gone = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        squares = points.square().sum(dim=1)
        while len(taken) < count:
            gone[best] = True
            # |a - b|^2 as |a|^2 - 2ab + |b|^2, which reads the points once
            distance = torch.addmv(squares, points, points[best], alpha=-2) + squares[best]
            nearest = torch.minimum(nearest, distance.clamp_(min=0))
            best = (weight * nearest).masked_fill_(gone, -1).argmax()
            taken.append(best)
        order: NDArray[np.int64] = torch.stack(taken).cpu().numpy()
    return np.take(looked_at, order)


@torch.inference_mode()
def cluster_members(
    features: NDArray[np.float32],
    clusters: int,
    rng: np.random.Generator,
    device: Device = "cpu",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """k-means: each member's squared distance to its centroid, float32 (N,), and its cluster,
    int64 (N,).

    Lloyd's steps run where they are cheap: in the principal directions that hold nearly all
    variance, and first on a part of the members, after a greedy k-means++ start. If the features
    repeat, a part is a bad start, because it does not show how often each point occurs, and no
    later step corrects that: then k-means starts again on all members. The distances that are
    returned are those of the full space.
    """
    with _one_thread():
        points = torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(device)
        points = points - points.mean(dim=0)
        generator = torch.Generator(points.device).manual_seed(int(rng.integers(2**31)))
        reduced = _reduced(points, generator)
        fewer = max(START_MEMBERS, START_PER_CLUSTER * clusters)
        part = _some(reduced, fewer, generator)
        centres = _lloyd(part, _spread(part, clusters, generator))
        if len(part) < len(reduced):
            if _repeat(part, centres):
                centres = _spread(reduced, clusters, generator)
            centres = _lloyd(reduced, centres)
        cluster, _ = _assign(reduced, centres)
        means = _means(points, cluster, torch.zeros(clusters, points.shape[1], device=device))
        distance = _squares(points, means, cluster)
    return distance.cpu().numpy(), cluster.cpu().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    # Several threads add numbers in any order, but one seed must give one result.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _some(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of the points, drawn at random."""
    if len(points) <= count:
        return points
    return points[torch.randperm(len(points), generator=generator, device=points.device)[:count]]


def _reduced(points: Tensor, generator: torch.Generator) -> Tensor:
    """Centred points in the fewest principal directions that hold `KEPT_VARIANCE`.

    The points stay as they are if that would leave more than half of the dimensions. So do points
    that are fewer than the dimensions: eigh may fail on that many directions without variance.
    """
    width = points.shape[1]
    if width <= FEW_DIMENSIONS or len(points) <= width:
        return points
    part = _some(points, 8 * width, generator)
    values, directions = torch.linalg.eigh(part.T @ part)  # ascending
    tail = values.clamp(min=0).cumsum(0)
    kept = width - int((tail <= (1 - KEPT_VARIANCE) * tail[-1]).sum())
    kept = max(kept, FEW_DIMENSIONS)
    return points if kept > width // 2 else points @ directions[:, width - kept :]


def _spread(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """The start of greedy k-means++: each centre is the best of a few drawn points.

    A point is drawn with a probability proportional to its squared distance to the centres.
    """
    trials = 2 + int(np.log(clusters))
    squares = points.square().sum(dim=1)
    first = torch.randint(len(points), (1,), generator=generator, device=points.device)
    chosen = [first]
    nearest = (points - points[first]).square().sum(dim=1)
    for _ in range(1, clusters):
        sums = nearest.cumsum(0, dtype=torch.float64)
        drawn = torch.rand(trials, generator=generator, device=points.device, dtype=torch.float64)
        tried = torch.searchsorted(sums, drawn * sums[-1]).clamp(max=len(points) - 1)
        distance = torch.addmm(squares[tried], points, points[tried].T, alpha=-2)
        distance = torch.minimum((distance + squares[:, None]).clamp_(min=0), nearest[:, None])
        best = distance.sum(dim=0).argmin()
        nearest = distance[:, best].contiguous()
        chosen.append(tried[best][None])
    return points[torch.cat(chosen)]


def _repeat(points: Tensor, centres: Tensor) -> bool:
    """Whether many points are equal, or nearly equal, to the centre of their cluster."""
    cluster, _ = _assign(points, centres)
    distance = _squares(points, centres, cluster)
    quarter = distance.kthvalue(1 + len(distance) // 4).values
    return bool(quarter < LOWER_QUARTER * distance.mean())


def _lloyd(points: Tensor, centres: Tensor) -> Tensor:
    """The centres after steps of assigning and averaging, until the inertia stalls."""
    before = torch.inf
    for _ in range(MAX_STEPS):
        cluster, inertia = _assign(points, centres)
        centres = _means(points, cluster, centres)
        if before - inertia <= STALLED * inertia:
            break
        before = inertia
    return centres


def _assign(points: Tensor, centres: Tensor) -> tuple[Tensor, float]:
    """The index of the nearest centre of each point, int64 (N,), and the inertia."""
    cluster = torch.empty(len(points), dtype=torch.int64, device=points.device)
    total = torch.zeros((), dtype=torch.float64, device=points.device)
    squares = centres.square().sum(dim=1)
    for rows in _chunks(len(points), len(centres)):
        distance = torch.addmm(squares, points[rows], centres.T, alpha=-2)
        least, cluster[rows] = distance.min(dim=1)
        total += (least + points[rows].square().sum(dim=1)).sum(dtype=torch.float64)
    return cluster, float(total)


def _means(points: Tensor, cluster: Tensor, centres: Tensor) -> Tensor:
    """The mean of the points of each cluster. An empty cluster keeps its centre."""
    sizes = torch.bincount(cluster, minlength=len(centres))[:, None]
    sums = torch.zeros_like(centres).index_add_(0, cluster, points)
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)


def _squares(points: Tensor, centres: Tensor, cluster: Tensor) -> Tensor:
    """float32 (N,): the squared distance of each point to the centre of its cluster."""
    distance = torch.empty(len(points), device=points.device)
    for rows in _chunks(len(points), points.shape[1]):
        distance[rows] = (points[rows] - centres[cluster[rows]]).square().sum(dim=1)
    return distance


def _chunks(length: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // width)
    return (slice(start, start + step) for start in range(0, length, step))
