"""The parts of the phases that can be told by hand; the loop as a whole is in test_loop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hvsa_cvat.config import HVSA, PAPER, PAPER_EXACT, RunConfig
from hvsa_cvat.errors import SessionError
from hvsa_cvat.ports import silent
from hvsa_cvat.selection.pool import Pool
from hvsa_cvat.session.advance import advance
from hvsa_cvat.session.annotate import all_answers
from hvsa_cvat.session.answers import merge_answers
from hvsa_cvat.session.context import RunContext, RunInputs
from hvsa_cvat.session.cost import correction_of, cost_correction
from hvsa_cvat.session.predict import unseen_classes
from hvsa_cvat.session.rounds import Phase, Round, Session
from hvsa_cvat.session.select import unasked
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, Answers, Clicks, FrameAnnotation, LabelSet, Sample
from hvsa_cvat.video.segments import Rectangles, WholeFrames
from tests import tiny


def drawn(text: str) -> np.ndarray:
    """`.` is a pixel that nobody labelled."""
    rows = [[IGNORE if c == "." else int(c) for c in row] for row in text.split()]
    return np.array(rows, np.uint8)


def session(*rounds: Round) -> Session:
    first = Round(0, Phase.DONE)
    return Session("s", "clip", tiny.LABELS, {}, 9, (first, *rounds))


def asked(number: int, expected: float | None, clicks: int | None) -> Round:
    return Round(number, Phase.DONE, (Sample(0, number),), expected, "r", clicks)


def context(checkpoint: Path, clip: tiny.Clip, store: Store | None = None) -> RunContext:
    """Without a store nothing may be read or written."""
    return RunContext(
        inputs=tiny.experiment(clip, checkpoint).inputs,
        store=store,  # type: ignore[arg-type]
        frames=np.zeros((6, 48, 64, 3), np.uint8),
        flow=None,  # type: ignore[arg-type]
        segments=(WholeFrames(6, (48, 64)),),
        full_clicks=100,
        progress=silent,
    )


def test_before_the_first_answer_nothing_corrects() -> None:
    assert cost_correction(session().rounds) == 1.0
    assert cost_correction(session(asked(1, 12.0, None)).rounds) == 1.0


def test_answers_correct_the_cost() -> None:
    one = asked(1, 20.0, 30)
    assert cost_correction(session(one).rounds) == 1.5
    # expected 30 under the factor 1.5, so the estimate was 20 again; 30 + 10 clicks for 20 + 20
    two = asked(2, 30.0, 10)
    assert cost_correction(session(one, two).rounds) == 1.0


def test_rounds_that_ask_nothing_do_not_correct() -> None:
    one, nothing, two = asked(1, 20.0, 30), Round(2, Phase.DONE, (), 0.0), asked(3, 30.0, 10)
    assert cost_correction(session(one, nothing, two).rounds) == 1.0
    assert cost_correction(session(asked(1, 10.0, 0)).rounds) == 1.0


def test_small_samples_and_whole_frames_do_not_correct_each_other(
    clip: tiny.Clip, checkpoint: Path
) -> None:
    small, whole = Rectangles(6, (48, 64), 16, 16), WholeFrames(6, (48, 64))
    here = replace(context(checkpoint, clip), segments=(small, small, whole, whole))
    now = session(asked(1, 20.0, 10), asked(2, 20.0, 30), asked(3, 10.0, 20))
    assert correction_of(now, here, small=True) == pytest.approx(
        40 / 60
    )  # 40 clicks for 20, and 20 under the factor 0.5
    assert correction_of(now, here, small=False) == 2.0
    first = session(asked(1, 20.0, 10))
    assert correction_of(first, here, small=False) == 1.0
    # where nobody knows the clicks of the whole video, all answers tell of them
    assert correction_of(first, replace(here, full_clicks=None), small=False) == 0.5


def test_what_was_asked_for_is_known_and_not_asked_again(clip: tiny.Clip, checkpoint: Path) -> None:
    # quarters in round 1, then halves: one whose quarters were both asked for is known
    quarters, halves = Rectangles(6, (48, 64), 24, 32), Rectangles(6, (48, 64), 48, 32)
    here = replace(context(checkpoint, clip), segments=(quarters, halves))
    first = Round(1, Phase.DONE, (Sample(0, 0), Sample(0, 2), Sample(1, 1)), 3.0, "r", 3)
    pool = Pool(
        np.repeat(np.arange(2, dtype=np.int32), 2),
        np.tile(np.arange(2, dtype=np.int32), 2),
        np.ones(4, np.float32),
        np.arange(4, dtype=np.float32)[:, np.newaxis],
    )
    rest, known, whole = unasked(pool, session(first, Round(2, Phase.SELECT)), here)
    assert rest.samples == (Sample(0, 1), Sample(1, 0), Sample(1, 1))
    assert known.features.tolist() == [[0.0]]
    assert whole == ()


def test_later_answers_hold_where_they_label() -> None:
    answers = [
        FrameAnnotation(4, (2,), drawn("00. 00.")),
        FrameAnnotation(1, (0,), drawn("111 111")),
        FrameAnnotation(4, (0, 2), drawn(".12 ...")),
    ]
    merged = merge_answers(answers)
    assert list(merged) == [1, 4]
    assert merged[4].frame == 4
    assert merged[4].segments == (0, 2)
    assert merged[4].label_map.tolist() == drawn("012 00.").tolist()
    assert merged[1] is answers[1]
    assert answers[0].label_map.tolist() == drawn("00. 00.").tolist()
    assert merge_answers([]) == {}


def test_all_answers_are_those_of_every_answered_round(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number, text in ((1, "0. .."), (3, ".1 ..")):
            annotation = FrameAnnotation(2, (number,), drawn(text))
            clicks = {Sample(2, number): Clicks(3, 1)}
            store.round(number).save_answers(Answers((annotation,), clicks))
        waiting = Round(4, Phase.ANNOTATE, (Sample(0, 0),), 4.0, "r")
        nothing = Round(2, Phase.DONE, (), 0.0)
        now = session(asked(1, 4.0, 4), nothing, asked(3, 4.0, 4), waiting)
        found = all_answers(now, store)
        assert list(found) == [2]
        assert found[2].segments == (1, 3)
        assert found[2].label_map.tolist() == drawn("01 ..").tolist()


def test_a_round_that_trained_nothing_keeps_the_network(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.round(0).newest_network() is None
        assert store.round(3).newest_network() is None
        trained = store.round(2).network
        trained.parent.mkdir(parents=True)
        trained.touch()
        assert store.round(1).newest_network() is None
        assert store.round(2).newest_network() == trained
        assert store.round(4).newest_network() == trained


def test_label_maps_that_are_gone(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        files = store.round(2)
        path = files.label_map_path("a0")
        assert path == tmp_path / "rounds/2/label_maps/a0.png"
        with pytest.raises(SessionError, match=r"a0\.png is missing or damaged; restore"):
            files.label_map("a0")
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no image")
        with pytest.raises(SessionError, match=r"a0\.png is missing or damaged; restore"):
            files.label_map("a0")


class Slow:
    """A server whose people are still at work."""

    def collect(self, request: str) -> None:
        assert request == "r"


def unprepared() -> RunContext:
    raise AssertionError("nothing is due, so nothing is prepared")


def test_waiting_changes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        waiting = session(Round(1, Phase.ANNOTATE, (Sample(0, 0),), 4.0, "r"))
        store.create(waiting)
        clock = tiny.ticking()
        assert advance(waiting, Slow(), store, unprepared, clock) is None  # type: ignore[arg-type]
        assert store.load() == waiting
        done = replace(waiting, rounds=(Round(0, Phase.DONE),))
        assert advance(done, Slow(), store, unprepared, clock) is None  # type: ignore[arg-type]


def test_the_method_says_how_to_train() -> None:
    settings = {"budgets": (0.1,), "size": (48, 64)}
    assert RunConfig(**settings).training == HVSA
    assert RunConfig(**settings, method="paper").training == PAPER
    assert RunConfig(**settings, method="paper-exact").training == PAPER_EXACT
    assert RunConfig(**settings, method="label-propagation").training is None
    assert RunConfig(**settings, training=tiny.QUICK).training == tiny.QUICK
    stored = RunConfig(**settings, method="finetune-only").model_dump(mode="json")
    assert stored["training"]["consistency_weight"] == 0
    assert RunConfig(**stored) == RunConfig(**settings, method="finetune-only")


def test_a_class_is_remembered_until_it_is_answered_or_refuted(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    what = tiny.experiment(clip, checkpoint, method="hvsa").inputs
    first = np.repeat(np.array([0, 1, 2, 2], np.uint8), 16)[np.newaxis].repeat(48, axis=0)
    now = session(asked(1, 4.0, 4))

    def unseen(text: str, inputs: RunInputs = what) -> list[int]:
        """Where the first network shows floor, box, ball and ball again, a quarter each, and the
        answer is a letter a quarter."""
        answer = np.repeat(drawn(text), 16, axis=1).repeat(48, axis=0)
        store.round(1).save_answers(Answers((FrameAnnotation(0, (1,), answer),), {}))
        here = replace(context(checkpoint, clip, store), inputs=inputs)
        return unseen_classes(all_answers(now, store), here)

    with Store(tmp_path) as store:
        path = store.path("rounds", 0, "label_maps", "a0.png")
        path.parent.mkdir(parents=True)
        tiny.save_png(path, first)
        path = store.path("rounds", 0, "certainty", "counts.npy")
        path.parent.mkdir(parents=True)
        quarter = first.size // 4
        np.save(path, np.array([[quarter, 0], [0, quarter], [quarter, quarter]]) * 6)
        assert unseen("00..") == [2]  # of the box that it showed there nothing is left
        assert unseen("01..") == [2]
        assert unseen("012.") == []
        assert unseen("0.0.") == [1]  # half of the answered pixels were shown as balls
        assert unseen("....") == []  # nothing was answered
        other = tiny.experiment(clip, checkpoint).inputs
        assert unseen("01..", other) == []  # `paper` remembers nothing
        strange = replace(what, labels=LabelSet(("a", "b", "c")))
        assert unseen("01..", strange) == []  # the checkpoint knows other classes
        names = tiny.LABELS.names
        assert unseen("0...", what) == [1, 2]
        partly = replace(what, labels=LabelSet((*names[:2], "new")))
        assert unseen("0...", partly) == [1]
