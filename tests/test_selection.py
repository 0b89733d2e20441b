import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.config import Strategy
from hvsa_cvat.selection.diversity import farthest_members, nearest_members
from hvsa_cvat.selection.pool import Pool
from hvsa_cvat.selection.strategy import Query, select, spread_frames
from hvsa_cvat.types import FramePrediction, Sample

EVERY = list(Strategy)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(cost: float) -> Callable[[Sequence[Sample]], np.ndarray]:
    return lambda samples: np.full(len(samples), cost)


def by_frame(costs: Sequence[float]) -> Callable[[Sequence[Sample]], np.ndarray]:
    return lambda samples: np.array([costs[s.frame] for s in samples], np.float64)


def frames_pool(features: np.ndarray, uncertainty: Sequence[float] | None = None) -> Pool:
    """A pool of one sample a frame."""
    n = len(features)
    return Pool(
        np.arange(n, dtype=np.int32),
        np.zeros(n, np.int32),
        np.array(np.zeros(n) if uncertainty is None else uncertainty, np.float32),
        np.asarray(features, np.float32).reshape(n, -1),
    )


def test_one_member_of_each_heap_the_one_nearest_to_its_middle() -> None:
    features = np.array([[0, 0], [1, 0], [2, 0], [50, 0], [52, 0], [51, 0], [0, 90]], np.float32)
    assert nearest_members(features, 3, rng()).tolist() == [1, 5, 6]


def test_equal_distances_go_to_the_lower_index() -> None:
    features = np.array([[-1.0], [1.0], [99.0], [101.0]], np.float32)
    assert nearest_members(features, 2, rng()).tolist() == [0, 2]


def test_members_of_equal_points_are_filled_up_without_a_warning() -> None:
    features = np.array([[1.0], [1.0], [1.0], [7.0], [7.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nearest_members(features, 4, rng()).tolist() == [0, 1, 2, 3]


def test_members_at_the_ends_of_the_range() -> None:
    features = rng().normal(size=(5, 3)).astype(np.float32)
    assert nearest_members(features, 5, rng()).tolist() == [0, 1, 2, 3, 4]
    assert nearest_members(features, 9, rng()).tolist() == [0, 1, 2, 3, 4]
    assert nearest_members(features, 0, rng()).tolist() == []
    assert nearest_members(features[:0], 3, rng()).tolist() == []
    assert len(nearest_members(features, 1, rng())) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        nearest_members(np.array([[1.0], [bad]], np.float32), 1, rng())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=1, max_size=40),
    st.integers(1, 45),
    st.integers(0, 99),
)
def test_members_are_distinct_and_as_many_as_asked(
    points: list[list[int]], clusters: int, seed: int
) -> None:
    features = np.array(points, np.float32)
    members = nearest_members(features, clusters, rng(seed))
    assert len(set(members.tolist())) == len(members) == min(clusters, len(points))
    assert members.tolist() == nearest_members(features, clusters, rng(seed)).tolist()


def test_many_members_keep_their_number_and_seed() -> None:
    features = rng(1).normal(size=(3000, 8)).astype(np.float32)
    first = nearest_members(features, 400, rng(2))
    assert len(set(first.tolist())) == 400
    assert first.tolist() == nearest_members(features, 400, rng(2)).tolist()
    assert first.tolist() != nearest_members(features, 400, rng(3)).tolist()


def farthest(
    features: Sequence[float], known: Sequence[float], count: int, weights: Sequence[float] = ()
) -> list[int]:
    given = np.array(weights or np.ones(len(features)), np.float32)
    points = [np.array(one, np.float32).reshape(-1, 1) for one in (features, known)]
    return farthest_members(points[0], given, points[1], count, rng()).tolist()


def test_the_farthest_member_is_taken_then_the_farthest_from_both() -> None:
    assert farthest([0, 1, 6, 12], [0], 3) == [3, 2, 1]
    # 6 * 6 * 1 is more than 12 * 12 * 0.2, and 1 more than nothing
    assert farthest([0, 1, 6, 12], [0], 3, [1, 1, 1, 0.2]) == [2, 3, 1]
    assert farthest([0, 1, 6, 12], [0, 12], 1) == [2]
    assert farthest([2, 2, 2], [2], 3) == [0, 1, 2]
    assert farthest([1, 5], [0], 9, [0, 0]) == [0, 1]
    assert farthest([1, 5], [0], 0) == []
    assert farthest([], [0], 2) == []
    assert sorted(farthest([1, 5, 9], [], 3)) == [0, 1, 2]


def test_farthest_of_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="fit together"):
        farthest([1, 2], [], 1, [1, 1, 1])
    with pytest.raises(ValueError, match="finite"):
        farthest([1, np.nan], [], 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 4), st.integers(1, 45), st.integers(0, 99))
