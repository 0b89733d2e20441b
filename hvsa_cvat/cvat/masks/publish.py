"""Dense predictions into the jobs of the watched task: one shape per pixel, people's pixels free.

Each frame is written to one job, the first that holds it, so that no mask is there twice where jobs
overlap. What people have drawn or changed is never touched, and is cut out of ours. What we
published in earlier rounds, and nobody has touched, is replaced.

Before ours are deleted, the job's date is compared with the one at which its shapes were read. If
somebody has saved since, the job is left for later. The comparison and the deletion take a second
or a few for the two thousand shapes of a group, or as long as an overloaded server makes us wait.
An edit of one of those shapes that is saved in just that time is lost. What a person draws while we
write overlaps ours until the next pass, which writes those frames again. What a person draws later
overlaps ours until the next round.

What a person deletes stays deleted for the rest of the round. The next round may show it again: the
network has learned by then, and a place that it never filled again would remain a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import Forbidden, NotFound, Refused, Uncertain
from hvsa_cvat.cvat.masks.context import (
    JobNotWritable,
    PublishContext,
    is_finished,
    why_not_writable,
)
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
    job_of = {frame: one.job for one in jobs for frame in one.frames}
    frames = _by_number(label_maps, connection.task, connection.progress)
    unsaved = 0
    for job, frames_of_job in groupby(frames, key=lambda one: job_of.get(one[0])):
        if job not in due:
            continue
        try:
            writer.write(job, frames_of_job, due[job].overlapping)
        except (JobNotWritable, Refused, Forbidden, NotFound) as reason:
            left[job] = str(reason)
        except Uncertain as error:
            left[job] = f"{error}; the next pass looks it up and goes on"
            unsaved += 1
            if unsaved == _FAILING_JOBS:
                raise ServerError(left[job]) from error
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
    jobs: Iterable[JobFrames],
    round_number: int,
) -> tuple[dict[int, JobFrames], int, dict[int, str]]:
    """The jobs to be written to now; how many shapes those hold that show the round already; and
    the jobs that are left for later, with the reason."""
    state = connection.state
    shown, counts = state.ledger.published_rounds(), state.ledger.counts()
    due: dict[int, JobFrames] = {}
    left: dict[int, str] = {}
    kept = 0
    for one in jobs:
        if shown.get(one.job) == round_number:
            kept += counts.get(one.job, 0)
        elif reason := why_not_writable(one.row, state, options, connection.now):
            left[one.job] = reason
        else:
            due[one.job] = one
    return due, kept, left


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
