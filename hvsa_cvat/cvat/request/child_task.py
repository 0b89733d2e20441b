"""The child task of one request: its frames, its jobs and the outlines on them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from PIL import Image as PillowImage

from hvsa_cvat.cvat.http.client import CvatClient, Forbidden, Json, NotFound, Refused, Uncertain
from hvsa_cvat.cvat.request.companion_project import Home, fit_name, where
from hvsa_cvat.cvat.request.guide import UNSET
from hvsa_cvat.cvat.request.outline_shape import outline_shape
from hvsa_cvat.cvat.request.plan import Plan, darken
from hvsa_cvat.cvat.state import ChildJob, Region
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import ServerError
from hvsa_cvat.files import atomic_directory
from hvsa_cvat.ports import FrameSource, Progress

_ATTEMPTS = 3
"""How often what may or may not have been carried out is looked up and done again."""
_BATCH = 200
"""Outlines in one request."""


@dataclass(frozen=True)
class Person:
    id: int
    name: str


@dataclass(frozen=True)
class Child:
    """The child task of one request, there or still to be made."""

    client: CvatClient
    task: WatchedTask
    key: str
    plan: Plan
    home: Home
    log: Callable[[str], None]

    def stand(
        self, frames: FrameSource, darkness: float, folder: Path, progress: Progress
    ) -> tuple[int, list[Json]]:
        """The number of the task and its jobs, in order; made, if it is not there as planned.

        The files to upload lie in `folder` meanwhile.
        """
        doubt: Uncertain | None = None
        try:
            for _ in range(_ATTEMPTS):
                found = self._find_whole()
                if found is not None:
                    return found
                self._write_files(frames, darkness, folder, progress)
                try:
                    self._make(folder, progress)
                except Uncertain as error:
                    self.log(f"{error}; making it anew")
                    doubt = error
            found = self._find_whole()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if found is None:
            raise doubt or ServerError(
                f"{self.client.address.url} makes other jobs or frames of the child task "
                f"{self.name!r} than it was told; check the server's version with "
                "`hvsa-agent doctor`"
            )
        return found

    def outline(self, job: Json) -> dict[int, int]:
        """Make the outlines of a job that are not there; region number -> id of the outline."""
        frames = range(job["start_frame"], job["stop_frame"] + 1)
        mine = [r for r in self.plan.regions if r.points and r.child_frame in frames]
        if not mine:
            return {}
        path = f"jobs/{job['id']}/annotations"
        doubt: Uncertain | None = None
        for _ in range(_ATTEMPTS + 1):
            present = _match(mine, self.client.get(path)["shapes"])
            missing = [self._shape(region) for region in mine if region.number not in present]
            if not missing:
                return present
            try:
                for first in range(0, len(missing), _BATCH):
                    content = {"shapes": missing[first : first + _BATCH], "tags": [], "tracks": []}
                    self.client.send("PATCH", path, content, action="create")
            except Uncertain as error:
                self.log(f"{error}; looking")
                doubt = error
        raise doubt or ServerError(
            f"{self.client.address.url} does not keep the outlines of job {job['id']}; check the "
            "server's version with `hvsa-agent doctor`"
        )

    def hand_out(self, jobs: Sequence[Json], people: Sequence[Person]) -> tuple[ChildJob, ...]:
        """Give the jobs to `people`, one each; what somebody has already stays with them."""
        idle = [person.name for person in people[len(jobs) :]]
        if idle:
            self.log(f"too few frames for everybody: nothing for {', '.join(idle)} in {self.name}")
        made = []
        for i, (job, share) in enumerate(zip(jobs, self.plan.shares, strict=True)):
            person = people[i].name if people else None
            holder = (job["assignee"] or {}).get("username")
            if holder is None and person is not None:
                self._assign(job, people[i])
            elif holder is not None and holder != person:
                self.log(f"job {job['id']} stays with {holder}, who has it already")
                person = holder
            clicks = share.expected_clicks
            made.append(ChildJob(job["id"], share.start, share.stop, person, clicks))
        return tuple(made)

    @property
    def name(self) -> str:
        """Of the task; the job list is searched by it."""
        found = re.search(r"/rounds/(\d+)$", self.key)
        head = f"HVSA round {found[1]}: " if found else "HVSA: "
        return fit_name(head, self.task.name, f"(task {self.task.id})")

    @cached_property
    def _files(self) -> list[str]:
        """Of the frames of the child task, in order."""
        numbers = [self.task.media.numbers[position] for position in self.plan.frames]
        return [f"p{self.task.id}_f{number:06d}.png" for number in numbers]

    def _find(self) -> list[Json]:
        """All tasks with our key, oldest first."""
        return self.client.rows("tasks", filter={"==": [{"var": "tracker_link"}, self.key]})

    def _find_whole(self) -> tuple[int, list[Json]] | None:
        """Our task and its jobs, if it is as planned. Remains of earlier attempts are deleted."""
        whole, remains = [], []
        for row in self._find():
            rows = self.client.rows("jobs", task_id=row["id"])
            jobs = [job for job in rows if job["type"] == "annotation"]
            jobs.sort(key=lambda job: job["start_frame"])
            if self._is_whole(row, jobs):
                whole.append((int(row["id"]), jobs))
            else:
                remains.append((int(row["id"]), rows))
        for number, jobs in remains:
            if not jobs:
                self._check_idle(number)
            if self._is_untouched(jobs):
                self.client.change("DELETE", f"tasks/{number}")
            elif not whole:
                raise ServerError(
                    f"task {number} is the child task of {self.key}, but has other frames, jobs "
                    "or regions than are asked for now, and people have worked in it; set the "
                    "annotators as they were, or delete it in CVAT"
                )
        if len(whole) > 1:
            others = ", ".join(str(number) for number, _ in whole[1:])
            self.log(f"task {whole[0][0]} counts; {others} has the same key and is left alone")
        return whole[0] if whole else None

    def _is_whole(self, row: Json, jobs: Sequence[Json]) -> bool:
        if row["project_id"] != self.home.project or row.get("size") != len(self.plan.frames):
            return False
        ranges = [(job["start_frame"], job["stop_frame"]) for job in jobs]
        if ranges != [(share.start, share.stop) for share in self.plan.shares]:
            return False
        meta = self.client.get(f"tasks/{row['id']}/data/meta")
        frames = [(frame["name"], frame["height"], frame["width"]) for frame in meta["frames"]]
        if frames != [(name, *self.task.size) for name in self._files]:
            return False
        # a session that began anew has the keys of the one before, and may ask for other regions
        planned = {(region.child_frame, region.points) for region in self.plan.regions}
        return all(
            (shape["frame"], _points(shape)) in planned
            for job in jobs
            for shape in self.client.get(f"jobs/{job['id']}/annotations")["shapes"]
            if self._is_outline(shape)
        )

    def _check_idle(self, number: int) -> None:
        """Refuse a task of which the server is still making frames: deleting it then fails."""
        try:
            request = f"action=create&target=task&target_id={number}"
            status = self.client.get(f"requests/{quote(request)}")["status"]
        except NotFound:
            return
        if status in ("queued", "started"):
            raise ServerError(
                f"{self.client.address.url} is still making the frames of child task {number}; "
                "the next pass goes on from there"
            )

    def _is_untouched(self, jobs: Sequence[Json]) -> bool:
        """Whether jobs hold nothing but outlines as we make them, and nobody has begun."""
        for job in jobs:
            if job["type"] != "annotation" or job["state"] != "new":
                return False
            content = self.client.get(f"jobs/{job['id']}/annotations")
            if content["tags"] or content["tracks"]:
                return False
            if not all(self._is_outline(s) and _is_unset(s) for s in content["shapes"]):
                return False
        return True

    def _is_outline(self, shape: Json) -> bool:
        """Whether a shape is an outline of ours, its points as we made them."""
        kind = (shape["type"], shape["label_id"], shape["source"])
        return kind == ("polyline", self.home.label, "auto")

    def _write_files(
        self, frames: FrameSource, darkness: float, folder: Path, progress: Progress
    ) -> None:
        """The frames of the child task as lossless files, read in order of time."""
        child_frames = {position: i for i, position in enumerate(self.plan.frames)}
        with atomic_directory(folder) as fresh:
            for done, position in enumerate(sorted(child_frames), start=1):
                i = child_frames[position]
                image = darken(frames[position], self.plan.numbers[i].array > 0, darkness)
                PillowImage.fromarray(image).save(fresh / self._files[i], compress_level=1)
                progress("writing frames", done, len(child_frames))

    def _make(self, folder: Path, progress: Progress) -> None:
        content = {"name": self.name, "project_id": self.home.project, "bug_tracker": self.key}
        made = self.client.create("tasks", content, lambda: next(iter(self._find()), None))
        jobs = [self._files[share.start : share.stop + 1] for share in self.plan.shares]
        # at a lower quality people would see the frames smeared by JPEG
        data = {"image_quality": 100, "job_file_mapping": jobs}
        paths = [folder / name for name in self._files]
        self.client.upload(made["id"], paths, data, progress, "uploading frames")

    def _shape(self, region: Region) -> Json:
        return outline_shape(region, self.home.label, self.home.attribute)

    def _assign(self, job: Json, person: Person) -> None:
        content = {"assignee": person.id}
        try:
            self.client.change("PATCH", f"jobs/{job['id']}", content)
        except (Forbidden, Refused) as error:
            raise ServerError(
                f"job {job['id']} cannot be given to {person.name!r} ({error}); make them a member "
                f"and this account a maintainer of {where(self.client)}, or change the annotators"
            ) from error


def _match(regions: Sequence[Region], shapes: Sequence[Json]) -> dict[int, int]:
    """Region number -> id of its outline, by the group, or else by the points.

    People may have begun already: a label, a class or points that they changed are no reason to
    make an outline again.
    """
    numbers = {region.number for region in regions}
    by_points = {(region.child_frame, region.points): region.number for region in regions}
    found: dict[int, int] = {}
    for shape in sorted(shapes, key=lambda shape: shape["id"]):
        if shape["type"] != "polyline":
            continue
        number = shape["group"]
        if number not in numbers:
            number = by_points.get((shape["frame"], _points(shape)))
        if number is not None:
            found.setdefault(number, shape["id"])
    return found


def _points(shape: Json) -> tuple[float, ...]:
    return tuple(map(float, shape["points"]))


def _is_unset(shape: Json) -> bool:
    return all(attribute["value"] == UNSET for attribute in shape["attributes"])
