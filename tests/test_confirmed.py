"""Labels that people left as they were shown: which these are, and that they count less."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvsa_cvat.config import CarryingConfig, RunConfig
from hvsa_cvat.propagation.doubted import Doubted
from hvsa_cvat.propagation.propagate import DECAY, carry
from hvsa_cvat.session.confirmed import doubted_labels
from hvsa_cvat.session.context import AskContext, VideoInputs
from hvsa_cvat.session.finetune import counted
from hvsa_cvat.session.records import Planted
from hvsa_cvat.session.rounds import Phase, Round, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import (
    IGNORE,
    AnswerKind,
    Answers,
    Clicks,
    FrameAnnotation,
    LabelSet,
    Packed,
    Sample,
)
from hvsa_cvat.video.segments import Rectangles
from tests import tiny
from tests.test_propagation import shifting

SIZE = (4, 8)
LEFT, RIGHT = Sample(0, 0), Sample(0, 1)
DRAWN, CONFIRMED = AnswerKind.DRAWN, AnswerKind.CONFIRMED


class Frames:
    names = ("only",)
    size = SIZE

    def __len__(self) -> int:
        return 1


def context(store: Store, **settings: Any) -> AskContext:
    config = RunConfig(
        **{"budgets": (0.1, 0.2), "size": (32, 32), "answers": "correct", **settings}
    )
    inputs = VideoInputs(Frames(), LabelSet(("zero", "one", "two")), config)  # type: ignore[arg-type]
    return AskContext(inputs, store, (Rectangles(1, SIZE, 4, 4),) * 2)


def session(rounds: int) -> Session:
    done = tuple(Round(n, Phase.DONE, clicks=5 if n else None) for n in range(rounds + 1))
    return Session("any", "clip", LabelSet(("zero", "one", "two")), {}, rounds, done)


def keep_round(
    store: Store, number: int, answer: np.ndarray, kinds: dict[Sample, AnswerKind]
) -> None:
    """The answer to round `number`, and masks of the round before that show class 1 everywhere."""
    with store.round(number - 1).new_masks(3) as keep:
        ones = np.ones(SIZE, np.uint8)
        keep("only", ones, np.zeros(SIZE, np.uint8), None)
    annotation = FrameAnnotation(0, (0, 1), answer.astype(np.uint8))
    clicks = {sample: Clicks(0, 1) for sample in kinds}
    store.round(number).save_answers(Answers((annotation,), clicks, kinds))
    store.round(number).save_corrections(Answers(()))


def halves(left: int, right: int) -> np.ndarray:
    return np.where(np.arange(SIZE[1]) < 4, left, right) * np.ones((SIZE[0], 1), np.uint8)


def doubted(store: Store, rounds: int = 1, **settings: Any) -> np.ndarray | None:
    settings.setdefault("confirmed_weight", 0.5)
    found = doubted_labels(session(rounds), context(store, **settings))
    return None if found is None else np.array(found.pixels[0].array)


def test_what_was_not_changed_in_a_corrected_sample_counts_less(tmp_path: Path) -> None:
    with Store(tmp_path / "run") as store:
        answer = halves(1, 1)
        answer[0, 0], answer[1, 0] = 2, IGNORE
        kinds = {LEFT: AnswerKind.CORRECTED, RIGHT: DRAWN}
        keep_round(store, 1, answer, kinds)
        kept = halves(1, 0).astype(bool)
        kept[:2, 0] = False
        np.testing.assert_array_equal(doubted(store), kept)


def test_what_was_drawn_once_is_not_doubted_when_it_is_confirmed(tmp_path: Path) -> None:
    with Store(tmp_path / "run") as store:
        keep_round(store, 1, halves(1, 1), {LEFT: DRAWN, RIGHT: CONFIRMED})
        np.testing.assert_array_equal(doubted(store), halves(0, 1))
        keep_round(store, 2, halves(1, 2), {LEFT: CONFIRMED, RIGHT: CONFIRMED})
        assert doubted_labels(session(2), context(store, confirmed_weight=0.5)) == Doubted({}, 0.5)


def test_people_who_draw_or_find_what_is_planted_are_believed(tmp_path: Path) -> None:
    with Store(tmp_path / "run") as store:
        keep_round(store, 1, halves(1, 1), {LEFT: CONFIRMED, RIGHT: CONFIRMED})
        assert doubted(store, confirmed_weight=1.0) is None
        assert doubted(store, answers="draw") is None
        store.round(1).save_planted(Planted(planted=10, mended=0))
        found = doubted_labels(session(1), context(store))
        assert found is not None
        assert found.weight == 0.5  # 10 believed before of 20
        found = doubted_labels(session(1), context(store, confirmed_weight=0.5))
        assert found is not None
        assert found.weight == 0.25


def test_doubted_labels_are_carried_with_less_confidence(tmp_path: Path) -> None:
    flow = shifting(2, (1, 4))
    shown = FrameAnnotation(0, (0,), np.array([[0, 1, 1, 1]], np.uint8))
    pixels = {0: Packed.of(np.array([[False, False, True, True]]))}
    folder = tmp_path / "carried"
    plain = carry([shown], flow, (1, 4), 2, folder)
    carried = carry([shown], flow, (1, 4), 2, folder, doubted=Doubted(pixels, 0.5))
    own, next_one = carried
    assert own.by_person.all()  # they are shown all the same
    assert carried.teaching(own).tolist() == [[1, 1, 0.5, 0.5]]
    weights = [[DECAY, DECAY, DECAY / 2, DECAY / 2]]
    assert next_one.confidence == pytest.approx(np.array(weights), rel=1e-3)
    assert carried.teaching(next_one) is not own.confidence
    np.testing.assert_array_equal(carried.teaching(next_one), next_one.confidence)
    assert plain.teaching(next(iter(plain))).tolist() == [[1, 1, 1, 1]]


def test_without_carried_labels_each_pixel_of_an_answer_counts_by_itself() -> None:
    labels, pixels = np.zeros((1, 2), np.uint8), {3: Packed.of(np.array([[True, False]]))}
    assert counted(3, labels, None) is None
    assert counted(3, labels, Doubted(pixels, 0.25)).tolist() == [[0.25, 1]]  # type: ignore[union-attr]
    assert counted(4, labels, Doubted(pixels, 0.25)).tolist() == [[1, 1]]  # type: ignore[union-attr]


def test_a_network_learns_less_of_what_was_confirmed(tmp_path: Path) -> None:
    clip = tiny.write_clip(tmp_path / "clip", length=3)
    experiment = tiny.experiment(
        clip,
        tiny.write_checkpoint(tmp_path / "start.safetensors"),
        method="hvsa",
        carrying=CarryingConfig(taught=True, fused=True),
        answers="correct",
        tolerance=20.0,
        confirmed_weight=0.25,
        strategy="uniform",
        budgets=(0.3, 0.6),
    )
    less = tiny.run(experiment, tmp_path / "less")
    config = experiment.inputs.config.model_copy(update={"confirmed_weight": 1.0})
    inputs = replace(experiment.inputs, config=config)
    same = tiny.run(replace(experiment, inputs=inputs), tmp_path / "same")
    assert less.rounds[1].answered == same.rounds[1].answered
    networks = [tmp_path / run / "rounds/2/network.safetensors" for run in ("less", "same")]
    assert networks[0].read_bytes() != networks[1].read_bytes()
