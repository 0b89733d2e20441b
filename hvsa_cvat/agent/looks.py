"""What the last look at the server has found of each task's open jobs, for whoever asks no server.

A pass looks at a task, or learns from the server that nothing was written in it since; both make
what is kept here new again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.agent.events import Event, Events
from hvsa_cvat.cvat.answers.unfinished_job import UnfinishedJob
from hvsa_cvat.database import Database

_looks, _tasks = tables.looks, tables.tasks


@dataclass(frozen=True)
class OpenJob(UnfinishedJob):
    """A job that somebody has still to finish, and how long it is known to be so."""

    since: float
    """Seconds since 1970 when a look found it open for the first time."""


@dataclass(frozen=True)
class Look:
    """What was found of one task."""

    enrollment: str
    """Key of the enrollment."""
    time: float
    """Seconds since 1970 when the jobs were in these states on the server for certain."""
    jobs: tuple[OpenJob, ...]


class Looks:
    """The last look at each task of one server."""

    def __init__(
        self, database: Database, server: str, events: Events, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._server = server
        self._events = events
        self._clock = clock

    def keep(self, task: int, enrollment: str, jobs: Sequence[UnfinishedJob]) -> None:
        """Keep what a look at the server has found now, and note in the log which jobs people have
        given to somebody else since the look before. Nothing is kept of a task that is not enrolled
        so any more."""
        now = self._clock()
        with self._database.transaction() as connection:
            enrolled = sa.select(_tasks.c.enrollment).where(self._is(_tasks, task))
            if connection.scalar(enrolled) != enrollment:
                return
            before = connection.execute(sa.select(_looks).where(self._is(_looks, task))).first()
            same = before is not None and before.enrollment == enrollment
            known = {one["job"]: one for one in before.jobs} if before and same else {}
            row = {
                "server": self._server,
                "task": task,
                "enrollment": enrollment,
                "time": now,
                "jobs": [{**asdict(one), "since": _since(known.get(one.job), now)} for one in jobs],
            }
            for one in jobs:
                was = known.get(one.job)
                if was is not None and was["assignee"] != one.assignee and one.state != "deleted":
                    detail = {"job": one.job, "from": was["assignee"], "to": one.assignee}
                    event = self._events.row(
                        task, Event.REASSIGNED, enrollment, who="people in CVAT", detail=detail
                    )
                    connection.execute(sa.insert(tables.events), event)
            connection.execute(sa.delete(_looks).where(self._is(_looks, task)))
            connection.execute(sa.insert(_looks), row)

    def confirm(self, tasks: Collection[int]) -> None:
        """Nothing was written in these tasks since the last look at them: it holds as of now."""
        mine = (_looks.c.server == self._server) & (_looks.c.task == sa.bindparam("one"))
        update = sa.update(_looks).where(mine).values(time=self._clock())
        if tasks:
            with self._database.transaction() as connection:
                connection.execute(update, [{"one": task} for task in tasks])

    def _is(self, table: sa.Table, task: int) -> sa.ColumnElement[bool]:
        return tables.of_task(table, self._server, task)


def _since(known: Mapping[str, Any] | None, now: float) -> float:
    return now if known is None else float(known["since"])


def look_of(row: sa.Row[Any]) -> Look:
    """The look in a row of the table."""
    return Look(row.enrollment, row.time, tuple(OpenJob(**one) for one in row.jobs))
