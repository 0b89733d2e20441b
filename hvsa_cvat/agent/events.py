"""What was done with the enrolled tasks, by whom and when, as far as nothing else keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.database import Database, Where, is_present, read_only, table_names

_events = tables.events


class Event(StrEnum):
    """What was done."""

    ENROLLED = "enrolled"
    ASKED = "asked"
    ANSWERED = "answered"
    SENT_BACK = "sent back"
    REASSIGNED = "reassigned"
    TAKEN = "answers taken"
    PUBLISHED = "published"
    GIVEN_ON = "job given to somebody else"
    ACCEPTED = "marked for validation"
    TRUTH_MADE = "ground truth job made"
    STOPPED = "stopped"
    GOES_ON = "goes on"
    EXTENDED = "extended"
    WITHDRAWN = "withdrawn"
    WISHED = "asked the agent"
    REFUSED = "refused"
    PAUSED = "paused"
    RESUMED = "resumed"


@dataclass(frozen=True)
class Recorded:
    """One event."""

    time: float
    """Seconds since 1970."""
    who: str
    what: Event
    round: int | None
    detail: Mapping[str, Any]
    enrollment: str | None
    """Key of the enrollment that it is about."""


class Events:
    """The events of the tasks of one server. Nothing is ever removed."""

    def __init__(
        self, database: Database, server: str, who: str, clock: Callable[[], float]
    ) -> None:
        """`who` is noted where nobody else is named."""
        self._database = database
        self._server = server
        self._who = who
        self._clock = clock

    def add(
        self,
        task: int,
        what: Event,
        *,
        enrollment: str | None,
        round_number: int | None = None,
        who: str | None = None,
        **detail: Any,
    ) -> None:
        """Note an event that happened now."""
        row = self.row(task, what, enrollment, round_number, who, detail)
        with self._database.transaction() as connection:
            connection.execute(sa.insert(_events), row)

    def newest(self) -> Mapping[int, int]:
        """A number for each task, another one after each of its events."""
        newest = sa.func.max(_events.c.entry)
        query = sa.select(_events.c.task, newest).where(_events.c.server == self._server)
        with self._database.transaction() as connection:
            rows = connection.execute(query.group_by(_events.c.task))
            return {row[0]: row[1] for row in rows}

    def row(
        self,
        task: int,
        what: Event,
        enrollment: str | None,
        round_number: int | None = None,
        who: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The row of an event, for a transaction that changes something else as well."""
        return {
            "server": self._server,
            "task": task,
            "enrollment": enrollment,
            "time": self._clock(),
            "who": (who or self._who)[:200],
            "what": what.value,
            "round": round_number,
            "detail": dict(detail or {}),
        }


def read_events(where: Where, server: str, task: int) -> list[Recorded]:
    """The events of a task in a workspace, the oldest first; for processes that only look. Empty
    in a workspace of version 1."""
    if not is_present(where, tables.TABLES):
        return []
    mine = (_events.c.server == server) & (_events.c.task == task)
    query = sa.select(_events).where(mine).order_by(_events.c.time, _events.c.entry)
    with read_only(where, tables.TABLES) as connection:
        if _events.name not in table_names(connection):
            return []
        return [
            Recorded(row.time, row.who, Event(row.what), row.round, row.detail, row.enrollment)
            for row in connection.execute(query)
        ]
