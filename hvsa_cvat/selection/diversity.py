"""Diversity: members that lie spread over the feature space (active sample selection)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Device = torch.device | str
"""Where the distances are computed."""

MAX_STEPS = 50
"""Steps of k-means; selection needs spread members, not the last digit of the inertia."""

STALLED = 5e-4
"""Share of the inertia that a step must gain for another one to follow."""

KEPT_VARIANCE = 0.99
"""Share of the variance that the directions in which distances are taken must hold."""

FEW_DIMENSIONS = 32
"""Up to here all directions are taken."""

START_MEMBERS = 20_000
"""Members, or `START_PER_CLUSTER` a cluster, among which the clusters start and first move."""

START_PER_CLUSTER = 8

LOWER_QUARTER = 0.5
"""Where a quarter of those members is nearer to its centre than this share of the mean square, the
features repeat (most clusters hold copies of a point), and the clusters start again among all."""

_CHUNK = 2**24
"""Distances held at a time, 64 MiB."""


def nearest_members(
    features: NDArray[np.float32],
    clusters: int,
    rng: np.random.Generator,
    device: Device = "cpu",
) -> NDArray[np.int64]:
    """For each of `clusters` k-means clusters (Euclidean), the member nearest to its centroid.

    `features` is float32 (N, D), finite. Returns int64 (min(clusters, N),), distinct, ascending;
    equal distances go to the lower index. Where equal points leave clusters empty, the lowest
    indices not yet chosen stand in. On a CPU the same rng gives the same members.
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
    # lexsort is stable, so among equal distances the lower index stays first
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
    """Of the members one after the other that whose weight times the squared distance to the
    nearest point in `known`, or member before it, is largest (greedy k-center of Gonzalez 1985,
    as in Sener and Savarese 2018, weighted).

    `features` is float32 (N, D), `weights` float32 (N,) not negative, `known` float32 (K, D), all
    finite. Returns int64 (min(count, N),), distinct, in the order in which they were taken. Where
    `known` is empty, the first is drawn. Of a large pool, a part is looked at; equal products go
    to the lower index. On a CPU the same rng gives the same members.
    """
    if features.ndim != 2 or known.ndim != 2 or weights.shape != features.shape[:1]:
        raise ValueError(f"{features.shape}, {weights.shape} and {known.shape} do not go together")
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
        del rows  # of a long video it is large
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
            # by products, which reads the points once
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
    """k-means: squared distance to the own centroid, float32 (N,), and cluster, int64 (N,).

    Lloyd's steps where they are cheap: in the directions that hold nearly all variance, first on a
    part of the members, from a greedy k-means++ start there. Which copied points share a centre
    depends on how often each occurs, which a part tells badly and no step mends: features that
    repeat start among all. Centroids and the distances returned are those of the full space.
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
    # Sums of several threads add up in any order, and a seed must mean one result.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _some(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of the points, drawn evenly."""
    if len(points) <= count:
        return points
    return points[torch.randperm(len(points), generator=generator, device=points.device)[:count]]


def _reduced(points: Tensor, generator: torch.Generator) -> Tensor:
    """Centred points in the fewest principal directions that hold `KEPT_VARIANCE`; all where that
    would not halve the work."""
    width = points.shape[1]
    if width <= FEW_DIMENSIONS:
        return points
    part = _some(points, 8 * width, generator)
    values, directions = torch.linalg.eigh(part.T @ part)  # ascending
    tail = values.clamp(min=0).cumsum(0)
    kept = width - int((tail <= (1 - KEPT_VARIANCE) * tail[-1]).sum())
    kept = max(kept, FEW_DIMENSIONS)
    return points if kept > width // 2 else points @ directions[:, width - kept :]


def _spread(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: each centre is the best of a few points drawn by squared distance."""
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
    """Whether many of the points are copies, or nearly, of what their cluster holds."""
    cluster, _ = _assign(points, centres)
    distance = _squares(points, centres, cluster)
    quarter = distance.kthvalue(1 + len(distance) // 4).values
    return bool(quarter < LOWER_QUARTER * distance.mean())


def _lloyd(points: Tensor, centres: Tensor) -> Tensor:
    """Centres after steps of assigning and averaging, until the inertia stalls."""
    before = torch.inf
    for _ in range(MAX_STEPS):
        cluster, inertia = _assign(points, centres)
        centres = _means(points, cluster, centres)
        if before - inertia <= STALLED * inertia:
            break
        before = inertia
    return centres


def _assign(points: Tensor, centres: Tensor) -> tuple[Tensor, float]:
    """The nearest centre of each point, int64 (N,), and the inertia."""
    cluster = torch.empty(len(points), dtype=torch.int64, device=points.device)
    total = torch.zeros((), dtype=torch.float64, device=points.device)
    squares = centres.square().sum(dim=1)
    for rows in _chunks(len(points), len(centres)):
        distance = torch.addmm(squares, points[rows], centres.T, alpha=-2)
        least, cluster[rows] = distance.min(dim=1)
        total += (least + points[rows].square().sum(dim=1)).sum(dtype=torch.float64)
    return cluster, float(total)


def _means(points: Tensor, cluster: Tensor, centres: Tensor) -> Tensor:
    """The mean of each cluster's points; an empty one keeps its centre."""
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
