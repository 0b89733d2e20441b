"""What people answered: in the jobs of a request, and unasked in the parent task.

A job counts once it is finished. People can go on drawing after that, so a job is read at one date
of it, and that date is compared later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import numpy as np

from hvsa_cvat.cvat.answers.outlines import ChildLabels
from hvsa_cvat.cvat.answers.read_job import Assignment, JobAnswers, read_answers, read_shape
from hvsa_cvat.cvat.answers.send_back import finish_sending_back, percent, send_back, was_sent_back
from hvsa_cvat.cvat.http.client import CvatClient, Json, NotFound
from hvsa_cvat.cvat.masks.ownership import JobShapes, read_labels, read_shapes
from hvsa_cvat.cvat.request.links import job_link
from hvsa_cvat.cvat.shapes import compose
from hvsa_cvat.cvat.state import ChildJob, CollectedAnswers, Reading, Request, State
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.cvat.tracks import expand_tracks
from hvsa_cvat.errors import ServerError
from hvsa_cvat.types import IGNORE, Answers, Clicks, FrameAnnotation, Sample

Log = Callable[[str], None]

Content = TypeVar("Content")

_IGNORED = " is ignored: "
"""Between a shape and the reason in the notes of `answers.py`."""

_READINGS = 3
"""A job that changes during each of so many readings is left for the next pass."""

_NAMED = 5
"""So many samples with uncovered pixels are named in the log, the worst first."""


@dataclass(frozen=True)
class CollectPolicy:
    """When an answer is an answer."""

    accepted_only: bool = False
    """Whether a job must have reached the stage acceptance, beside being completed."""
    gap_threshold: float = 0.05
    """Share of a sample's pixels that may lack a class before the job goes back, once."""


@dataclass(frozen=True)
class OwedJob:
    """A job of a request that somebody has still to finish."""

    job: int
    assignee: str | None
    """User name of whoever has it now."""
    state: str
    """As the server calls it, or `deleted`."""
    stage: str
    frames: int
    expected_clicks: float
    link: str


def collect(
    client: CvatClient,
    state: State,
    task: WatchedTask,
    request: Request,
    policy: CollectPolicy,
    *,
    log: Log,
) -> Answers | None:
    """The answers once all jobs of the request are finished, else None.

    A finished job with gaps goes back to its annotator, once: with an issue on each frame that has
    some, and in the state `rejected`. `ServerError` where somebody has deleted the jobs.
    """
    return _Collector(client, state, task, request, policy, log).collect()


def revised(
    client: CvatClient,
    state: State,
    task: WatchedTask,
    request: Request,
    policy: CollectPolicy,
    *,
    log: Log,
) -> Answers | None:
    """The answers as they are now, if people have changed them after they were collected.

    Once changed they are given at every call, for only the caller knows which ones it has kept.
    None while a job is at work again, and where jobs are deleted: what was collected still holds.
    """
    return _Collector(client, state, task, request, policy, log).revised()


def corrections(
    client: CvatClient, state: State, task: WatchedTask, policy: CollectPolicy, *, log: Log
) -> tuple[FrameAnnotation, ...]:
    """What people drew or corrected in the finished jobs of the parent task.

    That is every shape that is not as we pushed it. Ground truth jobs are not read: they measure
    quality. Where jobs overlap, the shapes of both count.
    """
    drawn: dict[int, list[tuple[int, Json]]] = {}
    labels = read_labels(client, state, task.id, task.label_ids)
    for row in client.rows("jobs", task_id=task.id):
        if row.get("type", "annotation") != "annotation" or not _is_finished(row, policy):
            continue
        found = _at_rest(client, row, policy, partial(read_shapes, client, state, labels))
        if found is None:
            log(f"job {row['id']} changes while it is read; its corrections are left for later")
            continue
        for label, shape in _of_people(task, *found, partial(_note, log, row["id"])):
            drawn.setdefault(shape["frame"], []).append((label, shape))
    corrected = []
    for number, shapes in sorted(drawn.items()):
        position = task.media.position(number)
        if position is None:
            continue
        label_map = compose(shapes, task.size)
        if (label_map != IGNORE).any():
            corrected.append(FrameAnnotation(position, (), label_map))
    return tuple(corrected)


def owed(client: CvatClient, request: Request, policy: CollectPolicy) -> list[OwedJob]:
    """The jobs of a request that are not finished, and who has them."""
    rows = _rows(client, request)
    outlined = {region.child_frame for region in request.regions if region.points}
    jobs = []
    for job in request.jobs:
        row = rows.get(job.id, {"state": "deleted", "stage": ""})
        if _is_finished(row, policy):
            continue
        frames = range(job.start, job.stop + 1)
        link = job_link(client, request, job.id, not outlined.isdisjoint(frames))
        jobs.append(
            OwedJob(
                job.id,
                _assignee(row),
                row["state"],
                row["stage"],
                len(frames),
                job.expected_clicks,
                link,
            )
        )
    return jobs


