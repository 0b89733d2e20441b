"""Dense predictions into the jobs of the watched task: every pixel one shape, people's left out.

Each frame is written to one job, the first that holds it, so that where jobs overlap no mask is
there twice. What people have drawn or changed is never touched, and is cut out of ours; what we
proposed in earlier rounds and nobody has touched is replaced.

Before ours are deleted, the job's date is compared with the one at which its shapes were read; if
somebody has saved since, the job is left for later. What remains is the time that the comparison
and the deletion take, a second or a few for the two thousand shapes of a group, or as long as an
overloaded server asks us to wait: an edit of one of those shapes that is saved in just that time is
lost. And what a person draws in a job after we have read it overlaps ours until the next round.

What a person deletes stays deleted for the rest of the round. The next one may propose it again:
the network has learned by then, and a place that it never filled again would remain a hole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

import numpy as np

from hvsa_cvat.cvat.http.client import CvatClient, Forbidden, Json, NotFound, Refused, Uncertain
from hvsa_cvat.cvat.masks.job_writer import Desk, JobWriter, LeaveForLater
from hvsa_cvat.cvat.masks.label_map_shapes import Kind, Proposer
from hvsa_cvat.cvat.masks.ownership import read_labels
from hvsa_cvat.cvat.state import State
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import ServerError
from hvsa_cvat.ports import Progress
from hvsa_cvat.types import LabelMap

_FAILING_JOBS = 2
"""After so many jobs of which the server does not say whether it saved them, we stop."""

_AT_WORK = ("in progress", "rejected")
"""States of a job that its annotator may have open. In a new one nobody has saved yet."""


@dataclass(frozen=True)
class PublishOptions:
    """What is shown, and what is left in peace."""

    shapes: Kind = "masks"
    """For classes whose label takes both; those whose label is of type mask or polygon get that."""
    quiet_minutes: float = 15.0
    """A job that people are at work on is written to when nobody has saved it for so long."""
    batch: int = 1000
    """Shapes a request, at most."""


@dataclass(frozen=True)
class Outcome:
    """What became of one round."""

    created: int
    deleted: int
    kept: int
    """Shapes of ours that were there already."""
    left: tuple[tuple[int, str], ...]
    """Jobs that do not show the round in full, and why."""


@dataclass(frozen=True)
class Retracted:
    """What became of our shapes when they were withdrawn."""

    deleted: int
    edited: int
    """Shapes of automatic origin that stay: people changed them, or another tool made them."""
    left: tuple[tuple[int, str], ...]
    """Jobs in which our shapes stay, and why."""
    waits: bool
    """Whether some of those are jobs that somebody is at work in, and can be retracted later."""

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.deleted} shapes of ours are deleted"]
        if self.edited:
            lines.append(
                f"{self.edited} shapes of automatic origin stay: people have changed them, or "
                "another tool made them"
            )
        return lines + [f"job {job}: {reason}" for job, reason in self.left]


@dataclass(frozen=True)
class _Part:
    """A job, and the frames that are written to it."""

    row: Json
    frames: Sequence[int]
    """Numbers, ascending; none that is deleted, or that an earlier job holds."""
    overlapping: Sequence[int]
    """Other jobs that hold some of them."""

    @property
    def job(self) -> int:
        return int(self.row["id"])


def publish(
    client: CvatClient,
    state: State,
    task: WatchedTask,
    round_number: int,
    label_maps: Iterable[tuple[int, LabelMap]],
    options: PublishOptions,
    *,
    now: Callable[[], datetime],
    log: Callable[[str], None],
    progress: Progress,
) -> Outcome:
    """Show the label maps of a round, of all positions in order, in place of those before.

    Safe to repeat: jobs that show the round already are skipped, one that was interrupted goes on,
    and where nothing can be done `label_maps` is not begun. Jobs are left for later that a person
    has open, that their annotator has finished, or that the server does not let us change.
    `ServerError` where it cannot be reached; what is done by then is remembered.
    """
    parts = _parts(client, task)
    left: dict[int, str] = {}
    due: dict[int, _Part] = {}
    kept = 0
    reason_to_leave = _reason_to_leave(state, options, now)
    shown, counts = state.ledger.published_rounds(), state.ledger.counts()
    for part in parts:
        if shown.get(part.job) == round_number:
            kept += counts.get(part.job, 0)
        elif reason := reason_to_leave(part.row):
            left[part.job] = reason
        else:
            due[part.job] = part
    if not due:
        return Outcome(0, 0, kept, tuple(left.items()))

    labels = read_labels(client, state, task.id, task.label_ids)
    desk = Desk(
        client,
        state,
        labels,
        options.batch,
        reason_to_leave,
        log,
        deleted_frames=task.media.deleted,
    )
    proposer = Proposer(task, labels, options.shapes)
    job_of = {frame: part.job for part in parts for frame in part.frames}
    frames = _by_number(label_maps, task, progress)
    writers = []
    unsaved = 0
    for job, frames_of_job in groupby(frames, key=lambda one: job_of.get(one[0])):
        if job not in due:
            continue
        writers.append(writer := JobWriter(desk, job))
        try:
            writer.write(round_number, frames_of_job, proposer, due[job].overlapping)
        except LeaveForLater as later:
            left[job] = str(later)
        except (Refused, Forbidden, NotFound) as error:
            left[job] = str(error)
        except Uncertain as error:
            left[job] = f"{error}; the next pass looks it up and goes on"
            unsaved += 1
            if unsaved == _FAILING_JOBS:
                raise ServerError(left[job]) from error
    return Outcome(
        created=sum(one.created for one in writers),
        deleted=sum(one.deleted for one in writers),
        kept=kept + sum(one.kept for one in writers),
        left=tuple(left.items()),
    )


def pending(client: CvatClient, state: State, task: WatchedTask, round_number: int) -> list[int]:
    """Jobs that do not show a round in full and wait for it: those that nobody has finished."""
    shown = state.ledger.published_rounds()
    return [
        part.job
        for part in _parts(client, task)
        if shown.get(part.job) != round_number and not _is_finished(part.row)
    ]


def retract(
    client: CvatClient,
    state: State,
    task: int,
    classes: Sequence[int | None],
    options: PublishOptions,
    *,
    now: Callable[[], datetime],
    log: Callable[[str], None],
) -> Retracted:
    """Delete our shapes that are as we left them. Safe to repeat, and works for tasks that cannot
    be watched any more; `classes` are the ids of the classes' labels now, None for those gone.

    Left are jobs that a person has open, and finished ones, of whose result our shapes are a part
    by now; reopened, and quiet for a while, they can be retracted.
    """
    labels = read_labels(client, state, task, classes)
    reason_to_leave = _reason_to_leave(state, options, now)
    desk = Desk(client, state, labels, options.batch, reason_to_leave, log)
    left: dict[int, str] = {}
    deleted = edited = 0
    waits = False
    counts = state.ledger.counts()
    for job in state.ledger.jobs():
        writer = JobWriter(desk, job)
        try:
            edited += writer.retract()
        except NotFound:
            log(f"job {job} is gone, and our shapes with it")
            state.ledger.forget_job(job)
        except LeaveForLater as later:
            left[job] = f"{counts.get(job, 0)} shapes of ours stay: {later}"
            waits |= not _is_finished(desk.look(job))
        except (Refused, Forbidden) as error:
            left[job] = str(error)
        deleted += writer.deleted
    return Retracted(deleted, edited, tuple(left.items()), waits)


def _parts(client: CvatClient, task: WatchedTask) -> list[_Part]:
    """The jobs with frames to be written, in order of frames; ground truth and replicas are none of
    ours."""
    rows = [
        row
        for row in client.rows("jobs", task_id=task.id)
        if row["task_id"] == task.id and row.get("type", "annotation") == "annotation"
    ]
    rows.sort(key=lambda row: (row["start_frame"], row["id"]))
    starts = [row["start_frame"] for row in rows]
    numbers, parts, first_free = task.media.numbers, [], 0
    for place, row in enumerate(rows):
        begin = bisect_left(numbers, max(row["start_frame"], first_free))
        frames = numbers[begin : bisect_right(numbers, row["stop_frame"])]
        first_free = max(first_free, row["stop_frame"] + 1)
        if frames:
            overlapping = rows[place + 1 : bisect_right(starts, frames[-1])]
            parts.append(_Part(row, frames, [other["id"] for other in overlapping]))
    return parts


def _by_number(
    label_maps: Iterable[tuple[int, LabelMap]], task: WatchedTask, progress: Progress
) -> Iterator[tuple[int, LabelMap]]:
    """The label maps by frame number instead of position."""
    numbers = task.media.numbers
    done = 0
    for position, label_map in label_maps:
        if position != done or done == len(numbers):
            raise ValueError(f"label map of frame {position}; {done} of {len(numbers)} are there")
        if label_map.shape != task.size or label_map.dtype != np.uint8:
            raise ValueError(f"label map of frame {position}: {label_map.dtype} {label_map.shape}")
        progress("publish", done, len(numbers))
        yield numbers[position], label_map
        done += 1
    if done != len(numbers):
        raise ValueError(f"{done} label maps of {len(numbers)} frames")
    progress("publish", done, len(numbers))


def _is_finished(row: Json) -> bool:
    """Whether its annotator has handed it over; one that was rejected is to be done again."""
    if row["state"] in ("completed", "rejected"):
        return bool(row["state"] == "completed")
    return bool(row.get("stage", "annotation") != "annotation")


def _reason_to_leave(
    state: State, options: PublishOptions, now: Callable[[], datetime]
) -> Callable[[Json], str | None]:
    """Given what the server says of a job: why people must be left alone in it now, if so."""

    def reason(row: Json) -> str | None:
        who = (row.get("assignee") or {}).get("username") or "its annotator"
        if _is_finished(row):
            return f"{who} has finished it; to have it changed set its state to in progress in CVAT"
        if row["state"] not in _AT_WORK or row["updated_date"] == state.ledger.own_write(row["id"]):
            return None
        quiet, age = options.quiet_minutes, now() - datetime.fromisoformat(row["updated_date"])
        if not quiet or age >= timedelta(minutes=quiet):
            return None
        minutes = max(0, int(age.total_seconds() // 60))
        return (
            f"{who} is at work in it, it was saved {minutes} minutes ago; nothing is changed in it "
            f"until nobody has saved for {quiet:g}"
        )

    return reason
