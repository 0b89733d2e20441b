"""People who do anything at any moment, while jobs are marked, given on and made."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvsa_cvat.agent.chores import Chores
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.withdraw import withdraw
from tests import tiny
from tests.people import answer_job
from tests.standin import Request, StandIn
from tests.team import NAMES, Kept, Team

EVERYTHING = Chores(accept=0.5, rebalance_hours=24, ground_truth_job=True)
TURNS = 6


class Story:
    """What people do, and what must still be there."""

    def __init__(self, team: Team, seed: int) -> None:
        self.team = team
        self.rng = random.Random(seed)
        self.drawn: dict[int, dict[str, Any]] = {}
        """Shapes of people, by id, as they saved them."""
        self.holder: dict[int, str] = {}
        """Who has begun a job."""
        self.stages: dict[int, str] = {}
        """What a person said a job of the watched task is at."""

    def act(self) -> None:
        self.rng.choice([self.draw, self.draw, self.finish, self.stage, self.age, self.begin])()

    def draw(self) -> None:
        job = self._any_job()
        if job is None:
            return
        label = next(one.id for one in job.task.labels if one.name in NAMES)
        x, y = self.rng.randrange(20), self.rng.randrange(20)
        points = [x, y, x + 9, y, x + 9, y + 9]
        number = self._person(job).draw(
            job, {"frame": self._frame(job), "label_id": label, "points": points}
        )
        self.drawn[number] = self._shape(job, number)
        if job.task.id != self.team.task and job.assignee is not None:
            self.holder[job.id] = job.assignee.username
        if self.rng.random() < 0.5:
            job.state = "in progress"

    def finish(self) -> None:
        jobs = [job for job in self._children() if job.state != "completed"]
        if not jobs:
            return
        self.answer(self.rng.choice(jobs))

    def answer(self, job: Any) -> None:
        person, tagged = self._person(job), {tag["frame"] for tag in job.tags.values()}
        if tagged == set(range(job.start, job.stop + 1)):
            answer_job(self.team.cvat, person, job.id, tiny.truth, NAMES)
            for shape in self.team.cvat.shapes(job):  # people change what others drew
                if shape["id"] in self.drawn:
                    self.drawn[shape["id"]] = dict(shape)
        else:  # it came back
            person.finish(job)

    def answer_all(self) -> None:
        for job in self._children():
            if job.state != "completed":
                self.answer(job)

    def begin(self) -> None:
        job = self._any_job()
        if job is not None and job.task.id != self.team.task and job.assignee is not None:
            self._person(job).call("PATCH", f"jobs/{job.id}", {"state": "in progress"})
            self.holder[job.id] = job.assignee.username

    def stage(self) -> None:
        job = self.rng.choice(self._parents())
        body = {
            "stage": self.rng.choice(["validation", "acceptance"]),
            "state": self.rng.choice(["new", "in progress", "completed"]),
        }
        self.team.cvat.person(self.team.cvat.admin).call("PATCH", f"jobs/{job.id}", body)
        self.stages[job.id] = body["stage"]

    def age(self) -> None:
        """Two days pass."""
        for job in self._children():
            job.updated = min(job.updated, job.updated.replace(year=job.updated.year - 1))

    def check(self) -> None:
        cvat = self.team.cvat
        present = {one["id"]: one for job in cvat.world.jobs.values() for one in cvat.shapes(job)}
        for number, shape in self.drawn.items():
            assert present.get(number) == shape
        for job, name in self.holder.items():
            holder = cvat.job(job).assignee
            assert holder is not None
            assert holder.username == name
        for job, stage in self.stages.items():
            assert cvat.job(job).stage == stage

    def _children(self) -> list[Any]:
        jobs = self.team.cvat.world.jobs.values()
        return [job for job in jobs if job.task.name.startswith("HVSA")]

    def _parents(self) -> list[Any]:
        jobs = self.team.cvat.world.jobs.values()
        return [j for j in jobs if j.task.id == self.team.task and j.type == "annotation"]

    def _any_job(self) -> Any:
        jobs = [job for job in self._children() if job.state != "completed"] + self._parents()
        return self.rng.choice(jobs)

    def _person(self, job: Any) -> Any:
        return self.team.cvat.person(job.assignee.username if job.assignee else "admin")

    def _frame(self, job: Any) -> int:
        return self.rng.randint(job.start, job.stop)

    def _shape(self, job: Any, number: int) -> dict[str, Any]:
        (shape,) = (one for one in self.team.cvat.shapes(job) if one["id"] == number)
        return dict(shape)


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Kept]:
    with StandIn() as cvat:
        team = Team(cvat, tmp_path_factory.mktemp("stories"), checkpoint)
        team.task = team.add_task("film", job_size=3)
        options = {**team.options, "budget": "30%", "rounds": 1, "audit": 1, "job_minutes": 0.1}
        enroll(team.agent(), team.task, {**options, "quiet_minutes": 0.0})
        list(sync(team.agent()))
        yield Kept(team)


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 40))]
)
def test_people_lose_nothing(asking: Kept, seed: int) -> None:
    team = asking.again()
    story = Story(team, seed)
    for turn in range(TURNS):
        for _ in range(story.rng.randint(0, 4)):
            story.act()
        moments = set(story.rng.sample(range(60), 2))
        seen = 0

        def between(_: Request, moments: set[int] = moments) -> None:
            nonlocal seen
            seen += 1
            if seen in moments:  # who only sets a state in such a moment cannot be noticed
                story.draw()

        if turn % 2:
            team.cvat.before_request = between
        list(sync(team.agent(), chores=EVERYTHING))
        team.cvat.before_request = None
        story.check()
        if story.rng.random() < 0.4:
            story.answer_all()
    withdraw(team.agent(), team.task, children=False)
    story.check()
