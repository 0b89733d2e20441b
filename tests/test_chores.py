"""What `sync` does beside the rounds: jobs for validation, and jobs that go to somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvsa_cvat.agent.chores import NO_CHORES, Chores, parse_share
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.events import read_events
from hvsa_cvat.agent.extend import Extension, extend
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.reports import TaskReport
from hvsa_cvat.agent.withdraw import withdraw
from hvsa_cvat.cli.task_lines import report_lines
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.session.store import Store
from tests import tiny
from tests.people import answer_job, open_jobs
from tests.standin import ProcessDied, StandIn
from tests.team import LENGTH, NAMES, Kept, Team, only, only_folder

ACCEPT = Chores(accept=0.5)
NOTHING_IS_SURE = Chores(accept=1.0)
REBALANCE = Chores(rebalance_hours=24)


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Kept]:
    """A task of two jobs whose only round is over; nothing else was done."""
    with StandIn() as cvat:
        team = Team(cvat, tmp_path_factory.mktemp("over"), checkpoint)
        team.task = team.add_task("film", job_size=3)
        enroll(team.agent(), team.task, {**team.options, "budget": "60%", "rounds": 1})
        run(team, NO_CHORES)
        team.answer()
        assert run(team, NO_CHORES).done
        yield Kept(team)


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Kept]:
    """Both annotators have several jobs of a year ago."""
    with StandIn() as cvat:
        team = Team(cvat, tmp_path_factory.mktemp("asking"), checkpoint)
        enroll(team.agent(), team.task, {**team.options, "budget": "60%,90%", "job_minutes": 0.1})
        run(team, NO_CHORES)
        for job in open_jobs(cvat):
            old(cvat.job(job))
        yield Kept(team)


@pytest.fixture
def team(over: Kept) -> Team:
    return over.again()


@pytest.fixture
def waiting(asking: Kept) -> Team:
    return asking.again()


def run(team: Team, chores: Chores) -> TaskReport:
    report = only(sync(team.agent(), chores=chores))
    assert report.error is None, report.error
    return report


def events(team: Team) -> list[str]:
    found = read_events(team.root / "workspace", server_key(team.cvat.url), team.task)
    return [one.what.value for one in found]


def stages(team: Team) -> list[tuple[str, str]]:
    return [(job.stage, job.state) for job in team.cvat.task(team.task).jobs]


def old(job: Any) -> None:
    job.updated = job.updated.replace(year=job.updated.year - 1)


def test_jobs_that_are_probably_right_are_marked_once_and_frames_to_look_at_listed(
    team: Team,
) -> None:
    run(team, ACCEPT)
    jobs = team.cvat.task(team.task).jobs
    assert stages(team) == [("validation", "new")] * 2
    assert "marked for validation" in events(team)
    told = [line for line in team.lines if "marked for validation" in line]
    assert len(told) == 1
    assert f"{team.cvat.url}/jobs?filter=" in told[0]
    look = [line for line in team.lines if "look first at frame" in line]
    assert len(look) == LENGTH
    frame = int(look[0].split("look first at frame ")[1].split(",")[0])
    shows = next(job for job in jobs if job.start <= frame <= job.stop)
    assert look[0].endswith(f"/tasks/{team.task}/jobs/{shows.id}?frame={frame}")
    run(team, ACCEPT)
    assert len([line for line in team.lines if "marked for validation" in line]) == 1


def test_nothing_is_marked_before_all_rounds_are_over(waiting: Team) -> None:
    run(waiting, ACCEPT)
    assert stages(waiting) == [("annotation", "new")]


def test_jobs_in_which_more_may_be_wrong_stay_and_are_named(team: Team) -> None:
    run(team, NOTHING_IS_SURE)
    assert stages(team) == [("annotation", "new")] * 2
    assert any("in the others more may be wrong: " in line for line in team.lines)
    run(team, ACCEPT)  # another threshold judges anew
    assert stages(team) == [("validation", "new")] * 2


def test_a_stage_that_a_person_sets_stays(team: Team) -> None:
    first, second = team.cvat.task(team.task).jobs
    lead = team.cvat.person(team.cvat.admin)
    lead.call("PATCH", f"jobs/{first.id}", {"stage": "acceptance", "state": "completed"})
    run(team, ACCEPT)
    assert stages(team) == [("acceptance", "completed"), ("validation", "new")]
    lead.call("PATCH", f"jobs/{second.id}", {"stage": "annotation"})
    run(team, ACCEPT)
    assert stages(team) == [("acceptance", "completed"), ("annotation", "new")]


def test_a_job_that_somebody_has_begun_is_not_marked(team: Team) -> None:
    first, _ = team.cvat.task(team.task).jobs
    person = team.cvat.person(team.cvat.admin)
    label = team.cvat.shapes(first)[0]["label_id"]
    person.draw(first, {"frame": 0, "label_id": label, "points": [1, 1, 9, 1, 9, 9]})
    before = team.cvat.shapes(first)
    run(team, ACCEPT)
    assert stages(team) == [("annotation", "in progress"), ("validation", "new")]
    assert team.cvat.shapes(first) == before


def test_withdrawing_takes_back_what_is_as_we_left_it(team: Team) -> None:
    run(team, ACCEPT)
    _, second = team.cvat.task(team.task).jobs
    person = team.cvat.person(team.cvat.admin)
    label = team.cvat.shapes(second)[0]["label_id"]
    drawn = person.draw(second, {"frame": 4, "label_id": label, "points": [1, 1, 9, 1, 9, 9]})
    stage = team.cvat.job(second.id).stage
    done = withdraw(team.agent(), team.task, children=False)
    assert done is not None
    first, second = team.cvat.task(team.task).jobs
    assert (first.stage, first.state) == ("annotation", "new")
    assert team.cvat.shapes(first) == []
    assert second.stage == stage == "validation"
    assert drawn in [shape["id"] for shape in team.cvat.shapes(second)]
    assert any(f"job {second.id} stays in the stage validation" in line for line in team.lines)


def test_withdrawing_with_its_masks_leaves_the_marks(team: Team) -> None:
    run(team, ACCEPT)
    withdraw(team.agent(), team.task, children=False, keep_masks=True)
    assert stages(team) == [("validation", "new")] * 2


def test_a_task_that_goes_on_is_open_for_masks_again(team: Team) -> None:
    run(team, ACCEPT)
    jobs = team.cvat.task(team.task).jobs
    before = [team.cvat.shapes(job) for job in jobs]
    extend(team.agent(), team.task, Extension("90%", granularity="frame"))
    run(team, ACCEPT)
    assert stages(team) == [("annotation", "new")] * 2
    team.answer()
    assert run(team, ACCEPT).done
    assert stages(team) == [("validation", "new")] * 2
    assert [team.cvat.shapes(job) for job in team.cvat.task(team.task).jobs] != before


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_dies_at_a_mark_leaves_one_that_is_ours(team: Team, when: Any) -> None:
    saved, begin = team.cvat.snapshot(), len(team.cvat.requests)
    state = only_folder(team, team.task) / "cvat" / "cvat.db"
    kept = state.read_bytes()
    run(team, ACCEPT)
    place = [one.method for one in team.cvat.requests[begin:]].index("PATCH")
    team.cvat.restore(saved)
    state.write_bytes(kept)
    with team.cvat.process_dies(place, when), pytest.raises(ProcessDied):
        run(team, ACCEPT)
    team.now += 3600
    run(team, ACCEPT)
    assert stages(team) == [("validation", "new")] * 2
    withdraw(team.agent(), team.task, children=False)
    assert stages(team) == [("annotation", "new")] * 2


@pytest.mark.parametrize("text", ["0.95", "x", "0", "101", "nan"])
def test_a_wrong_share_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="write 95"):
        parse_share(text)


def test_a_share_is_a_percentage() -> None:
    assert parse_share("95") == parse_share("95 %") == 0.95


def small_jobs(team: Team) -> dict[str, list[Any]]:
    """The jobs of each annotator."""
    jobs = [team.cvat.job(number) for number in open_jobs(team.cvat)]
    return {name: [j for j in jobs if j.assignee.username == name] for name in ("ann", "bob")}


def answer(team: Team, job: Any) -> None:
    answer_job(team.cvat, team.cvat.person(job.assignee.username), job.id, tiny.truth, NAMES)


def test_jobs_of_somebody_who_is_away_go_to_who_has_finished(waiting: Team) -> None:
    team = waiting
    jobs = small_jobs(team)
    assert len(jobs["ann"]) > 1
    run(team, REBALANCE)
    assert all(job.assignee.username == "ann" for job in jobs["ann"]), "nobody is free"
    for job in jobs["bob"]:
        answer(team, job)
    run(team, REBALANCE)
    assert {team.cvat.job(job.id).assignee.username for job in jobs["ann"]} == {"bob"}
    assert events(team).count("job given to somebody else") == len(jobs["ann"])
    assert sum("goes from ann to bob" in line for line in team.lines) == len(jobs["ann"])
    for job in jobs["ann"]:
        answer(team, team.cvat.job(job.id))
    assert "round 1: publish" in run(team, REBALANCE).moved


def test_of_somebody_who_is_slow_a_part_is_taken(waiting: Team) -> None:
    team = waiting
    jobs = small_jobs(team)
    first, *others = jobs["ann"]
    answer(team, first)
    assert len(others) > 1
    for job in jobs["bob"]:
        answer(team, job)
    run(team, REBALANCE)
    holders = [team.cvat.job(job.id).assignee.username for job in others]
    assert holders[0] == "ann"
    assert "bob" in holders


def test_a_job_that_has_not_waited_so_long_stays(waiting: Team) -> None:
    team = waiting
    jobs = small_jobs(team)
    for job in jobs["ann"]:
        job.updated = job.updated.replace(year=job.updated.year + 1)
    for job in jobs["bob"]:
        answer(team, job)
    run(team, REBALANCE)
    assert {team.cvat.job(job.id).assignee.username for job in jobs["ann"]} == {"ann"}


@pytest.mark.parametrize("did", ["draw", "relabel", "untag", "delete", "state"])
def test_a_job_in_which_somebody_did_anything_stays_with_them(waiting: Team, did: str) -> None:
    team = waiting
    jobs = small_jobs(team)
    for job in jobs["bob"]:
        answer(team, job)
    mine, *_ = jobs["ann"]
    ann = team.cvat.person("ann")
    shape = team.cvat.shapes(mine)[0]
    other = next(
        label.id
        for label in mine.task.labels
        if label.name in NAMES and label.id != shape["label_id"]
    )
    if did == "draw":
        points = [1, 1, 9, 1, 9, 9]
        ann.draw(mine, {"frame": mine.start, "label_id": other, "points": points})
    elif did == "relabel":
        ann.relabel(mine, shape["id"], other)
    elif did == "untag":
        ann.remove_tag(mine, mine.start)
    elif did == "delete":
        ann.delete(mine, shape["id"])
    if did == "state":
        ann.call("PATCH", f"jobs/{mine.id}", {"state": "in progress"})
    else:
        mine.state = "new"  # the browser died before it said so
    old(mine)
    before = team.cvat.shapes(mine)
    run(team, REBALANCE)
    assert team.cvat.job(mine.id).assignee.username == "ann"
    assert team.cvat.shapes(mine) == before


def test_who_begins_in_that_moment_keeps_the_job(waiting: Team) -> None:
    team = waiting
    jobs = small_jobs(team)
    for job in jobs["bob"]:
        answer(team, job)
    (mine, *_) = jobs["ann"]
    label = team.cvat.shapes(mine)[0]["label_id"]
    begun = []

    def act(request: Any) -> None:
        if request.method == "PATCH" and request.path.endswith(f"jobs/{mine.id}") and not begun:
            begun.append(True)
            points = [1, 1, 9, 1, 9, 9]
            team.cvat.person("ann").draw(
                mine, {"frame": mine.start, "label_id": label, "points": points}
            )

    team.cvat.before_request = act
    run(team, REBALANCE)
    team.cvat.before_request = None
    assert begun
    assert team.cvat.job(mine.id).assignee.username == "ann"
    assert any(f"job {mine.id} stays with ann" in line for line in team.lines)


def test_jobs_that_nobody_picks_are_one_line(waiting: Team) -> None:
    for job in open_jobs(waiting.cvat):
        waiting.cvat.job(job).assignee = None
    report = run(waiting, REBALANCE)
    lines = list(report_lines(report, waiting.cvat.url))
    assert sum("nobody has picked one of these jobs yet" in line for line in lines) == 1
    number = report.open_jobs[0].job
    waiting.cvat.person(waiting.cvat.admin).call("PATCH", f"jobs/{number}", {"assignee": 2})
    lines = list(report_lines(run(waiting, REBALANCE), waiting.cvat.url))
    assert not any("nobody has picked" in line for line in lines)


def test_answers_that_people_revise_are_counted_anew(waiting: Team) -> None:
    folder = only_folder(waiting, waiting.task)
    job, *_ = open_jobs(waiting.cvat)
    waiting.answer()
    assert "round 1: publish" in run(waiting, NO_CHORES).moved
    before = Store.peek(folder)
    assert before is not None
    with Store(folder) as store:
        work = store.round(1).work()
    row = waiting.cvat.job(job)
    label = next(label.id for label in row.task.labels if label.name in NAMES)
    shape = {"frame": row.start, "label_id": label, "points": [9, 9, 50, 9, 50, 50, 9, 50]}
    waiting.cvat.person("ann").draw(job, shape)
    row.state = "completed"
    waiting.answer()
    assert "round 2: annotate" in run(waiting, NO_CHORES).moved
    after = Store.peek(folder)
    assert after is not None
    assert (after.rounds[1].clicks or 0) > (before.rounds[1].clicks or 0) > 0
    with Store(folder) as store:
        again = store.round(1).work()
    assert work is not None
    assert again is not None
    assert again.by_kind != work.by_kind
    assert again.timed == work.timed


def companions(team: Team) -> list[int]:
    return [one.id for one in team.cvat.world.projects.values() if one.name.startswith("HVSA")]


def test_an_empty_project_goes_with_the_last_task_that_asks_in_it(waiting: Team) -> None:
    other = waiting.add_task("other")
    enroll(waiting.agent(), other, waiting.options)
    list(sync(waiting.agent()))
    (project,) = companions(waiting)
    withdraw(waiting.agent(), waiting.task, children=True)
    assert companions(waiting) == [project]
    withdraw(waiting.agent(), other, children=True)
    assert companions(waiting) == []


@pytest.mark.parametrize("why", ["asked for", "tasks", "words"])
def test_a_project_stays_where_it_is_wanted(waiting: Team, why: str) -> None:
    before = companions(waiting)
    if why == "words":
        for guide in waiting.cvat.world.guides.values():
            guide.markdown = f"Ask Zoe first.\n\n{guide.markdown}"
    children, keep = why != "tasks", why == "asked for"
    withdraw(waiting.agent(), waiting.task, children=children, keep_projects=keep)
    assert companions(waiting) == before
    assert sum("in which people were asked, stays" in line for line in waiting.lines) == 1
