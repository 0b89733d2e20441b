"""A stand-in server with a small task to publish to, and what annotators then see of it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from cvat_sdk.masks import decode_mask

from hvsa_cvat.annotation.polygons import fill
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.masks.options import PublishOptions
from hvsa_cvat.cvat.masks.publish import Outcome, jobs_without_round, publish
from hvsa_cvat.cvat.masks.retract import Retracted, retract
from hvsa_cvat.cvat.state import State
from hvsa_cvat.cvat.task import WatchedTask, read_task
from hvsa_cvat.ports import silent
from hvsa_cvat.types import IGNORE, LabelMap, Mask, Size
from tests.standin import Person, StandIn

SIZE = (6, 8)
CLASSES = ("road", "car", "sky")
ROAD, CAR, SKY = range(3)

Json = dict[str, Any]
Maps = list[LabelMap]


class Clock:
    """Stands still unless it is moved on; starts at noon."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def wait(self, minutes: float) -> None:
        self.time += timedelta(minutes=minutes)


def draw(*rows: str) -> LabelMap:
    """A label map from letters: the first of each class, a dot where nothing is known."""
    letters = {name[0]: index for index, name in enumerate(CLASSES)} | {".": IGNORE}
    return np.array([[letters[letter] for letter in row] for row in rows], np.uint8)


ROAD_AND_SKY = draw("ssssssss", "ssssssss", "ssssssss", "rrrrrrrr", "rrrrrrrr", "rrrrrrrr")
WITH_CAR = draw("ssssssss", "ssssssss", "ssccccss", "rrccccrr", "rrrrrrrr", "rrrrrrrr")


