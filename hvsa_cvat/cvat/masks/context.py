"""What every job of a task is written with, and whether a job may be written to now."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from hvsa_cvat.cvat.connection import Log
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.job_shapes import JobShapes, read_shapes
from hvsa_cvat.cvat.masks.options import PublishOptions
from hvsa_cvat.cvat.masks.task_labels import TaskLabels
from hvsa_cvat.cvat.state import State

_AT_WORK = ("in progress", "rejected")
"""States of a job that its annotator may have open. In a new one nobody has saved yet."""


class JobNotWritable(Exception):
    """Nothing may be written to the job now; says why."""


@dataclass(frozen=True)
class PublishContext:
    """What every job of a task is written with.

    Not a `TaskConnection`: shapes can be retracted from a task that can no longer be watched.
    """

    client: CvatClient
    state: State
    labels: TaskLabels
    options: PublishOptions
    now: Callable[[], datetime]
    log: Log
    deleted_frames: Collection[int] = ()
    """CVAT's numbers of them."""

    def look(self, job: int) -> Json:
        """What the server says of a job."""
        row: Json = self.client.get(f"jobs/{job}")
        return row

    def read(self, row: Json) -> JobShapes:
        """The shapes of a job, `row` being what the server has just said of it."""
        return read_shapes(self.client, self.state, self.labels, row)

    def check_writable(self, row: Json) -> None:
        """`JobNotWritable` where people must be left alone in the job."""
        if reason := why_not_writable(row, self.state, self.options, self.now):
            raise JobNotWritable(reason)


def why_not_writable(
    row: Json, state: State, options: PublishOptions, now: Callable[[], datetime]
) -> str | None:
    """Why people must be left alone in a job now; None if the job may be written to."""
    who = (row.get("assignee") or {}).get("username") or "its annotator"
    if is_finished(row):
        return f"{who} has finished it; to have it changed set its state to in progress in CVAT"
    ours = row["updated_date"] == state.ledger.own_write(row["id"])
    if row["state"] not in _AT_WORK or ours:
        return None
    quiet, age = options.quiet_minutes, now() - datetime.fromisoformat(row["updated_date"])
    if not quiet or age >= timedelta(minutes=quiet):
        return None
    minutes = max(0, int(age.total_seconds() // 60))
    ago = "1 minute ago" if minutes == 1 else f"{minutes} minutes ago"
    return (
        f"{who} is at work in it and saved it {ago}; nothing is changed in it until nobody has "
        f"saved for {quiet:g} minutes"
    )


def is_finished(row: Json) -> bool:
    """Whether the annotator has handed the job over; a rejected job is to be done again."""
    if row["state"] in ("completed", "rejected"):
        return bool(row["state"] == "completed")
    return bool(row.get("stage", "annotation") != "annotation")
