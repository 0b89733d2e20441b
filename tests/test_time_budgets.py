"""Budgets in people's time: each round gets its share of what is left, by the time of answers."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hvsa_cvat.annotation.effort import PUBLISHED, Effort
from hvsa_cvat.budgets import BudgetUnit
from hvsa_cvat.session.cost import CostModel
from hvsa_cvat.session.effort import Efforts, answered_work, efforts_of, people_time, seconds_of
from hvsa_cvat.session.prices import Prices, answer_seconds
from hvsa_cvat.session.records import CostBasis, RoundWork, Skipped, TimedRecord, WorkRecord
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.simulation.experiment import Experiment
from hvsa_cvat.simulation.scores import RunMetrics
from hvsa_cvat.types import AnswerKind
from tests import tiny


def timed(
    tmp_path: Path, budgets: Sequence[float], granularity: str = "rectangle:16", length: int = 12
) -> tuple[Experiment, RunMetrics]:
    """A run whose budgets are seconds of people's time."""
    clip = tiny.write_clip(tmp_path / "clip", length=length)
    what = tiny.experiment(
        clip,
        tiny.write_checkpoint(tmp_path / "start.safetensors"),
        method="label-propagation",
        granularity=granularity,
        budgets=tuple(budgets),
        budget_unit=BudgetUnit.SECONDS,
        answers="correct",
    )
    return what, tiny.run(what, tmp_path / "out")


def session_in(folder: Path) -> Session:
    found = Store.peek(folder)
    assert found is not None
    return found


@pytest.mark.parametrize("granularity", ["rectangle:16", "frame", "rectangle:16,frame"])
def test_every_round_asks_and_the_time_holds(granularity: str, tmp_path: Path) -> None:
    budgets = (60.0, 120.0, 180.0)
    _, metrics = timed(tmp_path, budgets, granularity)
    spent = [60 * (one.minutes or 0.0) for one in metrics.rounds]
    assert spent[0] == 0
    for before, after in itertools.pairwise(spent):
        assert after > before
    # a sample is whole: the last one of a round may go beyond its share
    assert spent[-1] == pytest.approx(budgets[-1], rel=0.35)
    assert metrics.people is not None
    assert metrics.people.budget_minutes == pytest.approx(3)
    assert metrics.people.spent_minutes == pytest.approx(spent[-1] / 60)
    every, saved = metrics.people.every_frame_minutes, metrics.people.saved_minutes
    assert every is not None
    assert saved == pytest.approx(every - spent[-1] / 60)


def test_minutes_are_those_of_the_clicks_by_the_published_figures(tmp_path: Path) -> None:
    what, metrics = timed(tmp_path, (120.0, 240.0))
    session = session_in(tmp_path / "out")
    for one in metrics.rounds:
        samples = sum(len(done.queried) for done in session.rounds if done.number <= one.round)
        assert one.minutes == pytest.approx(PUBLISHED.minutes(samples, one.clicks))
    files = Store.peek_round(tmp_path / "out", session.current.number)
    known = people_time(session, what.inputs.config, files, len(what.inputs.source))
    assert known.figures == "published figures"
    full = metrics.settings["full_clicks"]
    assert known.every_frame_minutes == pytest.approx(PUBLISHED.minutes(12, full))


def test_a_time_that_is_spent_asks_for_nothing(tmp_path: Path) -> None:
    """A frame takes longer than all three rounds have."""
    timed(tmp_path, (1.0, 2.0, 3.0), "frame")
    session = session_in(tmp_path / "out")
    assert len(session.rounds[1].queried) == 1
    for number in (2, 3):
        selection = Store.peek_round(tmp_path / "out", number).selection()
        assert selection is not None
        assert (selection.samples, selection.skipped) == ((), Skipped.SPENT)


