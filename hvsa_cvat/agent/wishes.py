"""What people ask for on the pages of the dashboard, kept until a pass of an agent has done it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.agent.events import Event, Events
from hvsa_cvat.database import Database
from hvsa_cvat.errors import ConfigError

_wishes = tables.wishes


class WishKind(StrEnum):
    """What is asked for. The values of the database, and the words of the pages."""

    ASK_AGAIN = "ask again about"
    EXTEND = "extend"
    WITHDRAW = "withdraw"


@dataclass(frozen=True)
class Wish:
    """Something that the next pass over a task does first."""

    task: int
    enrollment: str
    """Key of the enrollment that it is about."""
    kind: WishKind
    arguments: Mapping[str, Any]
    """Those of the command."""
    who: str
    time: float
    """Seconds since 1970."""


class Wishes:
    """The open wishes of one server, at most one a task."""

    def __init__(
        self, database: Database, server: str, events: Events, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._server = server
        self._events = events
        self._clock = clock

    def all(self) -> list[Wish]:
        """By number of the task."""
        query = sa.select(_wishes).where(_wishes.c.server == self._server).order_by(_wishes.c.task)
        with self._database.transaction() as connection:
            return [wish_of(row) for row in connection.execute(query)]

    def add(self, task: int, kind: WishKind, arguments: Mapping[str, Any], who: str) -> None:
        """`ConfigError` for a task that is not enrolled, or has an open wish."""
        with self._database.transaction() as connection:
            key = tables.enrollment_key(connection, self._server, task)
            mine = tables.of_task(_wishes, self._server, task)
            if connection.execute(sa.select(_wishes.c.kind).where(mine)).first():
                raise ConfigError(
                    f"something is asked for task {task} already; the next pass of the agent does "
                    "it, ask again afterwards"
                )
            row = {
                "server": self._server,
                "task": task,
                "enrollment": key,
                "kind": kind.value,
                "arguments": dict(arguments),
                "who": who[:200],
                "time": self._clock(),
            }
            connection.execute(sa.insert(_wishes), row)
            detail = {"to": kind.value, **arguments}
            event = self._events.row(task, Event.WISHED, key, who=who, detail=detail)
            connection.execute(sa.insert(tables.events), event)

    def end(self, wish: Wish, refusal: str | None = None) -> None:
        """Forget a wish that was carried out, or that cannot be: `refusal` says why."""
        with self._database.transaction() as connection:
            same = tables.of_task(_wishes, self._server, wish.task) & (_wishes.c.time == wish.time)
            connection.execute(sa.delete(_wishes).where(same))
            if refusal is not None:
                detail = {"to": wish.kind.value, "reason": refusal}
                event = self._events.row(wish.task, Event.REFUSED, wish.enrollment, detail=detail)
                connection.execute(sa.insert(tables.events), event)


def wish_of(row: sa.Row[Any]) -> Wish:
    """The wish in a row of the table."""
    kind = WishKind(row.kind)
    return Wish(row.task, row.enrollment, kind, row.arguments, row.who, row.time)
