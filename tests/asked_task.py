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

from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.cvat.answers import collect
from hvsa_cvat.cvat.answers.corrections import corrections
from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.cards import enlarge
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.request.ask import ask
from hvsa_cvat.cvat.request.plan import AskOptions, Question
from hvsa_cvat.cvat.state import Request, State
from hvsa_cvat.cvat.task import WatchedTask, read_task
from hvsa_cvat.ports import SegmentMaps, Shown, silent
from hvsa_cvat.types import IGNORE, Answers, FrameAnnotation, Image, LabelMap, Sample
from hvsa_cvat.video.segments import Rectangles
from tests.standin import Person, StandIn

SIZE = (8, 8)
CLASSES = ("road", "car", "sky")
LEFT, RIGHT, LATER = Sample(1, 0), Sample(1, 1), Sample(3, 1)
"""Pictures 0 and 1, the halves of frame 1 of the video, which are Ann's; and picture 2, the right
half of frame 3, which is Bob's. Each shows the whole frame, enlarged."""

ROAD, CAR, SKY = 0, 1, 2

BLACK: Image = np.zeros((*SIZE, 3), np.uint8)

NOTHING = Request("", 0, 0, (), (), ())

MASKS: LabelMap = np.array([[0] * 3 + [1] * 5] * 4 + [[0] * 8] * 4, np.uint8)
"""What the masks show: road on the left, in the upper half car on the right. In the left half of a
frame that is one part road and one car; in the right half car above and road below."""


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

    def ask_again(
        self,
        samples: Sequence[Sample],
        segments: SegmentMaps,
        *annotators: str,
        masks: LabelMap | None = MASKS,
    ) -> None:
        """Without `masks` people draw."""
        key = f"hvsa://cvat/tasks/{self.task.id}/rounds/{len(self.state.requests.all()) + 1}"
        shown = None if masks is None else Shown(0, lambda frame: masks, [1.0] * len(samples))
        question = Question(key, samples, segments, [1.0] * len(samples), (0, 1, 2), shown)
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

    def job_of(self, picture: int) -> int:
        return next(j.id for j in self.request.jobs if j.start <= picture <= j.stop)

    def mask(self, picture: int, label: int) -> int:
        """The id that the mask of a class on a picture had at first."""
        (part,) = (p for p in self.request.parts if (p.card, p.label) == (picture, label))
        assert part.shape is not None
        return part.shape

    def check(self, *pictures: int) -> None:
        """Click the tags of pictures away."""
        for picture in pictures:
            job = self.job_of(picture)
            self.worker(job).remove_tag(job, picture)

    def relabel(self, picture: int, before: int, after: str) -> None:
        job = self.job_of(picture)
        self.worker(job).relabel(job, self.mask(picture, before), self.label(after))

    def draw(self, picture: int, label: str, points: Sequence[float], **shape: Any) -> int:
        """`points` are those of the frame."""
        job, factor = self.job_of(picture), self.request.cards[picture].factor
        row = {
            "frame": picture,
            "label_id": self.label(label),
            "points": [factor * one for one in points],
            **shape,
        }
        return self.worker(job).draw(job, row)

    def points_of(self, picture: int, rows: str) -> list[int]:
        """The numbers of a mask that covers the pixels of the frame that are no dots in `rows`."""
        factor = self.request.cards[picture].factor
        inside = np.array([[one != "." for one in row] for row in rows.split()])
        big = np.where(enlarge(inside, factor), np.uint8(0), np.uint8(IGNORE))
        (points,) = encode_masks(big).values()
        return points

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
