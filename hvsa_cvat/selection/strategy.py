"""Choosing the samples to ask people for, within a budget (active selection)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.config import Strategy
from hvsa_cvat.selection.diversity import Device, farthest_members, nearest_members
from hvsa_cvat.selection.pool import Indices, Pool
from hvsa_cvat.types import Sample

ExpectedCost = Callable[[Sequence[Sample]], NDArray[np.float64]]
"""Gives the expected cost of each sample in the unit of the budget, clicks or seconds: float64
(len(samples),), finite and not negative."""

ESTIMATE_SAMPLES = 2000
"""The mean expected cost is estimated from at most this many candidates."""

REFILLS = 24
"""How many times samples are drawn for what is left of the budget. Each time draws twice as many
as the time before."""


@dataclass(frozen=True)
class Query:
    """What one round may ask for, and how it is chosen."""

    budget: float
    """Above 0."""
    expected_cost: ExpectedCost
    strategy: Strategy = Strategy.ACTIVE
    diversity_only: bool = False
    """Do not use uncertainty. In round 1 the network does not know the video yet."""
    labeled_frames: tuple[int, ...] = ()
    """Frames that are annotated already. Uniform selection spaces new frames around them."""
    length: int = 0
    """The number of frames in the video. Only uniform selection uses it."""
    known: NDArray[np.float32] | None = None
    """float32 (K, D): features of the samples that were asked for before. If given, active
    selection takes samples that are far from these and from each other. If None, it takes one
    sample of each cluster."""


def select(
    pool: Pool, query: Query, rng: np.random.Generator, device: Device = "cpu"
) -> list[Sample]:
    """Choose samples of the unlabeled `pool` whose expected cost is near the budget.

    The total differs from the budget by half a sample's cost at most, unless the pool is used up.
    A pool that is not empty gives at least one sample. Samples come in the order of choice.
    """
    if not query.budget > 0:
        raise ValueError(f"budget must be above 0, got {query.budget}")
    if len(pool) == 0:
        return []
    whole_pool = np.arange(len(pool))
    chosen: Sequence[int]
    if query.strategy is Strategy.UNIFORM:
        chosen = _uniform(pool, query).tolist()
    elif query.strategy is Strategy.RANDOM:
        chosen = _Budget(pool, query).spend((whole_pool,), _any_members, rng)
    elif query.known is None:
        draw = partial(_spread_members, device=device)
        chosen = _Budget(pool, query).spend(_candidate_sets(pool, query), draw, rng)
    else:
        chosen = _farthest(pool, query, query.known, rng, device)
    samples = pool.samples
    return [samples[i] for i in chosen]


def _candidate_sets(pool: Pool, query: Query) -> tuple[Indices, ...]:
    """Sets of indices: samples are drawn from a set only when the sets before it are used up.

    The more uncertain half of the pool comes first.
    """
    if query.diversity_only:
        return (np.arange(len(pool)),)
    order = np.argsort(-pool.uncertainty, kind="stable")
    half = (len(pool) + 1) // 2
    return np.sort(order[:half]), np.sort(order[half:])


Draw = Callable[[Pool, Indices, int, np.random.Generator], Indices]
"""Draws `count` of the candidates: (pool, candidates, count, rng) -> indices."""


def _any_members(pool: Pool, candidates: Indices, count: int, rng: np.random.Generator) -> Indices:
    return rng.permutation(candidates)[:count]


def _spread_members(
    pool: Pool, candidates: Indices, count: int, rng: np.random.Generator, device: Device
) -> Indices:
    # The budget may not suffice for all of them, and no cluster should be preferred.
    members = candidates[nearest_members(pool.features[candidates], count, rng, device)]
    return rng.permutation(members)


class _Budget:
    """The budget of one query, and what has been chosen for it so far."""

    def __init__(self, pool: Pool, query: Query) -> None:
        self.pool = pool
        self.query = query
        self.left = query.budget
        self.chosen: list[int] = []

    def spend(
        self, candidate_sets: Iterable[Indices], draw: Draw, rng: np.random.Generator
    ) -> list[int]:
        """Spend the budget, drawing (what is left / the mean expected cost) members at a time."""
        for candidates in candidate_sets:
            if len(candidates) == 0:
                continue
            probe = rng.permutation(candidates)[:ESTIMATE_SAMPLES]
            mean = float(_costs(self.pool, probe, self.query).mean())
            for refill in range(REFILLS):
                # Later draws are larger, because the members drawn before cost less than the mean.
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
        """Take members in order while each brings the total nearer to the budget.

        False when the budget is spent.
        """
        for index, cost in zip(members, _costs(self.pool, members, self.query), strict=True):
            if self.chosen and cost >= 2 * self.left:
                return False
            self.chosen.append(int(index))
            self.left -= cost
            if self.left <= 0:
                return False
        return True


def _costs(pool: Pool, indices: Indices, query: Query) -> NDArray[np.float64]:
    """float64 (len(indices),): the expected cost of these members."""
    costs = np.asarray(query.expected_cost(pool.take(indices).samples), np.float64)
    if costs.shape != indices.shape or not np.isfinite(costs).all() or (costs < 0).any():
        raise ValueError("expected costs must be finite and not negative, one for each sample")
    return costs


def _farthest(
    pool: Pool, query: Query, known: NDArray[np.float32], rng: np.random.Generator, device: Device
) -> list[int]:
    """Choose members one by one, by uncertainty times squared distance to all known and chosen.

    Clusters show what is common: they often leave out a rare class, and they repeat what earlier
    rounds asked for.
    """
    weights = np.ones_like(pool.uncertainty) if query.diversity_only else pool.uncertainty
    spending = _Budget(pool, query)

    def draw(pool: Pool, candidates: Indices, count: int, rng: np.random.Generator) -> Indices:
        before = np.concatenate([known, pool.features[spending.chosen]])
        features = pool.features[candidates]
        return candidates[
            farthest_members(features, weights[candidates], before, count, rng, device)
        ]

    return spending.spend((np.arange(len(pool)),), draw, rng)


def _uniform(pool: Pool, query: Query) -> Indices:
    """Evenly spaced frames, as many as bring the cost nearest to the budget."""
    if len(np.unique(pool.frames)) != len(pool):
        raise ValueError("uniform selection needs exactly one sample for each frame")
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
    """Choose `count` of `candidates` so that every frame of the video has a chosen frame near it.

    The choice minimises the sum, over all frames 0..length-1, of the distance in time to the
    nearest frame that is chosen or `labeled`. It is ascending. In a video without labels it is the
    middles of equal parts (5, 15, 25, 35, 45 of 50), which is one of the minima; otherwise the
    minimum is found exactly by dynamic programming from left to right.
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
    # best[k, j]: the least sum over the frames up to node j, if j and k new frames are chosen
    best = np.full((count + 1, len(nodes)), np.inf)
    before = np.full((count + 1, len(nodes)), -1)
    first_open = 0
    for j, frame in enumerate(nodes):
        step = 0 if known[j] else 1
        if not known[:j].any():  # this is the nearest chosen frame of every frame before it
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
            first_open = j  # every choice contains the labeled frame
    tail = length - 1 - nodes
    total = best[count] + tail * (tail + 1) // 2
    total[:first_open] = np.inf
    j, k, chosen = int(np.argmin(total)), count, []
    while j >= 0:
        if not known[j]:
            chosen.append(int(nodes[j]))
        j, k = int(before[k, j]), k - (0 if known[j] else 1)
    return np.array(chosen[::-1], np.int64)
