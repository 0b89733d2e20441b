"""Pausing, resuming, extending and withdrawing, from commands and from the pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from hvsa_cvat.agent.carry_out import carry_out_wishes
from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.events import Event, Recorded, read_events
from hvsa_cvat.agent.extend import Extension, extend
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.wishes import WishKind
from hvsa_cvat.cli import main
from hvsa_cvat.dashboard.site import SiteOptions
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store
from tests.lead import DONE, FRESH, WAITING, Filled, run_of
from tests.standin import StandIn
from tests.team import Team, only, only_folder
from tests.test_dashboard import browsing, form_value, judged, page
from tests.test_dashboard_access import TOKEN, log_in

LEAD = "dashboard, from 10.0.0.7"


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    """A server with one task, which is enrolled and has had no pass."""
    with StandIn() as cvat:
        team = Team(cvat, tmp_path, checkpoint)
        enroll(team.agent(), team.task, {**team.options, "budget": "30%", "rounds": 1})
        yield team


def session_of(team: Team) -> Session:
    session = Store.peek(only_folder(team, team.task))
    assert session is not None
    return session


def log_of(agent: AgentContext, task: int) -> list[Recorded]:
    return read_events(agent.workspace.root, agent.workspace.server, task)


# -- what the agent does


def test_a_paused_task_is_left_out_until_it_is_resumed(team: Team) -> None:
    agent = team.agent()
    agent.workspace.pauses.pause(team.task, "ann@office")
    for task in (None, team.task):
        report = only(sync(agent, task))
        assert report.paused
        assert report.moved == ()
    assert session_of(team).current.phase is Phase.PREDICT
    (status,) = team.status()
    assert status.paused
    agent.workspace.pauses.resume(team.task)
    assert not only(sync(agent)).paused
    assert session_of(team).current.phase is Phase.ANNOTATE
    whats = [(one.what, one.who) for one in log_of(agent, team.task)]
    assert whats[1:3] == [(Event.PAUSED, "ann@office"), (Event.RESUMED, "agent")]


def test_pausing_twice_or_what_is_not_enrolled_is_refused(team: Team) -> None:
    pauses = team.agent().workspace.pauses
    with pytest.raises(ConfigError, match="task 9 is not enrolled"):
        pauses.pause(9)
    with pytest.raises(ConfigError, match="task 1 is not paused"):
        pauses.resume(team.task)
    pauses.pause(team.task)
    with pytest.raises(ConfigError, match="paused already; hvsa-agent resume 1"):
        pauses.pause(team.task)


def test_a_withdrawn_task_is_not_paused_when_it_is_enrolled_again(team: Team) -> None:
    agent = team.agent()
    agent.workspace.pauses.pause(team.task)
    agent.workspace.remove_task(team.task)
    assert agent.workspace.pauses.all() == frozenset()


def test_the_next_pass_extends_a_task(team: Team) -> None:
    agent = team.agent()
    arguments = {"budget": "50%", "rounds": 2, "granularity": None}
    agent.workspace.wishes.add(team.task, WishKind.EXTEND, arguments, LEAD)
    with pytest.raises(ConfigError, match="ask again afterwards"):
        agent.workspace.wishes.add(team.task, WishKind.EXTEND, arguments, LEAD)
    assert only(sync(agent)).error is None
    assert session_of(team).rounds_total == 3
    assert agent.workspace.wishes.all() == []
    found = {one.what: one.who for one in log_of(agent, team.task)}
    assert found[Event.WISHED] == found[Event.EXTENDED] == LEAD
    assert Event.REFUSED not in found


def test_an_agent_that_ended_right_after_extending_does_not_extend_twice(team: Team) -> None:
    agent = team.agent()
    arguments = {"budget": "50%", "rounds": 1, "granularity": None}
    agent.workspace.wishes.add(team.task, WishKind.EXTEND, arguments, LEAD)
    extend(agent, team.task, Extension("50%"), who=LEAD)
    (report,) = carry_out_wishes(agent, None)
    assert "name a larger total" in (report.error or "")
    assert session_of(team).rounds_total == 2
    assert agent.workspace.wishes.all() == []
    refused = log_of(agent, team.task)[-1]
    assert (refused.what, refused.detail["reason"]) == (Event.REFUSED, report.error)


@pytest.mark.parametrize("keep", [False, True])
def test_the_next_pass_withdraws_a_task(team: Team, keep: bool) -> None:
    agent = team.agent()
    assert only(sync(agent)).error is None
    assert team.answer() == 2
    assert only(sync(agent)).done
    shapes = sum(len(team.cvat.shapes(job)) for job in team.cvat.task(team.task).jobs)
    assert shapes
    agent.workspace.pauses.pause(team.task)  # does not keep it from being withdrawn
    agent.workspace.wishes.add(team.task, WishKind.WITHDRAW, {"keep_masks": keep}, LEAD)
    assert list(sync(agent)) == []
    assert agent.workspace.enrollments() == []
    left = sum(len(team.cvat.shapes(job)) for job in team.cvat.task(team.task).jobs)
    assert left == (shapes if keep else 0)
    last = log_of(agent, team.task)[-1]
    assert (last.what, last.who) == (Event.WITHDRAWN, LEAD)
    assert last.detail["masks"] == ("kept" if keep else "removed")


def test_the_next_pass_asks_again(team: Team) -> None:
    agent = team.agent()
    assert only(sync(agent)).error is None
    (child,) = (one for one in team.cvat.world.tasks.values() if one.id != team.task)
    team.cvat.world.drop(child)
    assert "ask again" in (only(sync(agent)).error or "")
    agent.workspace.wishes.add(team.task, WishKind.ASK_AGAIN, {}, LEAD)
    report = only(sync(agent))
    assert report.error is None
    assert len(report.open_jobs) == 2
    assert agent.workspace.wishes.all() == []
    team.answer()
    assert only(sync(agent)).done
    agent.workspace.wishes.add(team.task, WishKind.ASK_AGAIN, {}, LEAD)
    (refused, _) = sync(agent)
    assert "nobody is asked now" in (refused.error or "")


def test_a_wish_about_an_earlier_enrollment_is_forgotten(team: Team) -> None:
    agent = team.agent()
    agent.workspace.wishes.add(team.task, WishKind.WITHDRAW, {"keep_masks": False}, LEAD)
    (wish,) = agent.workspace.wishes.all()
    agent.workspace.remove_task(team.task)
    enroll(agent, team.task, team.options)
    assert agent.workspace.wishes.all() == []
    agent.workspace.wishes.end(wish)  # as an agent would that had read it before
    assert [one.task for one in agent.workspace.enrollments()] == [team.task]


def test_while_another_agent_works_on_the_task_a_wish_waits(team: Team) -> None:
    agent, other = team.agent(), team.agent(owner="other")
    agent.workspace.wishes.add(team.task, WishKind.WITHDRAW, {"keep_masks": False}, LEAD)
    with other.workspace.leased(team.task):
        assert list(carry_out_wishes(agent, None)) == []
    assert len(agent.workspace.wishes.all()) == 1
    assert list(carry_out_wishes(agent, None)) == []
    assert agent.workspace.enrollments() == []


def test_while_the_server_is_down_a_wish_waits(team: Team) -> None:
    agent = team.agent()
    agent.workspace.wishes.add(team.task, WishKind.WITHDRAW, {"keep_masks": False}, LEAD)
    team.cvat.close()
    (report,) = sync(agent)
    assert report.error is not None
    assert len(agent.workspace.wishes.all()) == 1


# -- the commands


def command(filled: Filled, *args: object) -> Result:
    names = ("CVAT_ACCESS_TOKEN", "CVAT_USER", "CVAT_PASSWORD", "HVSA_CONFIG")
    environment = {**filled.environment(), **dict.fromkeys(names)}
    return CliRunner().invoke(main, [*map(str, args)], env=environment)


def test_the_commands_pause_and_resume(copied: Filled) -> None:
    assert "hvsa-agent resume 2" in command(copied, "pause", WAITING).stdout
    again = command(copied, "pause", WAITING)
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    entries = json.loads(command(copied, "log", WAITING, "--format", "json").stdout)
    (paused,) = [one for one in entries if one["what"] == "paused"]
    assert "@" in paused["who"]
    assert "goes on" in command(copied, "resume", WAITING).stdout
    assert command(copied, "resume", WAITING).exit_code == 2


# -- the pages


@pytest.fixture
def browser(copied: Filled) -> Iterator[TestClient]:
    with browsing(copied, SiteOptions(patience=60, token=TOKEN)) as client:
        log_in(client)
        yield client


def post(client: TestClient, path: str, **fields: str) -> int:
    fields.setdefault("csrf", form_value(page(client, path)))
    return client.post(path, data=fields).status_code


def test_a_task_is_paused_and_resumed_on_its_pages(browser: TestClient) -> None:
    assert f'href="/tasks/{WAITING}/pause"' in page(browser, f"/tasks/{WAITING}")
    assert post(browser, f"/tasks/{WAITING}/pause") == 303
    text = page(browser, f"/tasks/{WAITING}")
    assert ">paused</span>" in text
    assert f"<code>hvsa-agent resume {WAITING}</code>" in text
    assert f'href="/tasks/{WAITING}/resume"' in text
    assert "dashboard, from testclient" in text
    assert "paused already" in page(browser, f"/tasks/{WAITING}/pause")
    assert post(browser, f"/tasks/{WAITING}/resume") == 303
    assert ">paused</span>" not in page(browser, f"/tasks/{WAITING}")


def test_withdrawing_shows_first_what_it_would_remove(browser: TestClient, copied: Filled) -> None:
    run = run_of(copied, WAITING)
    request = run.request_of(2)
    assert request is not None
    text = page(browser, f"/tasks/{WAITING}/withdraw")
    shapes = sum(job.shapes for job in run.memory.jobs)
    assert shapes > 0
    assert f"Remove up to {shapes} masks of ours" in text
    for job in request.jobs:
        assert f"Take job {job.id}, which is not answered, from {job.assignee}" in text
    assert "Keep 2 tasks in which people were asked" in text
    assert post(browser, f"/tasks/{WAITING}/withdraw", masks="keep") == 303
    text = page(browser, f"/tasks/{WAITING}")
    assert "asked the agent to withdraw this task" in text
    assert f'href="/tasks/{WAITING}/extend"' not in text
    assert "asked for something already" in page(browser, f"/tasks/{WAITING}/extend")


def test_asking_again_is_offered_where_people_are_asked(browser: TestClient) -> None:
    assert f'href="/tasks/{WAITING}/ask-again">Ask again</a>' in page(browser, f"/tasks/{WAITING}")
    assert "/ask-again" not in page(browser, f"/tasks/{DONE}")
    assert "nobody is asked in this task" in page(browser, f"/tasks/{DONE}/ask-again")
    assert post(browser, f"/tasks/{WAITING}/ask-again") == 303
    text = page(browser, f"/tasks/{WAITING}")
    assert "asked the agent to ask again about this task" in text


def test_extending_checks_what_it_can_at_once(browser: TestClient) -> None:
    path = f"/tasks/{DONE}/extend"
    for wrong in (
        {"budget": "much", "rounds": "1"},
        {"budget": "60%", "rounds": "1"},  # both rounds were given as much
        {"budget": "90%", "rounds": "0"},
        {"budget": "90%", "rounds": "1", "granularity": "crumbs"},
    ):
        assert post(browser, path, **wrong) == 400
    assert post(browser, path, budget="90%", rounds="2", granularity="frame") == 303
    assert "asked the agent to extend this task" in page(browser, f"/tasks/{DONE}")


def test_what_was_asked_of_the_agent_is_told_without_what_was_not_given(
    browser: TestClient,
) -> None:
    assert post(browser, f"/tasks/{DONE}/extend", budget="90%", rounds="1") == 303
    assert post(browser, f"/tasks/{WAITING}/withdraw", masks="remove") == 303
    assert "to: extend, budget: 90%, rounds: 1</td>" in page(browser, f"/tasks/{DONE}")
    assert "to: withdraw, keep masks: no</td>" in page(browser, f"/tasks/{WAITING}")


def test_a_form_of_another_page_changes_nothing(browser: TestClient) -> None:
    path = f"/tasks/{WAITING}/pause"
    assert post(browser, path, csrf="") == 403
    assert post(browser, path, csrf="0" * 64) == 403
    value = form_value(page(browser, path))
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert browser.post(path, data={"csrf": value}, headers=elsewhere).status_code == 403
    assert ">paused</span>" not in page(browser, f"/tasks/{WAITING}")


def test_without_a_token_nothing_can_be_done_and_the_page_says_how(copied: Filled) -> None:
    with browsing(copied) as client:
        for what in ("pause", "extend", "withdraw"):
            text = page(client, f"/tasks/{WAITING}/{what}")
            assert "set HVSA_DASHBOARD_TOKEN" in text
            assert f"<code>hvsa-agent {what} {WAITING}" in text
            assert 'class="confirm"' not in text
        value = form_value(judged(client, DONE, "?all=1"))
        answer = client.post(f"/tasks/{WAITING}/pause", data={"csrf": value})
        assert answer.status_code == 400
        assert "HVSA_DASHBOARD_TOKEN" in answer.text
        assert ">paused</span>" not in page(client, f"/tasks/{WAITING}")


def test_a_dashboard_that_only_shows_does_nothing(copied: Filled) -> None:
    options = SiteOptions(patience=60, token=TOKEN, read_only=True)
    with browsing(copied, options) as client:
        log_in(client)
        text = page(client, f"/tasks/{WAITING}/pause")
        assert 'class="confirm"' not in text
        answer = client.post(f"/tasks/{WAITING}/pause", data={"csrf": form_value(text)})
        assert answer.status_code == 403


def test_there_are_no_other_actions(browser: TestClient) -> None:
    assert page(browser, f"/tasks/{FRESH}/delete", 404)
    assert browser.get("/tasks/99/pause").status_code == 404


def test_a_wish_that_ends_in_a_fault_stops_nothing(team: Team) -> None:
    agent = team.agent()
    agent.workspace.wishes.add(team.task, WishKind.EXTEND, {"budget": "90%"}, LEAD)
    (refused, report) = sync(agent)
    assert "please report it" in str(refused.error)
    assert report.error is None
    assert report.moved
    assert agent.workspace.wishes.all() == []
