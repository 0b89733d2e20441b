"""Every request of the whole loop goes wrong once, in every way, and the process dies around it:
what stands on the server in the end is what stands there undisturbed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.masks.options import PublishOptions, WriteLimits
from hvsa_cvat.cvat.request.plan import AskOptions
from hvsa_cvat.cvat.server import CvatServer, ServerOptions
from hvsa_cvat.cvat.state import State
from hvsa_cvat.cvat.task import read_task
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.ports import silent
from hvsa_cvat.types import Image, LabelMap, Sample
from hvsa_cvat.video.segments import Rectangles
from tests.people import answer_job, open_jobs
from tests.standin import Fault, ProcessDied, StandIn

SIZE = (8, 12)
NAMES = ("road", "car", "sky")
LENGTH = 4
TRIES = 6
"""A process that ends is started again; so often it must do."""


class Frames:
    names = tuple(f"frame_{t:06d}" for t in range(LENGTH))
    size = SIZE

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, frame: int) -> Image:
        return np.full((*SIZE, 3), 40 * frame, np.uint8)


def truth(frame: int) -> LabelMap:
    label_map = np.zeros(SIZE, np.uint8)
    label_map[: 2 + frame % 2] = 2
    label_map[4:7, frame : frame + 4] = 1
    return label_map


def guess(frame: int, round_number: int) -> LabelMap:
    """What a network could say: not quite the truth, and better in later rounds."""
    label_map = truth(frame).copy()
    label_map[:, 6 + 2 * round_number :] = round_number % len(NAMES)
    return label_map


@dataclass
class Story:
    """Two rounds on a task of two jobs, step by step; which steps are done is on disk, as the
    phases of a session are."""

    cvat: StandIn
    folder: Path
    task: int

    def go_on(self) -> None:
        """Do the steps that are not done."""
        client = CvatClient(
            Address(self.cvat.url),
            Credentials(token=self.cvat.admin.token),
            sleep=lambda seconds: None,
            rng=random.Random(0),
            timeouts=(2, 0.2),
        )
        with client:
            task = read_task(client, self.task)
            server = CvatServer(
                TaskConnection(
                    client,
                    State(self.folder),
                    task,
                    lambda line: None,
                    silent,
                    lambda: datetime.now(UTC),
                ),
                Frames,
                ServerOptions(
                    ask=AskOptions(annotators=("ann", "bob"), picture_side=64),
                    collect=CollectPolicy(),
                    publish=PublishOptions(
                        quiet_minutes=0, limits=WriteLimits(shapes_per_request=5)
                    ),
                ),
            )
            steps: list[Callable[[], object]] = [
                lambda: self.publish(server, 0),
                self.people_draw_in_the_parent,
                lambda: self.ask(server, 1),
                self.people_answer,
                lambda: self.collect(server, 1),
                lambda: self.publish(server, 1),
                lambda: self.ask(server, 2),
                self.people_answer_with_gaps,
                lambda: self.is_sent_back(server),
                self.people_answer,
                lambda: self.collect(server, 2),
                lambda: self.publish(server, 2),
            ]
            for number in range(len(self.done), len(steps)):
                result = steps[number]()
                self.done_file.write_text(json.dumps([*self.done, result]))

    @property
    def done_file(self) -> Path:
        return self.folder / "done.json"

    @property
    def done(self) -> list[Any]:
        """The results of the steps that are done."""
        return json.loads(self.done_file.read_text()) if self.done_file.exists() else []

    def publish(self, server: CvatServer, number: int) -> None:
        server.publish(number, ((t, guess(t, number)) for t in range(LENGTH)))
        # as the next pass does where a write may or may not have been carried out
        if server.pending(number):
            server.publish(number, ((t, guess(t, number)) for t in range(LENGTH)))
        assert not server.pending(number)

    def ask(self, server: CvatServer, number: int) -> None:
        segments = Rectangles(LENGTH, SIZE, 4, 6)
        samples = [Sample(number, 0), Sample(number, 2), Sample(number + 1, 3)]
        server.request(self.key(number), samples, segments, [3.0, 4.0, 5.0])

    def collect(self, server: CvatServer, number: int) -> list[Any]:
        answers = server.collect(self.key(number))
        assert answers is not None
        corrections = server.corrections()
        return [
            [[a.frame, a.segments, a.label_map.tolist()] for a in answers.annotations],
            [[s.frame, s.segment, c.boundary, c.classes] for s, c in answers.clicks.items()],
            [[c.frame, c.label_map.tolist()] for c in corrections],
        ]

    def is_sent_back(self, server: CvatServer) -> None:
        assert server.collect(self.key(2)) is None

    def key(self, number: int) -> str:
        return f"hvsa://cvat/tasks/{self.task}/c0ffee/rounds/{number}"

    # people's steps come to pass once, whatever becomes of the agent

    def people_draw_in_the_parent(self) -> None:
        """In the first job a new polygon, one of our masks moved, another relabelled; in the second
        one a polygon, and that job is finished."""
        ann, task = self.cvat.person(self.cvat.admin), self.cvat.task(self.task)
        first, second = (job.id for job in task.jobs)
        car = self.cvat.label(task, "car")
        moved, relabelled = self.cvat.shapes(first)[:2]
        ann.move(first, moved["id"], [0, 4, 0, 0, 3, 0])
        ann.relabel(first, relabelled["id"], car)
        ann.draw(first, {"frame": 1, "label_id": car, "points": [2, 2, 6, 2, 6, 6]})
        ann.draw(second, {"frame": 3, "label_id": car, "points": [0, 0, 3, 0, 3, 3]})
        ann.finish(second)

    def people_answer(self) -> None:
        for job in open_jobs(self.cvat):
            assignee = self.cvat.job(job).assignee
            assert assignee is not None
            answer_job(self.cvat, self.cvat.person(assignee.username), job, truth, NAMES)

    def people_answer_with_gaps(self) -> None:
        for job in open_jobs(self.cvat):
            assignee = self.cvat.job(job).assignee
            assert assignee is not None
            self.cvat.person(assignee.username).finish(job)


def world(cvat: StandIn) -> Any:
    """All that people see on the server, without what is numbered or dated anew each time."""

    def seen(shape: Any) -> Any:
        kept = {k: v for k, v in shape.items() if k not in ("id", "attributes")}
        return json.dumps(
            [kept, sorted(a["value"] for a in shape["attributes"])], sort_keys=True, default=str
        )

    tasks = []
    for task in cvat.world.tasks.values():
        jobs = [
            (
                job.start,
                job.stop,
                job.state,
                job.stage,
                job.assignee.username if job.assignee else None,
                sorted(seen(shape) for shape in cvat.shapes(job)),
                sorted((i.frame, *i.position) for i in cvat.world.issues.values() if i.job is job),
            )
            for job in task.jobs
        ]
        tasks.append((task.name, task.bug_tracker, task.project.name if task.project else "", jobs))
    projects = [
        (p.name, [label.name for label in p.own_labels]) for p in cvat.world.projects.values()
    ]
    return sorted(tasks), sorted(projects), len(cvat.world.guides)


def begin(folder: Path) -> tuple[StandIn, Story]:
    cvat = StandIn()
    for name in ("ann", "bob"):
        cvat.add_user(name)
    frames = [Frames()[t] for t in range(LENGTH)]
    task = cvat.add_task("clip", NAMES, frames=frames, job_size=2)
    return cvat, Story(cvat, folder, task.id)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any], list[str]]:
    """The end state, the results of the steps, and the requests that it takes."""
    cvat, story = begin(tmp_path_factory.mktemp("undisturbed"))
    with cvat:
        story.go_on()
        return world(cvat), story.done, [str(request) for request in cvat.requests]


def disturbed(folder: Path, number: int, what: Fault | str) -> tuple[Any, list[Any]]:
    cvat, story = begin(folder)
    with cvat:
        for attempt in range(TRIES):
            if isinstance(what, Fault):
                cvat.faults = {number: what}
                dying: Any = nullcontext()
            else:
                dying = cvat.process_dies(number, what) if attempt == 0 else nullcontext()
            with suppress(ProcessDied, HvsaError), dying:
                story.go_on()
                break
        else:
            raise AssertionError(f"not done after {TRIES} starts")
        return world(cvat), story.done


KINDS: Sequence[Fault | str] = (
    Fault.ERROR,
    Fault.BUSY,
    Fault.LATE,
    Fault.RESET,
    Fault.RESET_AFTER,
    Fault.SILENCE_AFTER,
    "before",
    "after",
)


def differing(
    undisturbed: tuple[Any, list[Any], list[str]],
    folder: Path,
    faults: Iterable[tuple[int, Fault | str]],
) -> list[str]:
    """The faults after which the story ended otherwise than undisturbed."""
    state, results, requests = undisturbed
    others = []
    for number, kind in faults:
        place = folder / f"{number}-{KINDS.index(kind)}"
        place.mkdir()
        found, done = disturbed(place, number, kind)
        if (found, done) != (state, results):
            others.append(f"request {number} ({requests[number]}): {kind}")
    return others


def test_the_story_is_worth_telling(undisturbed: tuple[Any, list[Any], list[str]]) -> None:
    (tasks, projects, guides), results, requests = undisturbed
    assert len(tasks) == 3
    assert len(projects) == guides == 1
    methods = {request.split()[0] for request in requests}
    assert methods >= {"GET", "POST", "PATCH"}
    assert len(results) == 12


def test_some_requests_fail(undisturbed: tuple[Any, list[Any], list[str]], tmp_path: Path) -> None:
    """The first request of each kind, each in one way, and all ways in turn."""
    first: dict[str, int] = {}
    for number, request in enumerate(undisturbed[2]):
        kind = "".join("0" if c.isdigit() else c for c in request)
        first.setdefault(kind, number)
    faults = zip(sorted(first.values()), cycle(KINDS), strict=False)
    assert differing(undisturbed, tmp_path, faults) == []


@pytest.mark.slow
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("kind", KINDS)
def test_every_request_fails(
    undisturbed: tuple[Any, list[Any], list[str]], tmp_path: Path, kind: Fault | str
) -> None:
    faults = ((number, kind) for number in range(len(undisturbed[2])))
    assert differing(undisturbed, tmp_path, faults) == []
