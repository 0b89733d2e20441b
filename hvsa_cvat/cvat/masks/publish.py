"""Dense predictions into the jobs of the watched task: one shape per pixel, people's pixels free.

Where jobs overlap, each of them shows its frames in full. An export of the task merges polygons of
two jobs that are alike, but not masks, so the frames that they share get polygons. Both jobs must
show the same there: such a frame is changed only while each job that shows it can be written to.

What people have drawn or changed is never touched, and is cut out of ours. What we
published in earlier rounds, and nobody has touched, is replaced.

Ours are deleted in small groups. Each group is read right before, and the job's date is compared
with the one at which it was read: if somebody has saved since, the job is left for later. An edit
of a shape of the group that is saved between this comparison and the end of the deletion, about a
tenth of a second or as long as an overloaded server makes us wait, is lost. What a person draws
while we write overlaps ours until the next pass, which writes those frames again. What a person
draws later overlaps ours until the next round.

What a person deletes stays deleted for the rest of the round. The next round may show it again: the
network has learned by then, and a place that it never filled again would remain a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Refused, Uncertain
from hvsa_cvat.cvat.masks.context import (
    JobNotWritable,
    PublishContext,
    is_finished,
    why_not_writable,
)
from hvsa_cvat.cvat.masks.frame_feed import FrameFeed
from hvsa_cvat.cvat.masks.job_frames import JobFrames, read_job_frames
from hvsa_cvat.cvat.masks.label_map_shapes import Proposer
from hvsa_cvat.cvat.masks.options import PublishOptions
from hvsa_cvat.cvat.masks.round_writer import RoundWriter
from hvsa_cvat.cvat.masks.task_labels import read_labels
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import ServerError
from hvsa_cvat.ports import Progress
from hvsa_cvat.types import LabelMap

_FAILING_JOBS = 2
"""After this many jobs for which the server does not say whether it saved them, we stop."""


@dataclass(frozen=True)
class Outcome:
    """What became of one round."""

    created: int
    deleted: int
    kept: int
    """Shapes of ours that were there already."""
    left: tuple[tuple[int, str], ...]
    """Jobs that do not show the round in full, and why."""


def publish(
    connection: TaskConnection,
    round_number: int,
    label_maps: Iterable[tuple[int, LabelMap]],
    options: PublishOptions,
) -> Outcome:
    """Show the label maps of a round, of all positions in order, in place of those before.

    Safe to repeat. Jobs that show the round already are skipped, and an interrupted one continues.
    Jobs are left for later that a person has open, that their annotator has finished, or that the
    server does not let us change. Where no job can be written to, `label_maps` is not begun.
    `ServerError` where the server cannot be reached; what is done by then is remembered.
    """
    jobs = read_job_frames(connection.client, connection.task)
    due, kept, left = _due(connection, options, jobs, round_number)
    if not due:
        return Outcome(0, 0, kept, tuple(left.items()))
    context = _context(connection, options)
    proposer = Proposer(connection.task, context.labels, options.shapes)
    writer = RoundWriter(context, proposer, round_number)
    _tell_of_masks_shown_once(connection, proposer, jobs)
    writing = [one for one in jobs if one.job in due]
    feed = FrameFeed(_by_number(label_maps, connection.task, connection.progress), writing)
    unsaved = 0
    for one in writing:
        closed = [other for other in one.overlapping if other not in due or other in left]
        try:
            writer.write(one, feed.of(one), closed)
        except (JobNotWritable, Refused, Forbidden, NotFound) as reason:
            left[one.job] = str(reason)
        except Uncertain as error:
            left[one.job] = f"{error}; the next pass looks it up and goes on"
            unsaved += 1
            if unsaved == _FAILING_JOBS:
                raise ServerError(left[one.job]) from error
    feed.rest()
    return Outcome(writer.created, writer.deleted, kept + writer.kept, tuple(left.items()))


def jobs_without_round(connection: TaskConnection, round_number: int) -> list[int]:
    """Unfinished jobs that do not show a round in full yet."""
    shown = connection.state.ledger.published_rounds()
    return [
        one.job
        for one in read_job_frames(connection.client, connection.task)
        if shown.get(one.job) != round_number and not is_finished(one.row)
    ]


def _context(connection: TaskConnection, options: PublishOptions) -> PublishContext:
    client, state, task = connection.client, connection.state, connection.task
    return PublishContext(
        client,
        state,
        read_labels(client, state, task.id, task.label_ids),
        options,
        connection.now,
        connection.log,
        deleted_frames=task.media.deleted,
    )


def _due(
    connection: TaskConnection,
    options: PublishOptions,
    jobs: Sequence[JobFrames],
    round_number: int,
) -> tuple[set[int], int, dict[int, str]]:
    """The jobs to be written to now; how many shapes those hold that show the round already; and
    the jobs that are left for later, with the reason."""
    ledger = connection.state.ledger
    rounds, counts = ledger.published_rounds(), ledger.counts()
    closed = {
        one.job: reason
        for one in jobs
        if (reason := why_not_writable(one.row, connection.state, options, connection.now))
    }
    shown = {one.job for one in jobs if rounds.get(one.job) == round_number}
    due = {one.job for one in jobs} - shown - closed.keys()
    reopened: set[int] = set()
    for one in jobs:
        if one.job in shown - closed.keys() and not due.isdisjoint(one.overlapping):
            # it left frames as they were while the other job was closed, or may have
            ledger.set_reached(one.job, round_number, min(one.shared) - 1)
            shown.remove(one.job)
            reopened.add(one.job)
    left = {job: reason for job, reason in closed.items() if job not in shown}
    return due | reopened, sum(counts.get(job, 0) for job in shown), left


def _tell_of_masks_shown_once(
    connection: TaskConnection, proposer: Proposer, jobs: Sequence[JobFrames]
) -> None:
    frames = sum(len(one.repeated) for one in jobs)
    if frames and proposer.first_only:
        connection.log(
            f"the first of two jobs alone shows {', '.join(proposer.first_only)} on the {frames} "
            "frames that they share, because CVAT exports the masks of both; labels of type any "
            "are shown by both"
        )


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
