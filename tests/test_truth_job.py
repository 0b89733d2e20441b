"""Ground truth jobs: made from audits, or people's, which are an audit and teach nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvsa_cvat.agent.chores import NO_CHORES, Chores
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.reports import TaskReport
from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, LabelMap
from tests import tiny
from tests.standin import Fault, ProcessDied, Request, StandIn
from tests.team import NAMES, Kept, Team, only, only_folder

MAKE = Chores(ground_truth_job=True)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Kept]:
    """A round, and an audit of two frames."""
    with StandIn() as cvat:
        team = Team(cvat, tmp_path_factory.mktemp("audited"), checkpoint)
        enroll(team.agent(), team.task, {**team.options, "budget": "40%", "rounds": 1, "audit": 2})
        for _ in range(2):
            run(team, NO_CHORES)
            team.answer()
        assert run(team, NO_CHORES).done
        yield Kept(team)


@pytest.fixture(scope="module")
def of_frames(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Kept]:
    """A round of whole frames without an audit."""
    with StandIn() as cvat:
        team = Team(cvat, tmp_path_factory.mktemp("frames"), checkpoint)
        options = {**team.options, "granularity": "frame", "budget": "20%", "rounds": 1}
        enroll(team.agent(), team.task, options)
        run(team, NO_CHORES)
        team.answer()
        assert run(team, NO_CHORES).done
        yield Kept(team)


@pytest.fixture
def team(audited: Kept) -> Team:
    return audited.again()


@pytest.fixture
def plain(of_frames: Kept) -> Team:
    return of_frames.again()


def run(team: Team, chores: Chores) -> TaskReport:
    report = only(sync(team.agent(), chores=chores))
    assert report.error is None, report.error
    return report


def truth_jobs(team: Team) -> list[Any]:
    every = team.cvat.world.jobs.values()
    return [job for job in every if job.type == "ground_truth" and job.task.id == team.task]


def shown(team: Team, job: Any) -> dict[int, LabelMap]:
    index = {label.id: NAMES.index(label.name) for label in job.task.labels}
    maps: dict[int, LabelMap] = {}
    for shape in team.cvat.shapes(job):
        filled = fill_shape(shape, tiny.SIZE)
        assert filled is not None
        window, inside = filled
        one = maps.setdefault(shape["frame"], np.full(tiny.SIZE, IGNORE, np.uint8))
        one[window][inside] = index[shape["label_id"]]
    return maps


def make_own(team: Team, frames: list[int], wrong: int = 0) -> int:
    """A ground truth job that the team makes, finished; `wrong` columns are of another class."""
    lead = team.cvat.person(team.cvat.admin)
    body = {
        "type": "ground_truth",
        "task_id": team.task,
        "frame_selection_method": "manual",
        "frames": frames,
    }
    job: int = lead.call("POST", "jobs", body)["id"]
    labels = {label.name: label.id for label in team.cvat.task(team.task).labels}
    for frame in frames:
        truth = tiny.truth(frame).copy()
        truth[:, :wrong] = (truth[:, :wrong] + 1) % len(NAMES)
        for index, points in encode_masks(truth).items():
            shape = {"type": "mask", "frame": frame, "points": points}
            lead.draw(job, {**shape, "label_id": labels[NAMES[index]]})
    lead.finish(job)
    return job


def test_a_ground_truth_job_holds_the_answers_of_the_audit(team: Team) -> None:
    run(team, MAKE)
    (job,) = truth_jobs(team)
    assert (job.stage, job.state) == ("acceptance", "completed")
    session = Store.peek(only_folder(team))
    assert session is not None
    frames = sorted({sample.frame for sample in session.rounds[2].queried})
    assert list(job.included) == frames
    maps = shown(team, job)
    assert sorted(maps) == frames
    for frame, one in maps.items():
        assert (one == tiny.truth(frame)).mean() > 0.95
    assert {shape["source"] for shape in team.cvat.shapes(job)} == {"manual"}
    before = team.cvat.shapes(job)
    run(team, MAKE)
    assert truth_jobs(team) == [job]
    assert team.cvat.shapes(job) == before
    assert sum("holds the answers of the audits" in line for line in team.lines) == 1
    # ours is no audit: the masks show what it shows
    assert team.status()[0].ground_truth is None


def test_nothing_is_made_unasked_or_without_an_audit(team: Team, plain: Team) -> None:
    run(team, NO_CHORES)
    assert truth_jobs(team) == []
    team = plain
    run(team, MAKE)
    run(team, MAKE)
    assert truth_jobs(team) == []
    assert sum("no audit was answered" in line for line in team.lines) == 1


def test_what_people_change_in_ours_stays_and_is_told_once(team: Team) -> None:
    run(team, MAKE)
    (job,) = truth_jobs(team)
    lead = team.cvat.person(team.cvat.admin)
    lead.delete(job, team.cvat.shapes(job)[0]["id"])
    before = team.cvat.shapes(job)
    run(team, MAKE)
    run(team, MAKE)
    assert team.cvat.shapes(job) == before
    assert sum("was edited since it was made" in line for line in team.lines) == 1


def test_a_ground_truth_job_of_people_is_an_audit_and_teaches_nothing(plain: Team) -> None:
    team = plain
    folder = only_folder(team)
    session = Store.peek(folder)
    assert session is not None
    asked = {sample.frame for sample in session.queried}
    frames = [frame for frame in range(6) if frame not in asked]
    job = make_own(team, [*asked, *frames])
    before = team.cvat.shapes(job)
    masks = team.shown()
    run(team, MAKE)
    run(team, MAKE)
    assert team.cvat.shapes(job) == before
    np.testing.assert_array_equal(np.stack(masks), np.stack(team.shown()))
    assert sum("which teaches nothing: by" in line for line in team.lines) == 1
    with Store(folder) as store:
        found = store.round(1).truth_audit()
    assert found is not None
    assert found.frames == len(frames)
    words = team.status()[0].ground_truth
    assert words is not None
    assert f"the ground truth job: by {len(frames)} frames of it the masks have a mIoU" in words
    make_other = team.cvat.person(team.cvat.admin)
    make_other.delete(job, before[0]["id"])
    run(team, NO_CHORES)  # it is read again when it changes
    assert team.cvat.shapes(job) == before[1:]


def test_a_ground_truth_job_under_way_or_of_asked_frames_is_one_line(plain: Team) -> None:
    team = plain
    session = Store.peek(only_folder(team))
    assert session is not None
    job = make_own(team, [session.queried[0].frame])
    lead = team.cvat.person(team.cvat.admin)
    lead.reopen(job)
    run(team, NO_CHORES)
    run(team, NO_CHORES)
    assert sum("is not finished; it counts" in line for line in team.lines) == 1
    lead.finish(job)
    run(team, NO_CHORES)
    run(team, NO_CHORES)
    assert sum("says nothing of the masks" in line for line in team.lines) == 1


def test_a_ground_truth_job_that_is_edited_while_it_is_read_is_one_line(plain: Team) -> None:
    team = plain
    job = make_own(team, [0, 1, 2, 3, 4, 5])
    label = team.cvat.shapes(job)[0]["label_id"]

    def act(request: Request) -> None:
        if request.method == "GET" and f"jobs/{job}/annotations" in request.path:
            points = [1, 1, 9, 1, 9, 9]
            lead = team.cvat.person(team.cvat.admin)
            lead.draw(job, {"frame": 0, "label_id": label, "points": points})
            lead.finish(job)

    team.cvat.after_request = act
    run(team, NO_CHORES)
    team.cvat.after_request = None
    assert sum("is edited while it is read" in line for line in team.lines) == 1
    assert team.status()[0].ground_truth is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_dies_while_it_makes_one_makes_no_second(team: Team, when: Any) -> None:
    begin = len(team.cvat.requests)
    saved = team.cvat.snapshot()
    state = only_folder(team) / "cvat" / "cvat.db"
    kept = state.read_bytes()
    run(team, MAKE)
    (whole,) = truth_jobs(team)
    wanted = [(one["frame"], one["points"]) for one in team.cvat.shapes(whole)]
    writes = [
        place
        for place, one in enumerate(team.cvat.requests[begin:])
        if one.method in ("POST", "PATCH")
    ]
    assert len(writes) == 4  # the job, a frame each, the stage
    for place in writes:
        team.cvat.restore(saved)
        state.write_bytes(kept)
        with team.cvat.process_dies(place, when), pytest.raises(ProcessDied):
            run(team, MAKE)
        team.now += 3600
        run(team, MAKE)
        (job,) = truth_jobs(team)
        assert (job.stage, job.state) == ("acceptance", "completed")
        assert [(one["frame"], one["points"]) for one in team.cvat.shapes(job)] == wanted


def test_answers_that_do_not_arrive_make_no_second(team: Team) -> None:
    lost = []

    def fault(request: Request) -> Fault | None:
        if request.method == "POST" and not lost:
            lost.append(True)
            return Fault.LATE
        return None

    team.cvat.faults = fault
    list(sync(team.agent(), chores=MAKE))
    team.cvat.faults = {}
    run(team, MAKE)
    (job,) = truth_jobs(team)
    assert job.state == "completed"