def test_known_times_count_and_the_rest_by_the_figures(tmp_path: Path) -> None:
    what, _ = timed(tmp_path, (120.0, 240.0))
    session = session_in(tmp_path / "out")
    files = Store.peek_round(tmp_path / "out", 1)
    (first, _) = answered_work(session, what.inputs.config, files)
    assert not first.whole
    samples = 2
    record = WorkRecord(samples=samples)
    kept = first.work.model_copy(update={"timed": (TimedRecord(work=record, seconds=100.0),)})
    measured = type(first)(first.round, first.whole, kept)
    before = seconds_of(first, Efforts())
    assert seconds_of(measured, Efforts()) == pytest.approx(before + 100 - samples * 1.6)


def test_a_round_of_an_older_version_counts_by_its_clicks(tmp_path: Path) -> None:
    what, metrics = timed(tmp_path, (120.0, 240.0))
    for file in (tmp_path / "out" / "rounds").glob("*/work.json"):
        file.unlink()
    session = session_in(tmp_path / "out")
    with Store(tmp_path / "out") as store:
        files = store.round(2)
    files.checksums.forget(tmp_path / "out/rounds/1/work.json")
    files.checksums.forget(tmp_path / "out/rounds/2/work.json")
    known = people_time(session, what.inputs.config, files, 12)
    assert metrics.people is not None
    assert known.spent_minutes == pytest.approx(metrics.people.spent_minutes)


def test_whole_frames_and_smaller_samples_have_figures_of_their_own(tmp_path: Path) -> None:
    what, _ = timed(tmp_path, (120.0, 240.0), "rectangle:16,frame")
    session = session_in(tmp_path / "out")
    small, whole = answered_work(session, what.inputs.config, Store.peek_round(tmp_path / "out", 2))
    assert (small.whole, whole.whole) == (False, True)
    slow = tuple(
        TimedRecord(work=WorkRecord(samples=10, vertices=number), seconds=3 * (21 + 1.75 * number))
        for number in range(10)
    )
    kept = RoundWork(by_kind=small.work.by_kind, timed=slow)
    efforts = efforts_of((type(small)(1, False, kept), whole))
    assert efforts.whole is PUBLISHED
    assert efforts.small.fitted_to == 10
    assert efforts.name == "frames: published figures; smaller samples: fitted to 10 jobs"
    assert efforts.drawing is efforts.small, "people are compared with themselves"
    assert efforts.small.minutes(10, 15) > 1.5 * PUBLISHED.minutes(10, 15)


def test_where_a_key_is_quicker_than_a_vertex_correcting_is_cheaper_than_its_clicks() -> None:
    effort = Effort(confirm=2.0, click=2.0, key=1.0, vertex=3.0, polygon=3.0, fitted_to=9)
    prices = Prices(effort, {AnswerKind.DRAWN: 3.0, AnswerKind.CORRECTED: 1.0}, 0.0)
    clicks = np.array([0.0, 1.0, 5.0])
    drawn = answer_seconds(clicks, AnswerKind.DRAWN, prices)
    assert drawn.tolist() == [2.0, 2.0, 14.0]
    assert answer_seconds(clicks, AnswerKind.CORRECTED, prices).tolist() == [2.0, 2.0, 6.0]
    # nobody has confirmed anything yet: clicks as in the mean
    assert answer_seconds(clicks, AnswerKind.CONFIRMED, prices).tolist() == [2.0, 2.0, 10.0]


def test_by_published_figures_the_quicker_answer_is_the_one_with_fewer_clicks() -> None:
    clicks = np.linspace(0, 50, 200)
    prices = Prices(PUBLISHED, {}, 0.0)
    seconds = answer_seconds(clicks, AnswerKind.DRAWN, prices)
    assert (np.diff(seconds) >= 0).all()
    assert np.array_equal(seconds, answer_seconds(clicks, AnswerKind.CORRECTED, prices))
    assert CostModel(1.0, CostBasis.GIVEN, False, 1.0, 1.0).correcting is None