@dataclass(frozen=True)
class _Read:
    """A finished job at one moment."""

    row: Json
    answers: JobAnswers


class _Collector:
    """One look at one request."""

    def __init__(
        self,
        client: CvatClient,
        state: State,
        task: WatchedTask,
        request: Request,
        policy: CollectPolicy,
        log: Log,
    ) -> None:
        self._client = client
        self._state = state
        self._task = task
        self._request = request
        self._policy = policy
        self._log = log

    def collect(self) -> Answers | None:
        rows = _rows(self._client, self._request)
        gone = [job.id for job in self._request.jobs if job.id not in rows]
        if gone:
            raise self._deleted(gone)
        is_complete = all(_is_finished(row, self._policy) for row in rows.values())
        answered = []
        for job in self._request.jobs:
            row = rows[job.id]
            # One that waits for others and has been looked at is read again with them.
            if _is_finished(row, self._policy) and (is_complete or not self._has_read(row)):
                read = self._settled(job, row)
                if read is not None:
                    answered.append(read)
        if len(answered) < len(self._request.jobs):
            return None
        answers = _together(answered)
        self._set_taken(CollectedAnswers(_digest(answers), revised=False))
        return answers

    def revised(self) -> Answers | None:
        taken = self._taken()
        if taken is None:
            return None
        rows = _rows(self._client, self._request)
        if not self._stands(rows):
            return None
        if not taken.revised and all(self._has_read(row) for row in rows.values()):
            return None
        found = [self._read(job, rows[job.id]) for job in self._request.jobs]
        complete = [read for read in found if read is not None]
        if len(complete) < len(found):
            return None
        answers = _together(complete)
        digest = _digest(answers)
        if digest != taken.digest:
            # Before the dates: a process that ends in between finds the revision again.
            taken = CollectedAnswers(digest, revised=True)
            self._set_taken(taken)
        for read in complete:
            if not self._has_read(read.row):
                self._tell(read)
                self._save_reading(read.row)
        return answers if taken.revised else None

    # -- jobs

    def _settled(self, job: ChildJob, row: Json) -> _Read | None:
        """A finished job to be taken as it is; None where it goes back or does not hold still."""
        if finish_sending_back(self._client, self._state, row):
            return None
        read = self._read(job, row)
        if read is None:
            return None
        if not self._has_read(read.row):
            self._tell(read)
        if read.answers.gaps and not was_sent_back(self._state, row):
            if send_back(self._client, self._state, read.row, read.answers):
                who = _assignee(row) or "its annotator"
                _note(self._log, job.id, f"goes back to {who} for the gaps, this once")
            return None
        self._save_reading(read.row)
        return read

    def _read(self, job: ChildJob, row: Json) -> _Read | None:
        try:
            found = _at_rest(self._client, row, self._policy, self._annotations)
        except NotFound as error:
            raise self._deleted([job.id]) from error
        if found is None:
            return None
        row, annotations = found
        frames = range(job.start, job.stop + 1)
        asked = Assignment(
            frames,
            tuple(region for region in self._request.regions if region.child_frame in frames),
            {frame: self._request.frames[frame] for frame in frames},
            partial(self._state.requests.numbers, self._request.key),
            self._task.size,
        )
        threshold = self._policy.gap_threshold
        return _Read(row, read_answers(asked, annotations, self._labels, threshold))

    def _annotations(self, row: Json) -> Json:
        annotations: Json = self._client.get(f"jobs/{row['id']}/annotations")
        return annotations

    @cached_property
    def _labels(self) -> ChildLabels:
        labels = self._client.rows("labels", task_id=self._request.task)
        return ChildLabels.of(labels, self._task.labels.names)

    def _has_read(self, row: Json) -> bool:
        reading = self._state.readings.get(row["id"])
        return reading is not None and reading.updated_date == row["updated_date"]

    def _save_reading(self, row: Json) -> None:
        sent_back = was_sent_back(self._state, row)
        self._state.readings.save(row["id"], Reading(row["updated_date"], sent_back))

    def _deleted(self, jobs: Sequence[int]) -> ServerError:
        return ServerError(
            f"{_name(jobs)} of task {self._request.task}, asking people about task "
            f"{self._task.id}: gone from the server; ask again: "
            f"hvsa-agent sync --task {self._task.id} --ask-again"
        )

    # -- what was given before

    def _taken(self) -> CollectedAnswers | None:
        return self._state.requests.collected(self._request.task)

    def _set_taken(self, taken: CollectedAnswers) -> None:
        self._state.requests.set_collected(self._request.task, taken)

    def _stands(self, rows: dict[int, Json]) -> bool:
        """Whether all jobs are there and finished; when that changes, it is said."""
        open_ = [i for i, row in rows.items() if not _is_finished(row, self._policy)]
        if len(rows) < len(self._request.jobs):
            news = f"task {self._request.task} has lost jobs; what was collected of them holds"
        elif open_:
            news = f"{_name(open_)}: at work again; what was collected holds until that is finished"
        else:
            news = None
        if news != self._state.requests.told(self._request.task):
            self._state.requests.set_told(self._request.task, news)
            if news:
                self._log(news)
        return news is None

    # -- what is said of a job

    def _tell(self, read: _Read) -> None:
        job, answers = read.row["id"], read.answers
        for note in _brief(answers.notes):
            _note(self._log, job, note)
        open_ = sorted((-share, sample) for sample, share in answers.uncovered.items() if share)
        text = f"finished by {_assignee(read.row) or 'nobody in particular'}; "
        text += f"{len(open_)} of its {len(answers.uncovered)} samples have pixels without a class"
        named = [
            f"{percent(-share)} on frame {self._task.media.numbers[sample.frame]}"
            for share, sample in open_[:_NAMED]
        ]
        if len(open_) > _NAMED:
            named.append("less on the others")
        _note(self._log, job, ": ".join(filter(None, (text, ", ".join(named)))))


