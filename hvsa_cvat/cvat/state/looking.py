"""What a process that only looks reads of a task's memory.

It makes no file and waits for no writer: the agent that holds the lease of the task goes on. The
database may be of an older version, in which some tables are missing; what they would hold is empty
then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.cvat.state import tables
from hvsa_cvat.cvat.state.requests import Request, all_requests
from hvsa_cvat.database import Where, is_present, read_only, stamps, table_names


@dataclass(frozen=True)
class JobFrames:
    """The frames of a job of the watched task in which we wrote shapes."""

    job: int
    first: int
    """CVAT's number of the first frame."""
    last: int
    """The last one, inclusive."""
    shapes: int
    """How many shapes of ours are there."""


@dataclass(frozen=True)
class TaskMemory:
    """What the adapter remembers of one task, as far as lookers need it."""

    requests: tuple[Request, ...] = ()
    """All finished requests, oldest first."""
    answered: frozenset[int] = frozenset()
    """Jobs of requests whose answers were taken."""
    sent_back: frozenset[int] = frozenset()
    """Jobs of requests that are with their annotators again, because of gaps."""
    answered_at: Mapping[int, str] = field(default_factory=dict)
    """The server's date of each job when its answers were taken last."""
    sent_back_at: Mapping[int, str] = field(default_factory=dict)
    """The server's date of each job that ever went back, when it did."""
    numbers: tuple[int, ...] = ()
    """CVAT's numbers of the frames that the session counts, ascending."""
    jobs: tuple[JobFrames, ...] = ()
    """The jobs of the watched task that hold shapes of ours."""
    colours: tuple[str, ...] = ()
    """The colour of each class on the server, as `#rrggbb`; empty where it was never read."""
    files: tuple[str, ...] = ()
    """The name of each image as it was uploaded; empty for a video."""
    project: str | None = None
    """Name or number of the task's project; None outside projects, and before the first pass."""


def memory_stamps(places: Sequence[Where]) -> list[tuple[int, ...]]:
    """For each memory another tuple after each change; cheap for many tasks."""
    return stamps(places, tables.TABLES)


def read_memory(where: Where) -> TaskMemory:
    """The memory of a task in the `State` of a place; empty where there is none."""
    if not is_present(where, tables.TABLES):
        return TaskMemory()
    with read_only(where, tables.TABLES) as connection:
        present = table_names(connection)

        def rows(query: sa.Select[Any], table: sa.Table) -> list[sa.Row[Any]]:
            # all at once: a long video has thousands of rows
            return list(connection.execute(query).all()) if table.name in present else []

        requests = all_requests(connection)
        readings = {row.job: row.updated_date for row in rows(_readings(), tables.readings)}
        begun = rows(sa.select(tables.send_backs), tables.send_backs)
        numbers = rows(sa.select(tables.frames_in_use.c.number), tables.frames_in_use)
        jobs = rows(_job_frames(), tables.pushed)
        colours = rows(_colours(), tables.class_colours)
        files = rows(_files(), tables.frame_files)
        projects = rows(sa.select(tables.project), tables.project)
    # a job that goes back is read as of the same date; once it is finished again, the date differs
    sent_back = {row.job for row in begun if readings.get(row.job) in (None, row.updated_date)}
    return TaskMemory(
        tuple(requests),
        frozenset(readings.keys() - sent_back),
        frozenset(sent_back),
        {job: date for job, date in readings.items() if job not in sent_back},
        {row.job: row.updated_date for row in begun},
        tuple(sorted(number for (number,) in numbers)),
        tuple(JobFrames(row.job, row.first, row.last, row.shapes) for row in jobs),
        tuple(row.colour for row in colours),
        tuple(row.name for row in files),
        next((row.name or f"project {row.number}" for row in projects), None),
    )


def _readings() -> sa.Select[Any]:
    column = tables.readings.c
    return sa.select(column.job, column.updated_date)


def _job_frames() -> sa.Select[Any]:
    column = tables.pushed.c
    first = sa.func.min(column.frame).label("first")
    last = sa.func.max(column.frame).label("last")
    shapes = sa.func.count(column.shape).label("shapes")  # NULLs do not count
    return sa.select(column.job, first, last, shapes).group_by(column.job).order_by(first)


def _colours() -> sa.Select[Any]:
    column = tables.class_colours.c
    return sa.select(column.colour).order_by(column.class_index)


def _files() -> sa.Select[Any]:
    column = tables.frame_files.c
    return sa.select(column.name).order_by(column.position)