def blocks(seed: int, size: Size = SIZE, holes: bool = True) -> LabelMap:
    """Random blocks of 2x2 pixels; with holes, one in four knows nothing."""
    rng = np.random.default_rng(seed)
    values = np.array([ROAD, CAR, SKY, IGNORE if holes else SKY], np.uint8)
    coarse = values[rng.integers(0, 4, (size[0] // 2, size[1] // 2))]
    return coarse.repeat(2, axis=0).repeat(2, axis=1)


def filled(shape: Json, size: Size = SIZE) -> Mask:
    """The pixels of a mask or a polygon, not by the code under test."""
    covered = np.zeros(size, np.bool_)
    if shape["type"] == "mask":
        points = [int(value) for value in shape["points"]]
        covered |= decode_mask(points, image_width=size[1], image_height=size[0])
    elif shape["type"] in ("polygon", "rectangle"):
        points = shape["points"]
        if shape["type"] == "rectangle":
            left, top, right, bottom = points
            points = [left, top, right, top, right, bottom, left, bottom]
        window, inside = fill(np.array(points).reshape(-1, 2), size)
        covered[window] |= inside
    return covered


@dataclass
class Field:
    """The server, the agent's memory, the task as watched, and what the agent said."""

    cvat: StandIn
    client: CvatClient
    state: State
    task: WatchedTask
    clock: Clock
    timeouts: tuple[float, float]
    options: PublishOptions = field(default_factory=PublishOptions)
    lines: list[str] = field(default_factory=list)

    @property
    def jobs(self) -> list[int]:
        jobs = [job for job in self.cvat.task(self.task.id).jobs if job.type == "annotation"]
        return [job.id for job in jobs]

    @property
    def people(self) -> Person:
        return self.cvat.person(self.cvat.admin)

    def label(self, index: int) -> int:
        return self.task.classes[index].id

    def maps(self, *kinds: LabelMap) -> Maps:
        """One a frame in use; the last of `kinds` for all further ones."""
        rest = len(self.task.media.numbers) - len(kinds)
        return [*kinds, *[kinds[-1]] * rest]

    def publish(self, round_number: int, maps: Sequence[LabelMap] | LabelMap) -> Outcome:
        if isinstance(maps, np.ndarray):
            maps = self.maps(maps)
        return publish(self.connection, round_number, enumerate(maps), self.options)

    def pending(self, round_number: int) -> list[int]:
        return jobs_without_round(self.connection, round_number)

    @property
    def connection(self) -> TaskConnection:
        return TaskConnection(
            self.client, self.state, self.task, self.lines.append, silent, self.clock
        )

    def retract(self) -> Retracted:
        return retract(
            self.client,
            self.state,
            self.task.id,
            self.task.label_ids,
            self.options,
            now=self.clock,
            log=self.lines.append,
        )

    def reread(self, **changes: Any) -> None:
        """Watch the task as it is now."""
        self.task = replace(read_task(self.client, self.task.id), **changes)

    def shapes(self, frame: int | None = None) -> list[Json]:
        """Of all jobs, each with its job."""
        found = [{**row, "job": job} for job in self.jobs for row in self.cvat.shapes(job)]
        return [row for row in found if frame in (None, row["frame"])]

    def writes(self) -> list[str]:
        """Every request so far that was no GET."""
        sent = [one for one in self.cvat.requests if one.method != "GET"]
        return [f"{one.method} {one.path} {one.query.get('action')}" for one in sent]

    def shown(self, frame: int, people: Iterable[int] = ()) -> LabelMap:
        """What our shapes of a frame show, all those but the ids `people`: each pixel once, and the
        same in each job that holds the frame."""
        first, *others = [
            self.shown_in(job.id, frame, people)
            for job in self.cvat.task(self.task.id).jobs
            if job.type == "annotation" and job.start <= frame <= job.stop
        ]
        for other in others:
            assert other.tolist() == first.tolist()
        return first

    def shown_in(self, job: int, frame: int, people: Iterable[int] = ()) -> LabelMap:
        """What one job shows of a frame, but for the ids `people`: each pixel once."""
        return self._once([row for row in self.shapes(frame) if row["job"] == job], people)

    def exported(self, frame: int, people: Iterable[int] = ()) -> LabelMap:
        """What an export of the task shows of a frame, but for the ids `people`."""
        rows = self.people.call("GET", f"tasks/{self.task.id}/annotations")["shapes"]
        return self._once([row for row in rows if row["frame"] == frame], people)

    def _once(self, rows: Iterable[Json], people: Iterable[int]) -> LabelMap:
        covered = np.zeros(self.task.size, np.intp)
        label_map = np.full(self.task.size, IGNORE, np.uint8)
        for row in rows:
            if row["id"] not in people:
                mask = filled(row, self.task.size)
                covered += mask
                index = self.task.index_of(row["label_id"])
                assert index is not None
                label_map[mask] = index
        assert covered.max(initial=0) <= 1
        return label_map

    def draw(self, job: int, frame: int, points: Sequence[float], **row: Any) -> int:
        """A person draws a polygon of the class car, unless `row` says otherwise."""
        shape = {"frame": frame, "label_id": self.label(CAR), "points": list(points), **row}
        return self.people.draw(job, shape)

    def carve(self, job: int, shape: int, points: Sequence[float]) -> None:
        """What "remove underlying pixels" does to a shape: its source stays."""
        row = {**self.cvat.job(job).shapes[shape], "points": list(points)}
        self.people.save(job, "update", "shapes", row)

    def agent_restarts(self, folder: Path | None = None) -> None:
        """A new process, with the same memory or with that of `folder`."""
        self.client.close()
        self.client = new_client(self.cvat, self.timeouts)
        self.state = State(folder or self.state.folder)


def assert_shows(
    field: Field, maps: Sequence[LabelMap], people: Mapping[int, Json], frames: Sequence[int] = ()
) -> None:
    """People's shapes (id -> row) are as they left them, and all else covers exactly what `maps`
    show and they do not."""
    rows = {row["id"]: row for row in field.shapes()}
    for shape, row in people.items():
        assert rows.get(shape) == row
    for position, frame in enumerate(field.task.media.numbers):
        if frames and frame not in frames:
            continue
        expected = maps[position].copy()
        for row in people.values():
            if row["frame"] == frame:
                expected[filled(row, field.task.size)] = IGNORE
        assert field.shown(frame, people).tolist() == expected.tolist()


@contextmanager
def field_of(
    frames: int = 4,
    labels: Sequence[str | Json] = CLASSES,
    size: Size = SIZE,
    timeouts: tuple[float, float] = (10, 10),
    **task: Any,
) -> Iterator[Field]:
    """`task` as in `StandIn.add_task`."""
    clock = Clock()
    # the two threads of one process hand over at once when they wait for each other
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    with StandIn(clock=clock) as cvat, _quick_folder() as folder:
        pictures = [np.zeros((*size, 3), np.uint8)] * frames
        made = cvat.add_task("clip", labels, frames=pictures, **task)
        client = new_client(cvat, timeouts)
        watched = read_task(client, made.id)
        cvat.requests.clear()
        field = Field(cvat, client, State(folder / "cvat"), watched, clock, timeouts)
        yield field
        field.client.close()
    sys.setswitchinterval(interval)


def new_client(cvat: StandIn, timeouts: tuple[float, float]) -> CvatClient:
    """One that does not wait before it asks again."""
    credentials = Credentials(cvat.admin.token)
    return CvatClient(Address(cvat.url), credentials, sleep=lambda seconds: None, timeouts=timeouts)


@contextmanager
def _quick_folder() -> Iterator[Path]:
    """Where writing waits for no disk, if there is such a place."""
    place = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=place if place.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
