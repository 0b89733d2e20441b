"""What is known of the cost, where nobody has told it: every promised round asks something."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hvsa_cvat.ports import silent
from hvsa_cvat.segmentation.checkpoint import new_network, save_checkpoint
from hvsa_cvat.segmentation.checkpoint_info import CheckpointInfo
from hvsa_cvat.session.advance import advance
from hvsa_cvat.session.prepare import prepare
from hvsa_cvat.session.records import CostBasis, Selection, Skipped
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.simulation.annotator import SimulatedServer
from hvsa_cvat.simulation.scores import RunMetrics
from hvsa_cvat.types import AnswerKind, LabelSet, Sample
from tests import tiny

STRANGE = LabelSet(("a", "b", "c", "d"))


def stranger(path: Path, noise: float) -> Path:
    """A network that knows none of the classes; with much noise its masks change at each pixel."""
    network = new_network("hrnet_w18_small", len(STRANGE), seed=3)
    for parameter in network.parameters():
        parameter.data.mul_(1 + noise)
    info = CheckpointInfo(network.name, STRANGE.names, tiny.SIZE, network.align_corners, 0)
    save_checkpoint(network, info, path)
    return path


def rounds_of(
    tmp_path: Path, length: int, budgets: Sequence[float], granularity: str, noise: float = 0.0
) -> tuple[Session, list[Selection]]:
    """A session of which nobody knows the full cost, run to its end."""
    clip = tiny.write_clip(tmp_path / "clip", length=length)
    what = tiny.experiment(
        clip,
        stranger(tmp_path / "start.safetensors", noise),
        method="label-propagation",
        granularity=granularity,
        budgets=tuple(budgets),
    )
    inputs = what.inputs
    with Store(tmp_path / "out") as store:
        server = SimulatedServer(inputs.source, what.truths, inputs.rules, store.path("annotator"))
        session: Session | None = Session("s", "clip", tiny.LABELS, {}, len(budgets))
        assert session is not None
        store.create(session)
        context = prepare(inputs, store, full_clicks=None, progress=silent)
        while session is not None:
            last = session
            session = advance(session, server, store, lambda: context, lambda: 0.0)
        found = [store.round(number).selection() for number in range(1, len(budgets) + 1)]
        selections = [one for one in found if one is not None]
        assert len(selections) == len(budgets)
    return last, selections


@pytest.mark.parametrize(
    ("length", "budgets", "granularity"),
    [
        (6, (0.02, 0.04, 0.06), "rectangle:16"),
        (6, (0.05, 0.1, 0.2), "superpixel:12"),
        (24, (0.04, 0.08), "frame"),
        (6, (0.1, 0.2, 0.3), "rectangle:16,frame"),
    ],
)
def test_every_promised_round_asks_something(
    length: int, budgets: Sequence[float], granularity: str, tmp_path: Path
) -> None:
    session, selections = rounds_of(tmp_path, length, budgets, granularity, 3.0)
    assert all(one.samples for one in selections)
    assert all(one.skipped is None for one in selections)
    for before, after in pairwise(selections):
        assert 0.5 <= after.full_clicks / before.full_clicks <= 2.0
    for one, done in zip(selections, session.rounds[1:], strict=True):
        assert done.expected_clicks == pytest.approx(sum(one.expected_clicks))


def test_whole_frames_that_were_answered_tell_the_full_cost(tmp_path: Path) -> None:
    session, (first, second, third) = rounds_of(tmp_path, 12, (0.1, 0.2, 0.3), "frame", 3.0)
    assert first.basis is CostBasis.MASKS
    assert second.basis is third.basis is CostBasis.FRAMES
    clicks = [one.clicks or 0 for one in session.rounds]
    frames = [len(one.queried) for one in session.rounds]
    if not second.limited:
        assert second.full_clicks == pytest.approx(12 * clicks[1] / frames[1])
    # what a frame is expected to cost follows what frames have cost
    mean = sum(clicks[:3]) / sum(frames[:3])
    assert np.mean(third.expected_clicks) == pytest.approx(mean, rel=0.5)


def test_a_round_without_samples_says_why(tmp_path: Path) -> None:
    session, selections = rounds_of(tmp_path, 2, (0.9, 0.95, 1.0), "frame", 3.0)
    asked = [one for one in selections if one.samples]
    empty = [one for one in selections if not one.samples]
    assert len(session.queried) == 2
    assert asked
    assert empty
    assert {one.skipped for one in empty} == {Skipped.ASKED}


def corrected(
    tmp_path: Path, granularity: str, budgets: Sequence[float], length: int = 16
) -> tuple[Path, Session]:
    """A session whose masks follow the answers well, run to its end; and the folder of it."""
    clip = tiny.write_clip(tmp_path / "clip", length=length)
    checkpoint = tiny.write_checkpoint(tmp_path / "start.safetensors")
    what = tiny.experiment(
        clip,
        checkpoint,
        method="label-propagation",
        granularity=granularity,
        budgets=tuple(budgets),
        answers="correct",
    )
    tiny.run(what, tmp_path / "out")
    with Store(tmp_path / "out") as store:
        session = store.load()
    assert session is not None
    return tmp_path / "out", session


@pytest.mark.parametrize("granularity", ["frame", "rectangle:16"])
def test_what_people_correct_costs_less_than_drawing_and_budgets_hold(
    granularity: str, tmp_path: Path
) -> None:
    out, session = corrected(tmp_path, granularity, (0.15, 0.3, 0.45))
    metrics = RunMetrics.model_validate_json((out / "metrics.json").read_text())
    full = metrics.settings["full_clicks"]
    for done, budget in zip(session.rounds[2:], (0.3, 0.45), strict=True):
        assert done.queried
        spent = sum(one.clicks or 0 for one in session.rounds[: done.number + 1])
        assert spent <= 1.3 * budget * full
    kinds = [set(one.answered) for one in metrics.rounds]
    assert kinds[0] == set()
    assert kinds[-1] & {AnswerKind.CONFIRMED, AnswerKind.CORRECTED}
    for one in metrics.rounds[1:]:
        asked = session.rounds[one.round]
        assert sum(samples for samples, _ in one.answered.values()) == len(asked.queried)
        assert sum(clicks for _, clicks in one.answered.values()) == asked.clicks
    assert "How people answered" in (out / "report.html").read_text()


def test_the_cost_of_correcting_follows_from_the_round_before(tmp_path: Path) -> None:
    out, session = corrected(tmp_path, "frame", (0.15, 0.3, 0.45))
    second, third = session.rounds[2], session.rounds[3]
    assert second.clicks is not None
    with Store(out) as store:

        def doubt(sample: Sample, masks: int) -> float:
            levels = store.round(masks).certainty_levels(f"a{sample.frame}")
            return float((1 - (levels + 0.5) / 8).mean())

        a_frame = (second.clicks - len(second.queried)) / len(second.queried)
        before = np.mean([doubt(sample, 1) for sample in second.queried])
        correcting = [1 + a_frame * np.sqrt(doubt(sample, 2) / before) for sample in third.queried]
        selection = store.round(3).selection()
    assert selection is not None
    found = np.array(selection.expected_clicks)
    # what is expected to be drawn costs less
    assert (found <= np.array(correcting) + 1e-6).all()
    assert np.isclose(found, correcting).sum() >= 2
