"""How long answers take: the published figures, and those that are fitted to a team's own jobs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.annotation.effort import PUBLISHED, Effort, Work, rough_seconds, sample_work
from hvsa_cvat.annotation.fit_effort import FITTED_FROM, TimedWork, fit_effort
from hvsa_cvat.types import Clicks

SLOW = Effort(confirm=4.0, job=20.0, key=3.0, vertex=1.0, polygon=6.0)
"""A team that looks long and draws fast."""

numbers = st.integers(0, 50)
works = st.builds(Work, st.just(1), st.integers(1, 50), numbers, numbers, numbers)


def jobs_of(effort: Effort, count: int, seed: int = 0) -> list[TimedWork]:
    """Jobs of different kinds of work, which take exactly what `effort` says."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        samples = int(rng.integers(2, 60))
        # most jobs are of one kind: few are confirmed alone, relabelled alone or drawn alone
        kind = rng.integers(3)
        keys = int(rng.integers(0, 40)) * (kind == 1)
        polygons = int(rng.integers(1, 30)) * (kind == 2)
        work = Work(1, samples, keys, polygons * int(rng.integers(3, 20)), polygons)
        found.append(TimedWork(work, effort.seconds(work)))
    return found


def test_a_sample_is_looked_at_once_and_its_first_class_is_in_that() -> None:
    assert sample_work(Clicks(classes=1)) == Work(samples=1)
    # three parts relabelled, then confirmed
    assert sample_work(Clicks(0, 4)) == Work(samples=1, keys=3)
    # two polygons of five vertices each, drawn from nothing
    assert sample_work(Clicks(10, 2, 2)) == Work(samples=1, vertices=10, polygons=1)
    # one polygon and one relabelled part, then confirmed
    assert sample_work(Clicks(5, 3, 1)) == Work(samples=1, keys=1, vertices=5, polygons=1)
    assert sample_work(Clicks()) == Work(samples=1)


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 50), st.integers(0, 50))
def test_published_parts_are_what_is_announced(boundary: int, classes: int, polygons: int) -> None:
    clicks = Clicks(boundary, classes, polygons)
    announced = 60 * PUBLISHED.minutes(1, clicks.total)
    assert PUBLISHED.seconds(sample_work(clicks)) == pytest.approx(announced)


def test_the_published_figures_by_hand() -> None:
    # a job of ten samples: two relabelled parts, one polygon of four vertices
    work = Work(jobs=1, samples=10, keys=2, vertices=4, polygons=1)
    assert PUBLISHED.seconds(work) == pytest.approx(5 + 10 * 1.6 + 7 * 1.75)
    assert PUBLISHED.name == "published figures"


@settings(deadline=None)
@given(works, works)
def test_work_adds_up(first: Work, second: Work) -> None:
    both = SLOW.seconds(first) + SLOW.seconds(second)
    assert SLOW.seconds(first + second) == pytest.approx(both)


def test_a_frame_takes_longer_than_half_of_it() -> None:
    # 480x360: 1,728 clicks of 1.75 s, about 50 minutes
    assert rough_seconds(1, (360, 480)) == pytest.approx(1.6 + 1727 * 1.75)
    assert rough_seconds(10, (360, 480)) == pytest.approx(10 * rough_seconds(1, (360, 480)))


def test_without_jobs_the_published_figures_hold() -> None:
    assert fit_effort([]) is PUBLISHED
    assert fit_effort(jobs_of(SLOW, FITTED_FROM - 1)) is PUBLISHED
    useless = [TimedWork(Work(jobs=1), 60.0), TimedWork(Work(1, 5), 0.0)] * FITTED_FROM
    assert fit_effort(useless) is PUBLISHED


def test_jobs_as_published_change_nothing() -> None:
    fitted = fit_effort(jobs_of(PUBLISHED, 30))
    assert fitted.seconds_of_parts == pytest.approx(PUBLISHED.seconds_of_parts)
    assert fitted.click == pytest.approx(PUBLISHED.click)
    assert (fitted.fitted_to, fitted.name) == (30, "fitted to 30 jobs")


def test_many_consistent_jobs_tell_the_true_seconds() -> None:
    fitted = fit_effort(jobs_of(SLOW, 3000))
    # vertices and polygons come together, so one may stand for a little of the other
    assert fitted.seconds_of_parts == pytest.approx(SLOW.seconds_of_parts, rel=0.2)
    for job in jobs_of(SLOW, 50, seed=1):
        assert fitted.seconds(job.work) == pytest.approx(job.seconds, rel=0.05)


def test_a_few_jobs_move_the_figures_part_of_the_way() -> None:
    """Every job takes twice what the published figures say."""
    double = Effort(confirm=3.2, job=10, key=3.5, vertex=3.5, polygon=3.5)
    few, many = (fit_effort(jobs_of(double, count)) for count in (FITTED_FROM, 200))
    held_out = sum((job.work for job in jobs_of(double, 20, seed=1)), Work())
    took = double.seconds(held_out)
    assert took / 2 < few.seconds(held_out) < many.seconds(held_out) <= took * 1.001
    assert many.seconds(held_out) == pytest.approx(took, rel=0.05)
    assert many.click == pytest.approx(3.5, rel=0.05)


@pytest.mark.parametrize("factor", [0.01, 20.0, 1000.0])
def test_one_outlier_does_not_turn_the_figures_over(factor: float) -> None:
    jobs = jobs_of(PUBLISHED, 12)
    odd = TimedWork(jobs[3].work, factor * jobs[3].seconds)
    fitted = fit_effort([*jobs[:3], odd, *jobs[4:]])
    for job in jobs_of(PUBLISHED, 20, seed=1):
        assert fitted.seconds(job.work) == pytest.approx(job.seconds, rel=0.3)


def test_a_team_that_is_five_times_slower_is_believed() -> None:
    """What lies within reach of the middle job is no outlier, however far from the published."""
    slow = Effort(confirm=8.0, job=25.0, key=8.75, vertex=8.75, polygon=8.75)
    fitted = fit_effort(jobs_of(slow, 100))
    work = sum((job.work for job in jobs_of(slow, 20, seed=1)), Work())
    assert fitted.seconds(work) == pytest.approx(slow.seconds(work), rel=0.05)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(works, st.floats(0.1, 1e5)), min_size=FITTED_FROM, max_size=20))
def test_no_job_makes_a_figure_negative_or_endless(jobs: list[tuple[Work, float]]) -> None:
    fitted = fit_effort([TimedWork(*job) for job in jobs])
    figures = np.array([*fitted.seconds_of_parts, fitted.click])
    assert np.isfinite(figures).all()
    assert (figures >= 0).all()
