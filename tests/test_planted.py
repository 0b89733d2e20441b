"""Planted errors: what is planted, who mends it, and that nothing learns from it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.ports import Shown
from hvsa_cvat.session.planted import plant, with_errors, without_errors
from hvsa_cvat.session.records import Audit, Interval, Planted
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, AnswerKind, Answers, FrameAnnotation, LabelMap, Sample
from tests import tiny
from tests.people import open_jobs
from tests.standin import StandIn
from tests.team import Team, only, only_folder


class Blocks:
    """Segments of 8x8 pixels in frames of 16x24."""

    border_is_free = True

    def __getitem__(self, frame: int) -> np.ndarray:
        ids = np.arange(6, dtype=np.int32).reshape(2, 3)
        return ids.repeat(8, axis=0).repeat(8, axis=1)

    def count(self, frame: int) -> int:
        return 6


SAMPLES = [Sample(frame, segment) for frame in range(4) for segment in range(6)]


def halves(frame: int) -> LabelMap:
    """Each block of 8x8 is class 0 on its left half and class 1 on its right."""
    return np.tile(np.arange(24) // 4 % 2, (16, 1)).astype(np.uint8)


def shown(right: Sequence[float] | None = None) -> Shown:
    return Shown(1, halves, right or [1.0] * len(SAMPLES))


def sure(frame: int) -> np.ndarray:
    return np.ones((16, 24), np.float32)


def planted_in(share: float, seed: int = 0, classes: int = 4) -> tuple[FrameAnnotation, ...]:
    return plant(SAMPLES, Blocks(), shown(), sure, share, classes, np.random.default_rng(seed))


def test_an_error_is_one_part_with_a_class_that_does_not_touch_it() -> None:
    planted = planted_in(0.5)
    used = [Sample(one.frame, segment) for one in planted for segment in one.segments]
    assert 10 <= len(used) <= 14
    for one in planted:
        errors, ids = one.label_map, Blocks()[one.frame]
        assert not (errors[~np.isin(ids, one.segments)] != IGNORE).any()
        for segment in one.segments:
            wrong = (errors != IGNORE) & (ids == segment)
            # a half of the block, and a class that is in neither half
            assert wrong.sum() == 32
            assert len(np.unique(halves(0)[wrong])) == 1
            assert set(errors[wrong]) <= {2, 3}


def test_a_share_of_the_samples_on_average() -> None:
    found = [sum(len(one.segments) for one in planted_in(0.05, seed)) for seed in range(300)]
    assert np.mean(found) == pytest.approx(0.05 * len(SAMPLES), rel=0.1)


def test_only_where_people_see_masks() -> None:
    right = [0.6 if sample.frame == 2 else 0.4 for sample in SAMPLES]
    (only_one,) = plant(SAMPLES, Blocks(), shown(right), sure, 0.9, 4, np.random.default_rng(0))
    assert only_one.frame == 2


def test_only_in_parts_of_which_the_masks_are_sure() -> None:
    def right_halves(frame: int) -> np.ndarray:
        return np.where(halves(frame) == 1, 0.9, 0.7).astype(np.float32)

    planted = plant(SAMPLES, Blocks(), shown(), right_halves, 0.5, 4, np.random.default_rng(0))
    assert planted
    for one in planted:
        assert set(halves(0)[one.label_map != IGNORE]) == {1}


def test_nothing_is_planted_without_another_class() -> None:
    assert planted_in(0.5, classes=1) == ()
    assert planted_in(0.5, classes=2) == ()  # both classes touch each part


def test_nothing_is_planted_in_a_sample_of_one_class() -> None:
    plain = replace(shown(), label_map=lambda frame: np.zeros((16, 24), np.uint8))
    assert plant(SAMPLES, Blocks(), plain, sure, 0.5, 4, np.random.default_rng(0)) == ()


def test_who_confirms_without_looking_is_found_out() -> None:
    planted = planted_in(0.5)
    seen = with_errors(halves, planted)
    answers = Answers(
        tuple(FrameAnnotation(frame, tuple(range(6)), seen(frame)) for frame in range(4)),
        kinds=dict.fromkeys(SAMPLES, AnswerKind.CONFIRMED),
    )
    kept, found = without_errors(answers, planted, Blocks())

    assert found == Planted(planted=sum(len(one.segments) for one in planted), mended=0)
    assert kept.kinds == answers.kinds
    errors = {one.frame: one.label_map for one in planted}
    for one in kept.annotations:
        wrong = errors.get(one.frame, np.full((16, 24), IGNORE, np.uint8)) != IGNORE
        np.testing.assert_array_equal(one.label_map, np.where(wrong, IGNORE, halves(one.frame)))


def test_who_mends_them_has_said_something_of_these_pixels() -> None:
    planted = planted_in(0.5)
    answers = Answers(tuple(FrameAnnotation(f, tuple(range(6)), halves(f)) for f in range(4)))
    kept, found = without_errors(answers, planted, Blocks())
    assert found.mended == found.planted > 0
    assert [one.label_map.tolist() for one in kept.annotations] == [halves(0).tolist()] * 4


def test_samples_that_nobody_answered_do_not_count() -> None:
    planted = planted_in(0.5)
    nothing = np.full((16, 24), IGNORE, np.uint8)
    answers = Answers(tuple(FrameAnnotation(frame, (), nothing) for frame in range(4)))
    assert without_errors(answers, planted, Blocks())[1] == Planted()


maps = arrays.arrays(np.uint8, (16, 24), elements=st.integers(0, 3))


@given(maps, maps, st.integers(0, 99))
def test_no_answer_shows_a_planted_error(before: LabelMap, answer: LabelMap, seed: int) -> None:
    seen = replace(shown(), label_map=lambda frame: before)
    planted = plant(SAMPLES, Blocks(), seen, sure, 0.5, 4, np.random.default_rng(seed))
    answers = Answers(tuple(FrameAnnotation(frame, (0,), answer) for frame in range(4)))
    kept, found = without_errors(answers, planted, Blocks())

    assert 0 <= found.mended <= found.planted <= len(SAMPLES)
    errors = {one.frame: one.label_map for one in planted}
    for one in kept.annotations:
        left_out = one.label_map != answer
        assert (one.label_map[left_out] == IGNORE).all()
        if one.frame in errors:
            wrong = errors[one.frame]
            assert (wrong[wrong != IGNORE] != before[wrong != IGNORE]).all()
            assert not ((one.label_map == wrong) & (wrong != IGNORE)).any()
        else:
            assert not left_out.any()


def test_lower_bounds_count_what_people_have_not_found() -> None:
    one = Interval(estimate=0.92, low=0.9, high=0.94)
    audit = Audit(frames=3, miou=one, classes=(one, None))
    half = audit.by_people_who_find(Planted(planted=10, mended=0).trust)  # 10 / 20

    assert half.miou.low == pytest.approx(0.8)
    assert (half.miou.estimate, half.miou.high) == (0.92, 0.94)
    assert half.classes == (half.miou, None)
    assert audit.by_people_who_find(Planted(planted=7, mended=7).trust) == audit
    assert audit.by_people_who_find(Planted().trust) == audit


def test_a_simulated_person_mends_all(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    runs = {}
    for planted in (0.0, 0.5):
        what = tiny.experiment(
            clip,
            checkpoint,
            method="label-propagation",
            granularity="frame,frame",
            answers="correct",
            planted=planted,
        )
        runs[planted] = tiny.run(what, tmp_path / str(planted))
    with Store(tmp_path / "0.5") as store:
        rounds = [store.round(number) for number in (1, 2)]
        errors = [one for files in rounds for one in files.planted_errors() or ()]
        found = sum((files.planted() for files in rounds), Planted())
        answers = {one.frame: one for files in rounds for one in files.answers().annotations}
    assert found == Planted(planted=len(errors), mended=len(errors))
    assert errors
    assert all((answers[one.frame].label_map != IGNORE).all() for one in errors)
    assert runs[0.5].rounds[2].miou == pytest.approx(runs[0.0].rounds[2].miou, abs=0.02)


@pytest.fixture
def cvat() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


@pytest.mark.parametrize("looks", [True, False])
def test_in_cvat(looks: bool, cvat: StandIn, checkpoint: Path, tmp_path: Path) -> None:
    team = Team(cvat, tmp_path, checkpoint)
    agent = team.agent()
    given = {
        "answers": "correct",
        "granularity": "frame",
        "budget": "30%,100%",
        "planted_percent": 50,
    }
    enroll(agent, team.task, {**team.options, **given})
    only(sync(agent))
    team.answer()
    only(sync(agent))
    (job, *more) = open_jobs(cvat)
    if looks:
        team.answer()
    else:
        for one in (job, *more):
            row = cvat.job(one)
            person = cvat.person(row.assignee.username)
            for frame in range(row.start, row.stop + 1):
                person.remove_tag(one, frame)
            person.finish(one)
    report = only(sync(agent))

    assert report.error is None
    with Store(only_folder(team)) as store:
        errors = store.round(2).planted_errors()
        found = store.round(2).planted()
    assert errors
    assert found == Planted(planted=len(errors), mended=len(errors) if looks else 0)
    for one in errors:
        wrong = one.label_map
        assert not ((team.shown()[one.frame] == wrong) & (wrong != IGNORE)).any()
