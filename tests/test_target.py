"""`--target`: the rounds end where an audit says that the masks are good enough."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.extend import Extension, extend
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.status import TaskStatus
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.session.outlook import Advice, Outlook, after_clicks, factor_for
from hvsa_cvat.session.records import Audit, Interval, Skipped
from hvsa_cvat.session.store import Store
from hvsa_cvat.session.target import newest_audit, reaches
from hvsa_cvat.targets import parse_target
from tests import tiny
from tests.standin import StandIn
from tests.team import Team, only, only_folder


@pytest.mark.parametrize("text", ["92%", "92", " 92 % "])
def test_a_target_is_a_percentage(text: str) -> None:
    assert parse_target(text) == pytest.approx(0.92)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.92", "write 92% or 0.92%"),
        ("0%", "above 0 %"),
        ("100%", "below 100 %"),
        ("good", "write a mIoU in %"),
        ("", "write a mIoU in %"),
        ("-5%", "write a mIoU in %"),
        ("9,2%", "write a mIoU in %"),
    ],
)
def test_unusable_targets_are_one_line(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse_target(text)
    assert why in str(told.value)
    assert "\n" not in str(told.value)


def test_a_target_needs_an_audit() -> None:
    with pytest.raises(ConfigError, match=r"only an audit .* --audit 3") as told:
        EnrollOptions(target="92%").run_config((240, 320), "cpu")
    assert "\n" not in str(told.value)
    for options in (
        EnrollOptions(target="92%", audit=3),
        EnrollOptions(target="92%", granularity="rectangle:40,audit:3"),
    ):
        assert options.run_config((240, 320), "cpu").target == pytest.approx(0.92)


def audited(low: float) -> Audit:
    return Audit(frames=3, miou=Interval(estimate=low + 0.02, low=low, high=low + 0.04), classes=())


def outlook(expected: float, audit: Audit | None = None) -> Outlook:
    return Outlook(
        miou_before=expected - 0.01,
        expected_miou=expected,
        low=expected - 0.02,
        high=expected + 0.02,
        gain=0.01,
        advice=Advice.GO_ON,
        audit=audit,
    )


def test_the_lower_end_of_the_newest_audit_decides(tmp_path: Path) -> None:
    assert not reaches(None, 0.9)
    assert not reaches(audited(0.95), None)
    assert reaches(audited(0.9), 0.9)
    assert not reaches(audited(0.89), 0.9), "the estimate alone, 0.91, is not enough"
    with Store(tmp_path) as store:
        assert newest_audit(store.round(3)) is None
        store.round(1).save_outlook(outlook(0.9, audited(0.85)))
        store.round(2).save_outlook(outlook(0.9))
        assert newest_audit(store.round(3)) == audited(0.85)
        store.round(3).save_outlook(outlook(0.9, audited(0.8)))
        assert newest_audit(store.round(3)) == audited(0.8)


def test_clicks_for_a_target_undo_what_clicks_bring() -> None:
    factor = factor_for(0.8, 0.9)
    assert after_clicks(0.8, 1.0, factor) == pytest.approx(0.9)
    assert factor_for(0.9, 0.8) == 1.0


def run(tmp_path: Path, target: float) -> Path:
    clip = tiny.write_clip(tmp_path / "clip", length=8)
    what = tiny.experiment(
        clip,
        tiny.write_checkpoint(tmp_path / "start.safetensors"),
        method="label-propagation",
        granularity="frame,audit:2,frame,frame",
        budgets=(0.2, 0.3, 0.6, 0.95),
        target=target,
    )
    tiny.run(what, tmp_path / "out")
    return tmp_path / "out"


def test_rounds_after_the_target_ask_for_nothing(tmp_path: Path) -> None:
    out = run(tmp_path, 0.05)
    session = Store.peek(out)
    assert session is not None
    assert session.done
    assert [bool(one.queried) for one in session.rounds] == [False, True, True, False, False]
    for number in (3, 4):
        selection = Store.peek_round(out, number).selection()
        assert selection is not None
        assert selection.skipped is Skipped.TARGET
    before, last = (Store.peek_round(out, number) for number in (3, 4))
    for frame in range(8):
        name = f"a{frame}"
        np.testing.assert_array_equal(last.label_map(name), before.label_map(name))
        np.testing.assert_array_equal(last.certainty_levels(name), before.certainty_levels(name))
    np.testing.assert_array_equal(last.scores().uncertainty, before.scores().uncertainty)
    np.testing.assert_array_equal(last.level_counts(), before.level_counts())


def test_a_target_that_is_not_reached_changes_nothing(tmp_path: Path) -> None:
    session = Store.peek(run(tmp_path, 0.999))
    assert session is not None
    assert all(one.queried for one in session.rounds[1:])


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    with StandIn() as cvat:
        yield Team(cvat, tmp_path, checkpoint)


def status_of(team: Team) -> TaskStatus:
    (told,) = team.status()
    return told


def test_status_says_how_a_task_stands_and_what_would_reach_its_target(team: Team) -> None:
    options = {"granularity": "rectangle:16", "budget": "20%", "rounds": 1, "audit": 2}
    enroll(team.agent(), team.task, {**team.options, **options, "target": "99.9%"})
    while not only(sync(team.agent())).done:
        assert "reached" in (status_of(team).target or "")
        assert team.answer()
    told = status_of(team).target
    assert told is not None
    assert told.startswith("the target of 99.9 % is not reached: an audit of 2 frames found")
    folder = only_folder(team)
    with Store(folder) as store:
        session = store.load()
        assert session is not None
        store.round(2).save_outlook(outlook(0.9, audited(0.999)))
        store.save(session)
    told = status_of(team)
    assert told.target is not None
    assert told.target.startswith("the target of 99.9 % is reached: an audit of 3 frames")
    assert told.next_command is None


def test_the_command_to_a_target_goes_on_and_audits_again(team: Team) -> None:
    options = {"granularity": "rectangle:16", "budget": "10%", "rounds": 1, "audit": 2}
    enroll(team.agent(), team.task, {**team.options, **options, "target": "60%"})
    while not only(sync(team.agent())).done:
        assert team.answer()
    with Store(only_folder(team)) as store:
        session = store.load()
        assert session is not None
        store.round(2).save_outlook(outlook(0.61, audited(0.59)))
        store.save(session)
    told = status_of(team).target
    assert told is not None
    command = told.split("to reach it: hvsa-agent ")[1].split()
    assert command[:2] == ["extend", str(team.task)]
    assert command[-2:] == ["--audit", "2"]
    budget = command[command.index("--budget") + 1]
    done = extend(team.agent(), team.task, Extension(budget, audit=2))
    assert done.rounds == (3, 4)
    assert done.granularity == "rectangle:16,audit:2"


def test_who_goes_on_beyond_the_target_is_asked(team: Team) -> None:
    options = {"granularity": "rectangle:16", "budget": "10%", "rounds": 1, "audit": 2}
    enroll(team.agent(), team.task, {**team.options, **options, "target": "5%"})
    while not only(sync(team.agent())).done:
        assert team.answer()
    told = status_of(team)
    assert (told.target or "").startswith("the target of 5 % is reached")
    extend(team.agent(), team.task, Extension("90%"))
    assert only(sync(team.agent())).open_jobs
    assert status_of(team).target is None