def test_each_farthest_member_is_the_best_of_those_left(
    members: int, known: int, count: int, seed: int
) -> None:
    features = rng(seed).normal(size=(members, 3)).astype(np.float32)
    before = rng(seed + 1).normal(size=(known, 3)).astype(np.float32)
    weights = rng(seed + 2).random(members).astype(np.float32)
    taken = farthest_members(features, weights, before, count, rng(seed)).tolist()
    assert len(set(taken)) == len(taken) == min(count, members)
    assert taken == farthest_members(features, weights, before, count, rng(seed)).tolist()
    for place, one in enumerate(taken):
        centres = np.concatenate([before, features[taken[:place]]])
        if len(centres):
            distance = np.square(features[:, None] - centres).sum(axis=2).min(axis=1)
            worth = weights * distance
            left = [k for k in range(members) if k not in taken[:place]]
            assert worth[one] >= worth[left].max() * (1 - 1e-4) - 1e-5


def test_of_many_members_a_part_is_looked_at() -> None:
    features = rng(1).normal(size=(40_000, 8)).astype(np.float32)
    weights = np.ones(len(features), np.float32)
    first = farthest_members(features, weights, features[:5], 50, rng(2))
    assert len(set(first.tolist())) == 50
    assert first.tolist() == farthest_members(features, weights, features[:5], 50, rng(2)).tolist()
    assert first.tolist() != farthest_members(features, weights, features[:5], 50, rng(3)).tolist()


def test_pool_of_predictions() -> None:
    predictions = [
        FramePrediction(
            frame,
            np.zeros((1, 1), np.uint8),
            np.array([frame, frame + 0.5], np.float32),
            np.array([[frame, 0], [frame, 1]], np.float32),
        )
        for frame in (3, 4)
    ]
    pool = Pool.of(predictions)
    assert pool.samples == (Sample(3, 0), Sample(3, 1), Sample(4, 0), Sample(4, 1))
    rest = pool.take(np.array([True, False, False, True]))
    assert rest.samples == (Sample(3, 0), Sample(4, 1))
    assert rest.uncertainty.tolist() == [3, 4.5]
    assert rest.features.tolist() == [[3, 0], [4, 1]]
    with pytest.raises(ValueError, match="different lengths"):
        Pool(pool.frames, pool.segments[:1], pool.uncertainty, pool.features)


def test_active_selection_takes_one_of_each_heap() -> None:
    heaps = np.repeat([0, 100, 200, 300], 5) + np.tile([0, 1, 2, 3, 4], 4)
    chosen = select(frames_pool(heaps), Query(40, flat(10), diversity_only=True), rng())
    assert sorted(s.frame for s in chosen) == [2, 7, 12, 17]


def test_active_selection_looks_at_the_uncertain_half_only() -> None:
    pool = frames_pool(np.arange(7), [9, 1, 8, 2, 7, 3, 6])
    chosen = select(pool, Query(4, flat(1)), rng())
    assert sorted(s.frame for s in chosen) == [0, 2, 4, 6]
    first = select(pool, Query(4, flat(1), diversity_only=True), rng())
    assert len(first) == 4


def test_what_earlier_rounds_asked_is_not_asked_again() -> None:
    # a heap that is common, one that was asked for, and a single one between
    pool = frames_pool(np.array([0.0, 0, 0, 0, 9, 9, 9, 5]), [1.0] * 8)
    query = Query(2, flat(1), known=np.array([[9.0]], np.float32))
    assert {s.frame for s in select(pool, query, rng())} == {0, 7}
    dull = replace(pool, uncertainty=np.array([1.0] * 7 + [0.0], np.float32))
    assert 7 not in {s.frame for s in select(dull, query, rng())}
    first = replace(query, diversity_only=True)
    assert {s.frame for s in select(dull, first, rng())} == {0, 7}


def test_equal_uncertainty_keeps_the_lower_indices() -> None:
    chosen = select(frames_pool(np.arange(6)), Query(3, flat(1)), rng())
    assert sorted(s.frame for s in chosen) == [0, 1, 2]


def test_a_budget_above_the_uncertain_half_goes_on_with_the_rest() -> None:
    pool = frames_pool(np.arange(10), list(range(10)))
    chosen = {s.frame for s in select(pool, Query(7, flat(1)), rng())}
    assert len(chosen) == 7
    assert chosen >= {5, 6, 7, 8, 9}


def test_cheap_members_leave_budget_for_more() -> None:
    # One frame in ten costs 91, the others 1: the mean of 10 promises 10 frames for 100 clicks.
    costs = [91.0 if i % 10 == 0 else 1.0 for i in range(200)]
    for strategy in (Strategy.ACTIVE, Strategy.RANDOM):
        for seed in range(5):
            pool = frames_pool(np.arange(200))
            query = Query(100, by_frame(costs), strategy, diversity_only=True)
            total = sum(costs[s.frame] for s in select(pool, query, rng(seed)))
            assert 100 - 91 / 2 <= total <= 100 + 91 / 2


def test_a_sample_is_taken_when_it_brings_the_total_nearer() -> None:
    pool = frames_pool(np.zeros(20))
    for strategy in EVERY:
        for budget, count in ((29, 3), (31, 3), (24, 2), (26, 3), (1, 1)):
            query = Query(budget, flat(10), strategy, diversity_only=True, length=20)
            assert len(select(pool, query, rng())) == count, (strategy, budget)


