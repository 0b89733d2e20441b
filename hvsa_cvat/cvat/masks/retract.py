"""Deletes the shapes of ours that are still as we left them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from hvsa_cvat.cvat.connection import Log
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Refused
from hvsa_cvat.cvat.masks.context import JobNotWritable, PublishContext, is_finished
from hvsa_cvat.cvat.masks.options import PublishOptions
from hvsa_cvat.cvat.masks.shape_changes import shapes_per_group
from hvsa_cvat.cvat.masks.shape_requests import ShapeRequests
from hvsa_cvat.cvat.masks.task_labels import read_labels
from hvsa_cvat.cvat.state import State


@dataclass(frozen=True)
class Retracted:
    """What became of our shapes when they were withdrawn."""

    deleted: int
    edited: int
    """Shapes of automatic origin that stay: people changed them, or another tool made them."""
    left: tuple[tuple[int, str], ...]
    """Jobs in which our shapes stay, and why."""
    waits: bool
    """Whether somebody is at work in some of those jobs; they can be retracted later."""

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.deleted} shapes of ours are deleted"]
        if self.edited:
            lines.append(
                f"{self.edited} shapes of automatic origin stay: people have changed them, or "
                "another tool made them"
            )
        return lines + [f"job {job}: {reason}" for job, reason in self.left]


def retract(
    client: CvatClient,
    state: State,
    task: int,
    classes: Sequence[int | None],
    options: PublishOptions,
    *,
    now: Callable[[], datetime],
    log: Log,
) -> Retracted:
    """Delete our shapes that are as we left them. Safe to repeat.

    It takes no `TaskConnection`, because it must work for tasks that can no longer be watched.
    `classes` are the present ids of the classes' labels, None for those that are gone.

    Jobs that a person has open are left out. So are finished jobs: our shapes are part of their
    result by now. Reopened, and quiet for a while, they can be retracted.
    """
    context = PublishContext(
        client, state, read_labels(client, state, task, classes), options, now, log
    )
    left: dict[int, str] = {}
    deleted = edited = 0
    waits = False
    counts = state.ledger.counts()
    for job in state.ledger.jobs():
        requests = ShapeRequests(context, job)
        try:
            try:
                edited += _retract_job(context, job, requests)
            except JobNotWritable as reason:
                waits |= not is_finished(context.look(job))
                left[job] = f"{counts.get(job, 0)} shapes of ours stay: {reason}"
        except NotFound:
            log(f"job {job} is gone, and our shapes with it")
            state.ledger.forget_job(job)
        except (Refused, Forbidden) as error:
            left[job] = str(error)
        deleted += requests.deleted
    return Retracted(deleted, edited, tuple(left.items()), waits)


def _retract_job(context: PublishContext, job: int, requests: ShapeRequests) -> int:
    """Returns how many shapes of automatic origin are not ours."""
    row = context.look(job)
    context.check_writable(row)
    shapes = context.read(row)
    most = shapes_per_group(shapes, context.options.limits)
    while ours := shapes.all_ours():
        requests.delete(shapes, dict(islice(ours.items(), most)))
        row = requests.note_own_write(row)
        context.check_writable(row)
        shapes = context.read(row)
    context.state.ledger.forget_job(job)
    return shapes.edited
