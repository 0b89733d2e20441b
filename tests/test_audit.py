"""Audits: what a few frames at random places say of all masks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.session.audit import audit, audit_frames
from hvsa_cvat.session.demand import demand_of
from hvsa_cvat.session.outlook import LEVELS, HeldOut, count_held_out, count_levels
from hvsa_cvat.video.frames import open_frames
from hvsa_cvat.video.segments import Granularity, build_segments, granularity_by_round, with_audits
from tests import tiny

TOP = LEVELS - 1


def counted(*rows: tuple[int, int, int, int, int]) -> np.ndarray:
    """Block, class shown, level, class answered, pixels."""
    return np.array(rows, np.int64)


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 999))
def test_frames_are_different_ordered_and_evenly_spaced(length: int, count: int, seed: int) -> None:
    candidates = list(range(100, 100 + length))
    chosen = audit_frames(candidates, count, np.random.default_rng(seed))

    assert len(chosen) == len(set(chosen)) == min(count, length)
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(candidates)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_each_frame_is_as_likely_as_any_other() -> None:
    rng = np.random.default_rng(0)
    found = np.bincount(np.concatenate([audit_frames(range(7), 3, rng) for _ in range(7000)]))
    assert found == pytest.approx(np.full(7, 3000), rel=0.05)


def test_masks_that_are_right_everywhere_are_found_right() -> None:
    levels = np.zeros((2, LEVELS), np.int64)
    levels[:, TOP] = 40_000
    right = HeldOut([counted((0, 0, TOP, 0, 4000), (1, 1, TOP, 1, 4000))] * 3, 2)
    found = audit(right, levels, np.zeros(2, np.int64), np.random.default_rng(0))

    assert found is not None
    assert found.frames == 3
    assert found.miou.estimate > 0.99
    assert found.miou.low <= found.miou.estimate <= found.miou.high <= 1


def test_half_of_one_class_is_another() -> None:
    # class 0 is shown on 4,000 pixels of a frame, 2,000 of them are class 1; counted by hand:
    # IoU of class 0 is 2 / 4, of class 1 is 4 / 6
    levels = np.zeros((2, LEVELS), np.int64)
    levels[:, 3] = 40_000
    rows = [(block, *rest) for block in range(16) for rest in ((0, 3, 0, 125), (0, 3, 1, 125))]
    rows += [(block, 1, 3, 1, 250) for block in range(16)]
    found = audit(
        HeldOut([counted(*rows)] * 4, 2), levels, np.zeros(2, np.int64), np.random.default_rng(0)
    )

    assert found is not None
    assert found.classes[0] is not None
    assert found.classes[1] is not None
    assert found.classes[0].estimate == pytest.approx(2 / 4, abs=0.01)
    assert found.classes[1].estimate == pytest.approx(4 / 6, abs=0.01)
    assert found.miou.estimate == pytest.approx(7 / 12, abs=0.01)


def test_what_people_answered_before_is_right() -> None:
    levels = np.zeros((2, LEVELS), np.int64)
    levels[:, TOP] = 50_000
    wrong = HeldOut([counted((0, 0, TOP, 1, 4000), (1, 1, TOP, 0, 4000))], 2)
    rng = np.random.default_rng(0)
    nothing = audit(wrong, levels, np.zeros(2, np.int64), rng)
    half = audit(wrong, levels, np.full(2, 25_000), rng)
    everything = audit(wrong, levels, np.full(2, 50_000), rng)

    assert nothing is not None
    assert half is not None
    assert everything is not None
    assert nothing.miou.estimate < 0.05
    assert half.miou.estimate == pytest.approx(1 / 3, abs=0.02)  # 25,000 of 75,000
    assert everything.miou.estimate == 1


def test_a_class_that_is_nowhere_has_no_score() -> None:
    levels = np.zeros((3, LEVELS), np.int64)
    levels[:2, TOP] = 1000
    right = HeldOut([counted((0, 0, TOP, 0, 100), (0, 1, TOP, 1, 100))], 3)
    found = audit(right, levels, np.zeros(3, np.int64), np.random.default_rng(0))

    assert found is not None
    assert found.classes[2] is None


def test_an_audit_without_an_answer_says_nothing() -> None:
    levels = np.ones((2, LEVELS), np.int64)
    nothing = HeldOut([], 2)
    assert audit(nothing, levels, np.zeros(2, np.int64), np.random.default_rng(0)) is None


def test_the_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(3)
    inside, errors = 0, []
    for _ in range(40):
        tables, levels, both, union = [], [], np.zeros(3), np.zeros(3)
        for _ in range(30):
            truth, shown, certainty = frame(rng)
            tables.append(count_held_out(shown, certainty, truth, 3))
            levels.append(count_levels(shown, certainty, 3))
            both += [((truth == k) & (shown == k)).sum() for k in range(3)]
            union += [((truth == k) | (shown == k)).sum() for k in range(3)]
        chosen = audit_frames(range(30), 4, rng)
        found = audit(
            HeldOut([tables[k] for k in chosen], 3), sum(levels), np.zeros(3, np.int64), rng
        )
        assert found is not None
        true = (both / union).mean()
        inside += found.miou.low <= true <= found.miou.high
        errors.append(found.miou.estimate - true)

    assert inside >= 34
    assert abs(np.mean(errors)) < 2 * np.std(errors) / np.sqrt(len(errors))


def frame(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stripes, masks whose stripes end somewhere else, and levels that know little of it."""
    truth = np.tile(np.arange(60) * 3 // 60, (60, 1)).astype(np.uint8)
    shown = np.roll(truth, int(rng.integers(-6, 7)), axis=1)
    return truth, shown, rng.integers(0, LEVELS, truth.shape).astype(np.uint8)


def test_an_audit_is_a_round_of_whole_frames() -> None:
    text, budgets = with_audits("rectangle:16,frame", (0.1, 0.2, 0.3), 4)
    kinds = granularity_by_round(text, 4)
    assert list(map(str, kinds)) == ["rectangle:16", "frame", "frame", "audit:4"]
    assert budgets == (0.1, 0.2, 0.3, 0.3)
    assert kinds[-1].whole
    assert kinds[-1].frames == 4


def test_an_audit_after_each_round() -> None:
    text, budgets = with_audits("rectangle:16,frame", (0.1, 0.2), 4, each=True)
    assert text == "rectangle:16,audit:4,frame,audit:4"
    assert budgets == (0.1, 0.1, 0.2, 0.2)


@pytest.mark.parametrize("text", ["audit", "audit:", "audit:0", "audit:2x2", "audit:-1"])
def test_an_audit_needs_a_number(text: str) -> None:
    with pytest.raises(ConfigError, match="is not one of"):
        Granularity.parse(text)


def test_an_audit_that_is_larger_than_the_video(tmp_path: Path, clip: tiny.Clip) -> None:
    with pytest.raises(ConfigError, match=r"audit of 99 frames does not fit a video of \d+"):
        build_segments(Granularity.parse("audit:99"), open_frames(clip.images), tmp_path)


@pytest.mark.parametrize("answers", [pytest.param("draw", marks=pytest.mark.slow), "correct"])
def test_the_last_round_measures_the_masks_and_teaches(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path, answers: str
) -> None:
    what = tiny.experiment(clip, checkpoint, method="hvsa", answers=answers)
    config = what.inputs.config
    granularity, budgets = with_audits(config.granularity, config.budgets, 2)
    config = config.model_copy(update={"granularity": granularity, "budgets": budgets})
    done = tiny.run(replace(what, inputs=replace(what.inputs, config=config)), tmp_path / "run")
    last, before = done.rounds[-1], done.rounds[-2]

    assert last.samples == before.samples + 2
    assert before.outlook is None or before.outlook.audit is None
    assert last.outlook is not None
    found = last.outlook.audit
    assert found is not None
    assert found.frames == 2
    assert found.miou.estimate == pytest.approx(before.miou, abs=0.1)
    assert last.outlook.miou_before == found.miou.estimate


def test_an_audit_after_a_round_that_asked_for_nothing(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    what = tiny.experiment(
        clip,
        checkpoint,
        method="label-propagation",
        budgets=(0.4, 0.1, 0.4),  # round 2 may spend nothing
        granularity="frame,frame,audit:2",
    )
    done = tiny.run(what, tmp_path / "run")

    assert done.rounds[2].samples == done.rounds[1].samples
    assert done.rounds[3].samples == done.rounds[1].samples + 2


def test_the_first_round_is_no_audit(clip: tiny.Clip, checkpoint: Path) -> None:
    what = tiny.experiment(clip, checkpoint, method="hvsa", granularity="audit:2,frame")
    with pytest.raises(ConfigError, match="round 1 cannot be an audit"):
        demand_of(
            what.inputs.source.names,
            what.inputs.source.size,
            3,
            "hrnet_w18_small",
            what.inputs.config,
            "dis",
            what.inputs.device,
        )
