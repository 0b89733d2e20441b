"""What jobs took in one task counts in the other tasks of its project."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.annotation.effort import PUBLISHED
from hvsa_cvat.session.effort import efforts_of
from hvsa_cvat.session.records import TeamWork, TimedRecord, WorkRecord
from hvsa_cvat.session.store import Store
from tests.people import open_jobs
from tests.standin import StandIn
from tests.team import NAMES, Team, only_folder


def job(seconds: float, vertices: int = 10) -> TimedRecord:
    return TimedRecord(work=WorkRecord(samples=4, vertices=vertices), seconds=seconds)


def test_jobs_are_kept_by_project_and_granularity(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "cvat.example.com", "a", lambda: 1.0)
    elsewhere = Workspace(tmp_path, "other.example.com", "a", lambda: 1.0)
    times = workspace.times
    times.keep(7, "one", 1, False, TeamWork(small=(job(30.0), job(40.0))))
    times.keep(7, "one", 2, True, TeamWork(whole=(job(50.0),)))
    times.keep(7, "two", 1, False, TeamWork(small=(job(60.0),)))
    times.keep(8, "three", 1, False, TeamWork(small=(job(70.0),)))

    assert times.of_others(7, "two") == TeamWork(whole=(job(50.0),), small=(job(40.0), job(30.0)))
    assert times.of_others(7, "one") == TeamWork(small=(job(60.0),))
    assert times.of_others(9, "one") == TeamWork()
    assert elsewhere.times.of_others(7, "two") == TeamWork()
    # a round that is read again holds in place of what it was
    times.keep(7, "two", 1, False, TeamWork(small=(job(61.0),)))
    assert times.of_others(7, "one") == TeamWork(small=(job(61.0),))


def test_figures_are_fitted_to_the_jobs_of_the_project() -> None:
    # 5 s a job, 4 looks of 1.6 s and vertices of 1.75 s, all three times as slow
    slow = tuple(job(3 * (5 + 6.4 + 1.75 * n), n) for n in range(5, 11))
    efforts = efforts_of((), TeamWork(small=slow))
    assert efforts.whole is PUBLISHED
    assert efforts.small.fitted_to == 6
    assert efforts.small.vertex > 1.5 * PUBLISHED.vertex
    assert efforts_of((), TeamWork(small=slow[:4])).small is PUBLISHED


@pytest.fixture
def cvat() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


def test_a_task_borrows_the_times_of_its_project(
    cvat: StandIn, checkpoint: Path, tmp_path: Path
) -> None:
    team = Team(cvat, tmp_path, checkpoint)
    project = cvat.add_project("streets", list(NAMES))
    first, second = (team.add_task(name, project=project) for name in ("first", "second"))
    agent = team.agent()
    options = {**team.options, "budget": "30%"}
    enroll(agent, first, options)
    list(sync(agent))
    cvat.world.analytics, cvat.world.refuses_events = True, None
    cvat.world.working_time = [(number, 20_000) for number in open_jobs(cvat)]
    team.answer()
    list(sync(agent))
    enroll(agent, second, options)
    list(sync(agent))

    with Store(only_folder(team, first)) as store:
        work = store.round(1).work()
        assert work is not None
        assert work.timed
        assert {one.seconds for one in work.timed} == {20.0}
        assert store.round(1).team_work() == TeamWork()
    with Store(only_folder(team, second)) as store:
        assert sorted(store.round(1).team_work().small, key=str) == sorted(work.timed, key=str)