@pytest.mark.parametrize("strategy", EVERY)
def test_edges_of_the_budget(strategy: Strategy) -> None:
    pool = frames_pool(np.arange(6))
    empty = pool.take(np.arange(0))
    everything = [Sample(i, 0) for i in range(6)]
    assert select(empty, Query(5, flat(1), strategy), rng()) == []
    assert sorted(select(pool, Query(99, flat(1), strategy, length=6), rng())) == everything
    assert sorted(select(pool, Query(5, flat(0), strategy, length=6), rng())) == everything
    assert len(select(pool, Query(1, flat(1000), strategy, length=6), rng())) == 1
    for budget in (0, -3, np.nan):
        with pytest.raises(ValueError, match="above 0"):
            select(pool, Query(budget, flat(1), strategy, length=6), rng())
    with pytest.raises(ValueError, match="expected costs"):
        select(pool, Query(5, flat(-1), strategy, length=6), rng())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30),
    st.floats(0.5, 300),
    st.sampled_from(EVERY),
    st.booleans(),
    st.none() | st.integers(0, 4),
    st.integers(0, 99),
)
def test_selection_is_a_set_of_the_pool_within_the_budget(
    costs: list[int],
    budget: float,
    strategy: Strategy,
    diversity_only: bool,
    asked: int | None,
    seed: int,
) -> None:
    n = len(costs)
    pool = frames_pool(rng(seed).normal(size=(n, 3)), list(rng(seed).random(n)))
    pool = pool.take(np.flatnonzero(rng(seed + 1).random(n) < 0.8))
    labeled = sorted({*range(n)} - {*pool.frames.tolist()})
    known = None if asked is None else rng(seed).normal(size=(asked, 3)).astype(np.float32)
    query = Query(budget, by_frame(costs), strategy, diversity_only, tuple(labeled), n, known)
    chosen = select(pool, query, rng(seed))
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(pool.samples)
    total = sum(costs[s.frame] for s in chosen)
    dearest = max([costs[s.frame] for s in pool.samples], default=0)
    assert len(chosen) == 1 or total <= budget + dearest / 2
    assert bool(chosen) == bool(len(pool))
    assert chosen == select(pool, query, rng(seed))


def test_first_uniform_frames_are_the_middles_of_equal_parts() -> None:
    pool = frames_pool(np.zeros(50))
    chosen = select(pool, Query(50, flat(10), Strategy.UNIFORM, length=50), rng())
    assert [s.frame for s in chosen] == [5, 15, 25, 35, 45]


def test_later_uniform_frames_fill_the_widest_gaps() -> None:
    rest = np.setdiff1d(np.arange(50, dtype=np.int32), [5, 15, 45])
    # (24, 34), (24, 35), (25, 34) and (25, 35) all sum to 75 inside the gap: ties go to the left
    assert spread_frames(rest, [5, 15, 45], 2, 50).tolist() == [24, 34]


def test_uniform_needs_one_sample_a_frame() -> None:
    pool = frames_pool(np.zeros(4))
    twice = Pool(np.zeros(4, np.int32), pool.frames, pool.uncertainty, pool.features)
    with pytest.raises(ValueError, match="one sample for each frame"):
        select(twice, Query(5, flat(1), Strategy.UNIFORM, length=4), rng())


def distances(chosen: Sequence[int], length: int) -> int:
    return sum(min(abs(t - c) for c in chosen) for t in range(length))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 11), st.integers(0, 3), st.integers(1, 4), st.integers(0, 99))
def test_uniform_frames_are_the_best_of_all_choices(
    length: int, taken: int, count: int, seed: int
) -> None:
    shuffled = rng(seed).permutation(length)
    labeled = shuffled[:taken].tolist()
    candidates = np.sort(shuffled[taken:]).astype(np.int32)
    if taken:  # some frames may not be on offer
        candidates = candidates[: max(1, len(candidates) - taken)]
    count = min(count, len(candidates))
    chosen = spread_frames(candidates, labeled, count, length).tolist()
    assert len(set(chosen)) == count
    assert set(chosen) <= set(candidates.tolist())
    if chosen:
        best = min(
            distances([*labeled, *c], length)
            for c in itertools.combinations(candidates.tolist(), count)
        )
        assert distances([*labeled, *chosen], length) == best


def test_uniform_selection_of_a_long_video_is_quick() -> None:
    rest = np.setdiff1d(np.arange(2000, dtype=np.int32), [100, 1900])
    start = time.perf_counter()
    assert len(spread_frames(rest, [100, 1900], 40, 2000)) == 40
    assert time.perf_counter() - start < 10


def test_a_round_of_rectangles_takes_seconds() -> None:
    generator = rng(0)
    n = 6000
    pool = Pool(
        np.repeat(np.arange(n // 20, dtype=np.int32), 20),
        np.tile(np.arange(20, dtype=np.int32), n // 20),
        generator.random(n).astype(np.float32),
        generator.normal(size=(n, 60)).astype(np.float32),
    )
    chosen = select(pool, Query(3000, flat(5), diversity_only=True), rng())
    assert len(set(chosen)) == 600