def _at_rest(
    client: CvatClient, row: Json, policy: CollectPolicy, read: Callable[[Json], Content]
) -> tuple[Json, Content] | None:
    """A finished job and what `read` finds in it, both of one moment; None where there is none."""
    for _ in range(_READINGS):
        content = read(row)
        after = client.get(f"jobs/{row['id']}")
        if not _is_finished(after, policy):
            return None
        if after["updated_date"] == row["updated_date"]:
            return after, content
        row = after
    return None


def _rows(client: CvatClient, request: Request) -> dict[int, Json]:
    """The jobs of a request as they stand, by id; those that are deleted are missing."""
    if not request.jobs:
        return {}
    rows = {row["id"]: row for row in client.rows("jobs", task_id=request.task)}
    return {job.id: rows[job.id] for job in request.jobs if job.id in rows}


def _is_finished(row: Json, policy: CollectPolicy) -> bool:
    accepted = row["stage"] == "acceptance" or not policy.accepted_only
    return bool(row["state"] == "completed" and accepted)


def _assignee(row: Json) -> str | None:
    assignee = row.get("assignee")
    return assignee["username"] if assignee else None


def _of_people(
    task: WatchedTask, row: Json, shapes: JobShapes, note: Log
) -> Iterator[tuple[int, Json]]:
    """Class index and shape of what people drew in a job of the parent task."""
    frames = range(row["start_frame"], row["stop_frame"] + 1)
    theirs = [json.loads(text) for texts in shapes.people.values() for text in texts]
    theirs += expand_tracks(shapes.tracks, frames, task.media.deleted)
    for shape in theirs:
        label = task.index_of(shape["label_id"])
        if label is not None and shape["frame"] in frames:
            drawn = read_shape(label, shape, task.size, note)
            if drawn is not None:
                yield label, shape


def _together(found: Sequence[_Read]) -> Answers:
    annotations = [one for read in found for one in read.answers.annotations]
    clicks: dict[Sample, Clicks] = {}
    for read in found:
        clicks |= read.answers.clicks
    return Answers(tuple(sorted(annotations, key=lambda one: one.frame)), clicks)


def _digest(answers: Answers) -> str:
    digest = hashlib.sha256()
    for one in answers.annotations:
        digest.update(repr((one.frame, one.segments)).encode())
        digest.update(np.ascontiguousarray(one.label_map).tobytes())
    return digest.hexdigest()


def _name(jobs: Sequence[int]) -> str:
    return f"{'job' if len(jobs) == 1 else 'jobs'} {', '.join(map(str, jobs))}"


def _brief(notes: Sequence[str]) -> Iterator[str]:
    """The notes, with one line for all shapes that are left out for the same reason."""
    alike: dict[str, list[str]] = {}
    for note in notes:
        name, ignored, reason = note.partition(_IGNORED)
        alike.setdefault(reason if ignored else note, []).append(name)
    for reason, names in alike.items():
        if names == [reason]:
            yield reason
        elif len(names) == 1:
            yield f"{names[0]}{_IGNORED}{reason}"
        else:
            yield f"{names[0]}{_IGNORED}{reason}; so are {len(names) - 1} more"


def _note(log: Log, job: int, text: str) -> None:
    log(f"job {job}: {text}")
