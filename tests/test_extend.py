"""`extend`: a session goes on beyond its last round."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.extend import Extension, extend
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.reports import TaskReport
from hvsa_cvat.agent.withdraw import withdraw
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.session.annotate import all_answers
from hvsa_cvat.session.outlook import Advice, Outlook
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE
from tests import tiny
from tests.standin import StandIn
from tests.team import LENGTH, Team, only, only_folder


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    with StandIn() as cvat:
        yield Team(cvat, tmp_path, checkpoint)


def to_the_end(team: Team, **options: object) -> TaskReport:
    """Enroll the task, if it is not yet, and answer until all rounds are done."""
    agent = team.agent()
    if agent.workspace.enrollment(team.task) is None:
        enroll(agent, team.task, {**team.options, **options})
    while not (report := only(sync(agent))).done:
        assert report.error is None
        assert team.answer()
    return report


def session_of(team: Team) -> Session:
    session = Store.peek(only_folder(team))
    assert session is not None
    return session


def assert_answers_are_shown(team: Team) -> None:
    """The masks show what people have answered in every round."""
    with Store(only_folder(team)) as store:
        answers = all_answers(session_of(team), store)
    shown = team.shown()
    for frame, answer in answers.items():
        known = answer.label_map != IGNORE
        np.testing.assert_array_equal(shown[frame][known], answer.label_map[known])


def test_three_rounds_and_two_more(team: Team) -> None:
    report = to_the_end(team, budget="10%,20%,30%")
    before = session_of(team)
    assert len(before.rounds) == 4
    asked = len(team.cvat.world.tasks)

    done = extend(team.agent(), team.task, Extension("50%", rounds=2))
    assert done.rounds == (4, 5)
    assert done.granularity == "rectangle:16"
    assert len(team.cvat.world.tasks) == asked  # nothing on the server changes before sync
    session = session_of(team)
    assert session.rounds[:4] == before.rounds
    assert session.config["budgets"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert session.id == before.id

    first = only(sync(team.agent()))
    assert first.error is None
    assert first.moved == ("round 4: select", "round 4: request")
    assert [job.assignee for job in first.open_jobs] == ["ann", "bob"]
    report = to_the_end(team)
    assert report.done
    session = session_of(team)
    assert [one.number for one in session.rounds if one.clicks] == [1, 2, 3, 4, 5]
    assert len(set(session.queried)) == len(session.queried)  # nothing is asked twice
    assert_answers_are_shown(team)
    (told,) = team.status()
    assert (told.round, told.rounds, told.phase) == (5, 5, "done")


def test_whole_frames_after_rectangles(team: Team) -> None:
    to_the_end(team)
    small = session_of(team).queried
    extend(team.agent(), team.task, Extension("90%", granularity="frame"))
    report = only(sync(team.agent()))
    assert report.error is None
    assert report.moved == (
        "round 2: predict",  # which scores whole frames now
        "round 2: publish",
        "round 3: select",
        "round 3: request",
    )
    to_the_end(team)
    whole = session_of(team).rounds[3].queried
    assert whole
    assert {sample.segment for sample in whole} == {0}
    assert {sample.segment for sample in small} != {0}
    assert_answers_are_shown(team)
    for frame in {sample.frame for sample in whole}:
        assert (team.shown()[frame] == tiny.truth(frame)).mean() > 0.95


def test_older_masks_do_not_return_when_the_pass_is_stopped(team: Team) -> None:
    """While the last round is predicted anew, its masks stay where they are."""
    to_the_end(team)
    before = team.shown()
    extend(team.agent(), team.task, Extension("90%", granularity="frame"))
    answers = iter([False, True, True])
    assert not only(sync(team.agent(), stopping=lambda: next(answers))).moved
    np.testing.assert_array_equal(team.shown(), before)


def test_a_session_that_is_not_finished_gets_more_rounds(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    before = session_of(team)
    extend(agent, team.task, Extension("70%,80%"))
    after = session_of(team)
    assert after.rounds == before.rounds
    assert after.rounds_total == 4
    assert after.config["budgets"] == [0.3, 0.6, 0.7, 0.8]
    assert to_the_end(team).done
    assert session_of(team).current.number == 4


def test_enroll_s_own_choice_of_samples_goes_on(team: Team) -> None:
    """Where no granularity was named, rounds that begin with 4 % spent ask for whole frames."""
    to_the_end(team, granularity=None, budget="3%", rounds=1)
    extend(team.agent(), team.task, Extension("3.5%,50%,60%"))
    kinds = session_of(team).config["granularity"].split(",")
    assert kinds == ["rectangle:8", "rectangle:8", "rectangle:8", "frame"]


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        (Extension("60%"), r"60 % .* name a larger total: hvsa-agent extend 1 --rounds 1 --budget"),
        (Extension("2%"), "name a larger total"),
        (Extension("50%,90%"), "name a larger total"),
        (Extension("2,5%"), "a decimal comma, or two totals"),
        (Extension("0.95"), "a fraction, or percent"),
        (Extension("110%"), "at most 100 %"),
        (Extension("90%", granularity="circles"), "circles"),
        (Extension("90%", granularity="frame,frame"), "is for 2 rounds"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    team: Team, asked: Extension, pattern: str
) -> None:
    enroll(team.agent(), team.task, team.options)
    before = session_of(team)
    with pytest.raises(ConfigError, match=pattern):
        extend(team.agent(), team.task, asked)
    assert session_of(team) == before


def test_more_must_be_allowed_than_is_spent(team: Team) -> None:
    """People may have clicked more than was promised."""
    to_the_end(team, budget="1%", rounds=1, granularity="frame")
    session = session_of(team)
    (told,) = team.status()
    assert told.budget_clicks is not None
    assert session.clicks > 2 * told.budget_clicks
    with pytest.raises(ConfigError, match="has spent") as refused:
        extend(team.agent(), team.task, Extension("2%"))
    assert told.next_command is not None
    assert told.next_command in str(refused.value)
    budget = told.next_command.split()[-1]
    assert extend(team.agent(), team.task, Extension(budget)).rounds == (2,)


def test_tasks_that_are_not_enrolled_are_refused(team: Team) -> None:
    for task in (team.task, 99):
        with pytest.raises(ConfigError, match=f"enroll it: hvsa-agent enroll {task}"):
            extend(team.agent(), task, Extension("10%"))


def test_a_task_that_another_agent_has_is_left(team: Team) -> None:
    enroll(team.agent(), team.task, team.options)
    with (
        team.agent("two").workspace.leased(team.task),
        pytest.raises(HvsaError, match="two works on task"),
    ):
        extend(team.agent(), team.task, Extension("90%"))


def test_a_task_with_nothing_left_to_ask_is_refused(team: Team) -> None:
    report = to_the_end(team, budget="99%", rounds=1, granularity="frame")
    assert len(session_of(team).queried) == LENGTH
    assert report.next_command is None
    with pytest.raises(ConfigError, match="nothing left"):
        extend(team.agent(), team.task, Extension("100%"))


def test_advice_names_the_command(team: Team) -> None:
    report = to_the_end(team, budget="14%", rounds=2)
    (told,) = team.status()
    assert told.outlook is not None
    assert told.outlook.advice == "go on with whole frames"
    assert told.next_command == report.next_command
    assert told.next_command is not None
    *command, percent, _, granularity = told.next_command.split()
    assert command == ["hvsa-agent", "extend", str(team.task), "--rounds", "1", "--budget"]
    assert granularity == "frame"
    extend(team.agent(), team.task, Extension(percent, granularity=granularity))
    assert only(sync(team.agent())).open_jobs
    assert session_of(team).current.phase is Phase.ANNOTATE


@pytest.mark.parametrize("advice", list(Advice))
def test_every_advice_names_a_command_while_rounds_are_left(team: Team, advice: Advice) -> None:
    """Also where the last round may spend all clicks, so that nothing can be added."""
    enroll(team.agent(), team.task, {**team.options, "budget": "30%,100%"})
    only(sync(team.agent()))
    advised(team, advice)
    (told,) = team.status()
    assert told.next_command is not None
    assert told.next_command.startswith("hvsa-agent ")


def test_stopping_keeps_the_masks(team: Team) -> None:
    agent = team.agent()
    enroll(agent, team.task, team.options)
    only(sync(agent))
    advised(team, Advice.STOP)
    (told,) = team.status()
    assert told.next_command == f"hvsa-agent withdraw {team.task} --keep-masks"
    job, child = team.cvat.task(team.task).jobs[0], team.cvat.task(team.task + 1)
    before = team.cvat.shapes(job)
    assert before
    assert withdraw(agent, team.task, children=False, keep_masks=True) is None
    assert team.cvat.shapes(job) == before
    assert {job.assignee for job in child.jobs} == {None}
    assert f"{len(before)} shapes of ours stay, as people's now" in team.lines
    assert list(sync(agent)) == []
    enroll(agent, team.task, team.options, again=True)
    only(sync(agent))
    assert team.cvat.shapes(job) == before


def advised(team: Team, advice: Advice) -> None:
    """Let the newest outlook of the session be one with this advice."""
    outlook = Outlook(
        miou_before=0.8, expected_miou=0.9, low=0.85, high=0.95, gain=0.001, advice=advice
    )
    number = session_of(team).current.number
    with Store(only_folder(team)) as store:
        store.round(number).save_outlook(outlook)


def test_after_an_audit_it_goes_on_with_samples(team: Team) -> None:
    to_the_end(team, budget="10%,20%", audit=2)
    done = extend(team.agent(), team.task, Extension("90%", rounds=1))
    assert done.granularity == "rectangle:16"
    done = extend(team.agent(), team.task, Extension("95%", rounds=1, granularity="audit:2"))
    assert done.granularity == "audit:2"


@pytest.mark.parametrize("granularity", ["audit:500", "rectangle:5000", "superpixel:999999"])
def test_samples_that_the_video_does_not_have_change_nothing(team: Team, granularity: str) -> None:
    to_the_end(team)
    before = session_of(team)
    with pytest.raises(ConfigError, match=r"fit|pixels"):
        extend(team.agent(), team.task, Extension("90%", rounds=1, granularity=granularity))
    assert session_of(team) == before


def test_a_budget_of_time_is_spent_told_and_extended(team: Team) -> None:
    to_the_end(team, budget="2min", rounds=2, hourly_rate=30.0, currency="EUR")
    config = session_of(team).config
    assert (config["budgets"], config["budget_unit"]) == ([60.0, 120.0], "seconds")
    (told,) = team.status()
    assert told.budget_clicks is None
    assert told.people is not None
    assert told.people.budget_minutes == 2
    assert told.people.spent_money == round(told.people.spent_minutes / 2, 2) > 0
    assert told.next_command is not None
    least = max(2, told.people.spent_minutes)
    total = told.next_command.split("--budget ")[1].split()[0]
    assert least < float(total.removesuffix("min")) < least + 5
    for budget, why in (
        ("50%", "the budget of task 1 counts time; name it so: hvsa-agent extend 1"),
        ("2min", "2 min of people's time; name a larger total: hvsa-agent extend 1"),
        ("1h,3%", "mixes a time and a percentage"),
    ):
        with pytest.raises(ConfigError, match=why) as refused:
            extend(team.agent(), team.task, Extension(budget))
        assert "\n" not in str(refused.value)
    done = extend(team.agent(), team.task, Extension("30min", 2, "rectangle:24"))
    assert (done.rounds, done.budget) == ((3, 4), "30 min of people's time")
    assert session_of(team).config["budgets"] == pytest.approx([60, 120, 960, 1800])
    assert to_the_end(team).done


def test_a_budget_of_clicks_takes_no_time(team: Team) -> None:
    enroll(team.agent(), team.task, {**team.options, "budget": "30%"})
    with pytest.raises(ConfigError, match="counts clicks; name it so: hvsa-agent extend 1"):
        extend(team.agent(), team.task, Extension("3h"))
