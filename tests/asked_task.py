"""A stand-in server on which two people are asked about three parts of two tiny frames."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hvsa_cvat.cvat.answers import collect
from hvsa_cvat.cvat.answers.corrections import corrections
from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.request.ask import AskOptions, Question, ask
from hvsa_cvat.cvat.state import Request, State
from hvsa_cvat.cvat.task import WatchedTask, read_task
from hvsa_cvat.ports import SegmentMaps, silent
from hvsa_cvat.types import IGNORE, Answers, FrameAnnotation, Image, LabelMap, Sample
from hvsa_cvat.video.segments import Rectangles
from tests.standin import Person, StandIn

SIZE = (8, 8)
CLASSES = ("road", "car", "sky")
LEFT, RIGHT, LATER = Sample(1, 0), Sample(1, 1), Sample(3, 1)
"""Regions 1 and 2, the halves of frame 1 of the video, which is frame 0 of the child task and
Ann's; and region 3, the right half of frame 3, which is frame 1 of the child task and Bob's."""

BLACK: Image = np.zeros((*SIZE, 3), np.uint8)

NOTHING = Request("", 0, 0, (), (), ())


class Frames:
    """A `FrameSource` of four black frames."""

    names = ("a", "b", "c", "d")
    size = SIZE

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, frame: int) -> Image:
        return BLACK


@dataclass
class Asking:
    """The server, what the agent remembers, and the people."""

    cvat: StandIn
    client: CvatClient
    state: State
    task: WatchedTask
    request: Request = NOTHING
    log: list[str] = field(default_factory=list)

    def ask_again(self, samples: Sequence[Sample], segments: SegmentMaps, *annotators: str) -> None:
        key = f"hvsa://cvat/tasks/{self.task.id}/rounds/{len(self.state.requests.all()) + 1}"
        question = Question(key, samples, segments, [1.0] * len(samples), (0, 1, 2))
        connection = TaskConnection(
            self.client, self.state, self.task, lambda line: None, silent, lambda: datetime.now(UTC)
        )
        self.request = ask(connection, Frames(), question, AskOptions(annotators=annotators))

    @property
    def jobs(self) -> tuple[int, int]:
        """Ann's and Bob's."""
        first, second = self.request.jobs
        return first.id, second.id

    def person(self, name: str) -> Person:
        return self.cvat.person(name)

    def worker(self, job: int) -> Person:
        """Whoever has the job; the administrator, if nobody has."""
        holder = self.cvat.job(job).assignee
        return self.cvat.person(holder.username if holder else "admin")

    def label(self, name: str) -> int:
        """Of the companion project."""
        return self.cvat.label(self.cvat.project(self.request.project), name)

    @property
    def attribute(self) -> int:
        """The one that holds the class of an outline."""
        labels = self.cvat.project(self.request.project).labels
        found: int = next(label for label in labels if label.attributes).attributes[0]["id"]
        return found

    def outline(self, region: int) -> int:
        """The id that the outline of a region had at first."""
        shape = self.request.regions[region - 1].shape
        assert shape is not None
        return shape

    def job_of(self, region: int) -> int:
        return self.jobs[region == 3]

    def set_class(self, region: int, value: str) -> None:
        job = self.job_of(region)
        self.worker(job).set_class(job, self.outline(region), self.attribute, value)

    def draw(self, job: int, label: str, points: Sequence[float], **shape: Any) -> int:
        row = {
            "frame": self.cvat.job(job).start,
            "label_id": self.label(label),
            "points": list(points),
            **shape,
        }
        return self.worker(job).draw(job, row)

    def finish(self, *jobs: int) -> None:
        for job in jobs or self.jobs:
            self.worker(job).finish(job)

    @property
    def connection(self) -> TaskConnection:
        return TaskConnection(
            self.client,
            self.state,
            self.task,
            self.log.append,
            silent,
            lambda: datetime(2030, 1, 1, tzinfo=UTC),
        )

    def collect(self, **policy: Any) -> Answers | None:
        return collect.collect(self.connection, self.request, CollectPolicy(**policy))

    def revised(self, **policy: Any) -> Answers | None:
        return collect.revised(self.connection, self.request, CollectPolicy(**policy))

    def corrections(self, **policy: Any) -> tuple[FrameAnnotation, ...]:
        return corrections(self.connection, CollectPolicy(**policy))

    def issues(self) -> list[tuple[int, int, list[float], str]]:
        """Job, frame, position and message of each."""
        found = self.cvat.world.issues.values()
        return [(i.job.id, i.frame, i.position, i.comments[0]["message"]) for i in found]


class Places:
    """Gives out fresh copies of one `Asking`."""

    def __init__(self, cvat: StandIn, folder: Path) -> None:
        self.cvat, self._folder = cvat, folder
        for name in ("ann", "bob"):
            cvat.add_user(name)
        task = cvat.add_task("clip", CLASSES, frames=[BLACK] * 4, job_size=2)
        with self.client() as client:
            self._task = read_task(client, task.id)
            self._asking = Asking(cvat, client, State(folder), self._task)
            self._asking.ask_again([LEFT, RIGHT, LATER], Rectangles(4, SIZE, 8, 4), "ann", "bob")
        self._snapshot = cvat.snapshot()

    def client(self) -> CvatClient:
        credentials = Credentials(token=self.cvat.admin.token)
        return CvatClient(Address(self.cvat.url), credentials, sleep=lambda seconds: None)

    @contextmanager
    def fresh(self, folder: Path) -> Iterator[Asking]:
        """As just asked; `folder` takes what the agent remembers."""
        self.cvat.restore(copy.deepcopy(self._snapshot))
        self.cvat.before_request = self.cvat.after_request = None
        shutil.copytree(self._folder, folder)
        with self.client() as client:
            yield Asking(self.cvat, client, State(folder), self._task, self._asking.request)


def picture(label_map: LabelMap) -> str:
    """A label map as rows of digits, a dot where nothing is known."""
    rows = ("".join("." if v == IGNORE else str(v) for v in row) for row in label_map)
    return "\n".join(rows)


def drawn(text: str) -> str:
    """A picture without the blanks around its rows."""
    return "\n".join(text.split())
