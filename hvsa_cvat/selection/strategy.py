"""Which samples to ask people for, within a budget of clicks (active sample selection)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.config import Strategy
from hvsa_cvat.selection.diversity import Device, farthest_members, nearest_members
from hvsa_cvat.types import FramePrediction, Sample

ExpectedCost = Callable[[Sequence[Sample]], NDArray[np.float64]]
"""Expected clicks of each sample, float64 (len(samples),), finite and not negative."""

Indices = NDArray[np.int64]

ESTIMATE_SAMPLES = 2000
"""The mean expected cost is taken over at most so many candidates."""

REFILLS = 24
"""Times that a budget left over is spent on more members; twice as many are drawn each time."""


@dataclass(frozen=True)
class Pool:
    """Samples and what the network says of them, as one flat table."""

    frames: NDArray[np.int32]
    """int32 (N,)."""
    segments: NDArray[np.int32]
    """int32 (N,)."""
    uncertainty: NDArray[np.float32]
    """float32 (N,), Eq. 1."""
    features: NDArray[np.float32]
    """float32 (N, D), Eq. 2."""

    def __post_init__(self) -> None:
        count = len(self.frames)
        shapes = (self.frames.shape, self.segments.shape, self.uncertainty.shape)
        if shapes != ((count,),) * 3 or self.features.ndim != 2 or len(self.features) != count:
            raise ValueError(f"columns of unlike length: {shapes}, {self.features.shape}")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(map(Sample, self.frames.tolist(), self.segments.tolist()))

    def take(self, keep: NDArray[np.bool_] | Indices) -> Pool:
        return Pool(
            self.frames[keep], self.segments[keep], self.uncertainty[keep], self.features[keep]
        )

    @classmethod
    def of(cls, predictions: Iterable[FramePrediction]) -> Pool:
        """All segments of at least one predicted frame."""
        columns = [
            (
                np.full(len(p.uncertainty), p.frame, np.int32),
                np.arange(len(p.uncertainty), dtype=np.int32),
                p.uncertainty,
                p.features,
            )
            for p in predictions
        ]
        frames, segments, uncertainty, features = zip(*columns, strict=True)
        return cls(
            np.concatenate(frames),
            np.concatenate(segments),
            np.concatenate(uncertainty).astype(np.float32, copy=False),
            np.concatenate(features).astype(np.float32, copy=False),
        )


@dataclass(frozen=True)
class Query:
    """What one round may ask for."""

    budget: float
    """Clicks, above 0."""
    expected_cost: ExpectedCost
    strategy: Strategy = Strategy.ACTIVE
    diversity_only: bool = False
    """Leave uncertainty out: the network of round 1 does not know the video yet."""
    labeled_frames: tuple[int, ...] = ()
    """Frames that uniform selection keeps away from."""
    length: int = 0
    """Frames in the video; uniform selection needs it."""
    known: NDArray[np.float32] | None = None
    """float32 (K, D): features of the samples asked for before. Where given, active selection takes
    the members farthest from these and from each other, not one of each cluster."""


def select(
    pool: Pool, query: Query, rng: np.random.Generator, device: Device = "cpu"
) -> list[Sample]:
    """Samples of the unlabeled `pool` whose expected cost comes nearest to the budget.

    The total is within half a sample of the budget, unless the pool ends before; at least one
    sample comes from a pool that is not empty. Samples come in the order in which they were taken.
    """
    if not query.budget > 0:
        raise ValueError(f"budget must be above 0 clicks, got {query.budget}")
    if len(pool) == 0:
        return []
    everyone = np.arange(len(pool))
    chosen: Sequence[int]
    if query.strategy is Strategy.UNIFORM:
        chosen = _uniform(pool, query).tolist()
    elif query.strategy is Strategy.RANDOM:
        chosen = _Purse(pool, query).spend((everyone,), _any_members, rng)
    elif query.known is None:
        draw = partial(_spread_members, device=device)
        chosen = _Purse(pool, query).spend(_halves(pool, query), draw, rng)
    else:
        chosen = _farthest(pool, query, query.known, rng, device)
    samples = pool.samples
    return [samples[i] for i in chosen]


def _halves(pool: Pool, query: Query) -> tuple[Indices, ...]:
    """Indices to draw from, the next only when the one before is used up."""
    if query.diversity_only:
        return (np.arange(len(pool)),)
    order = np.argsort(-pool.uncertainty, kind="stable")
    half = (len(pool) + 1) // 2
    return np.sort(order[:half]), np.sort(order[half:])


Draw = Callable[[Pool, Indices, int, np.random.Generator], Indices]
"""Draws (pool, candidates, count, rng) -> `count` of the candidates."""


def _any_members(pool: Pool, candidates: Indices, count: int, rng: np.random.Generator) -> Indices:
    return rng.permutation(candidates)[:count]


def _spread_members(
    pool: Pool, candidates: Indices, count: int, rng: np.random.Generator, device: Device
) -> Indices:
    # Shuffled, because the budget may end among them and every cluster has the same right.
    members = candidates[nearest_members(pool.features[candidates], count, rng, device)]
    return rng.permutation(members)


class _Purse:
    """The budget of one query while it is being spent."""

    def __init__(self, pool: Pool, query: Query) -> None:
        self.pool = pool
        self.query = query
        self.left = query.budget
        self.chosen: list[int] = []

    def spend(
        self, candidate_sets: Iterable[Indices], draw: Draw, rng: np.random.Generator
    ) -> list[int]:
        """Fill the budget: b members at a time, b = what is left / the mean expected cost."""
        for candidates in candidate_sets:
            if len(candidates) == 0:
                continue
            probe = rng.permutation(candidates)[:ESTIMATE_SAMPLES]
            mean = float(_costs(self.pool, probe, self.query).mean())
            for refill in range(REFILLS):
                # Later draws are larger: members left over cost less than the mean promised.
                wanted = self.left / mean * 2**refill if mean > 0 else len(candidates)
                count = int(np.clip(np.round(wanted), 1, len(candidates)))
                members = draw(self.pool, candidates, count, rng)
                if not self._take(members):
                    return self.chosen
                candidates = np.setdiff1d(candidates, members, assume_unique=True)
                if len(candidates) == 0:
                    break
        return self.chosen

    def _take(self, members: Indices) -> bool:
        """Take members in order while each brings the total nearer to the budget; else False."""
        for index, cost in zip(members, _costs(self.pool, members, self.query), strict=True):
            if self.chosen and cost >= 2 * self.left:
                return False
            self.chosen.append(int(index))
            self.left -= cost
            if self.left <= 0:
                return False
        return True


def _costs(pool: Pool, indices: Indices, query: Query) -> NDArray[np.float64]:
    """float64 (len(indices),): expected clicks."""
    costs = np.asarray(query.expected_cost(pool.take(indices).samples), np.float64)
    if costs.shape != indices.shape or not np.isfinite(costs).all() or (costs < 0).any():
        raise ValueError("expected costs must be finite, not negative, one a sample")
    return costs


def _farthest(
    pool: Pool, query: Query, known: NDArray[np.float32], rng: np.random.Generator, device: Device
) -> list[int]:
    """One after the other, each the member that is most uncertain times farthest, in squared
    distance, from what is known and chosen.

    Clusters stand for what is common: they leave out a class that is seldom as often as not, and
    ask again for what earlier rounds have asked.
    """
    weights = np.ones_like(pool.uncertainty) if query.diversity_only else pool.uncertainty
    purse = _Purse(pool, query)

    def draw(pool: Pool, candidates: Indices, count: int, rng: np.random.Generator) -> Indices:
        before = np.concatenate([known, pool.features[purse.chosen]])
        features = pool.features[candidates]
        return candidates[
            farthest_members(features, weights[candidates], before, count, rng, device)
        ]

    return purse.spend((np.arange(len(pool)),), draw, rng)


def _uniform(pool: Pool, query: Query) -> Indices:
    """As many evenly spaced frames as come nearest to the budget."""
    if len(np.unique(pool.frames)) != len(pool):
        raise ValueError("uniform selection needs one sample a frame")
    order = np.argsort(pool.frames)
    costs = _costs(pool, order, query)
    count = len(pool)
    if costs.sum() > query.budget:
        count = int(np.clip(np.round(query.budget / costs.mean()), 1, count))

    def rows(count: int) -> Indices:
        frames = spread_frames(pool.frames[order], query.labeled_frames, count, query.length)
        return np.searchsorted(pool.frames[order], frames)

    def excess(count: int) -> float:
        return float(costs[rows(count)].sum() - query.budget)

    while count > 1 and excess(count) > costs.max() / 2:
        count -= 1
    while count < len(pool) and abs(excess(count + 1)) < abs(excess(count)):
        if excess(count + 1) > costs.max() / 2:
            break
        count += 1
    return order[rows(count)]


def spread_frames(
    candidates: NDArray[np.int32], labeled: Sequence[int], count: int, length: int
) -> Indices:
    """The `count` of `candidates` that, with `labeled`, minimise the sum over all frames
    0..length-1 of the distance in time to the nearest one of them; ascending.

    The first choice in an untouched video is the middles of equal parts (5, 15, 25, 35, 45 of 50),
    one of its minima; otherwise the minimum is found exactly, from left to right.
    """
    nodes = np.union1d(candidates, np.asarray(labeled, np.int64)).astype(np.int64)
    if not 0 <= count <= len(candidates):
        raise ValueError(f"cannot choose {count} of {len(candidates)} frames")
    if len(nodes) and not 0 <= nodes[0] <= nodes[-1] < length:
        raise ValueError(f"frames {nodes[0]}..{nodes[-1]} do not lie in 0..{length - 1}")
    if count == 0:
        return np.empty(0, np.int64)
    if not len(labeled) and len(candidates) == length:
        return (2 * np.arange(count, dtype=np.int64) + 1) * length // (2 * count)
    known = np.isin(nodes, labeled)
    # best[k, j]: least sum over the frames up to node j when j is chosen and k new ones are so far
    best = np.full((count + 1, len(nodes)), np.inf)
    before = np.full((count + 1, len(nodes)), -1)
    first_open = 0
    for j, frame in enumerate(nodes):
        step = 0 if known[j] else 1
        if not known[:j].any():  # every frame before is nearest to this one
            best[step, j] = frame * (frame + 1) // 2
        if j > first_open:
            # floor(d^2 / 4) is the sum of the distances of the frames between two chosen ones
            through = best[:, first_open:j] + (frame - nodes[first_open:j]) ** 2 // 4
            least = first_open + np.argmin(through, axis=1)
            sums = through[np.arange(count + 1), least - first_open]
            better = sums[: count + 1 - step] < best[step:, j]
            best[step:, j][better] = sums[: count + 1 - step][better]
            before[step:, j][better] = least[: count + 1 - step][better]
        if known[j]:
            first_open = j  # no way leads past a labeled frame
    tail = length - 1 - nodes
    total = best[count] + tail * (tail + 1) // 2
    total[:first_open] = np.inf
    j, k, chosen = int(np.argmin(total)), count, []
    while j >= 0:
        if not known[j]:
            chosen.append(int(nodes[j]))
        j, k = int(before[k, j]), k - (0 if known[j] else 1)
    return np.array(chosen[::-1], np.int64)
