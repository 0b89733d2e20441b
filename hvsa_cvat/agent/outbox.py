"""What people are to be told, kept until it is sent.

A notice is marked as sent before it is: a process that ends in between loses it and sends none
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.database import Database

_notices = tables.notices


@dataclass(frozen=True)
class Notice:
    """One line for people."""

    name: str
    """The same for the same news, so that they are told once."""
    task: int
    line: str


@dataclass(frozen=True)
class Waiting:
    """A notice that was not sent yet."""

    notice: Notice
    time: float
    """Seconds since 1970 when it was noted."""


class Outbox:
    """The notices about the tasks of one server."""

    def __init__(self, database: Database, server: str, clock: Callable[[], float]) -> None:
        self._database = database
        self._server = server
        self._clock = clock

    def add(self, notices: Iterable[Notice]) -> None:
        """Keep those that are new."""
        mine, notices = _notices.c.server == self._server, list(notices)
        if not notices:
            return
        with self._database.transaction() as connection:
            for one in notices:
                same = sa.select(_notices.c.name).where(mine, _notices.c.name == one.name)
                if connection.execute(same).first() is None:
                    row: dict[str, Any] = {
                        "server": self._server,
                        "name": one.name,
                        "task": one.task,
                        "line": one.line,
                        "time": self._clock(),
                    }
                    connection.execute(sa.insert(_notices), row)

    def waiting(self) -> list[Waiting]:
        """Those that were not sent, the oldest first."""
        query = sa.select(_notices).where(
            _notices.c.server == self._server, _notices.c.sent.is_(None)
        )
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(_notices.c.time, _notices.c.name)).all()
        return [Waiting(Notice(row.name, row.task, row.line), row.time) for row in rows]

    def take(self, notices: Sequence[Waiting]) -> list[Notice]:
        """Mark notices as sent; returns those that no other agent took meanwhile."""
        taken = []
        with self._database.transaction() as connection:
            for one in notices:
                update = sa.update(_notices).where(self._is(one.notice), _notices.c.sent.is_(None))
                if connection.execute(update.values(sent=self._clock())).rowcount:
                    taken.append(one.notice)
        return taken

    def give_back(self, notices: Iterable[Notice]) -> None:
        """Nobody got them: they wait again."""
        with self._database.transaction() as connection:
            for one in notices:
                update = sa.update(_notices).where(self._is(one))
                connection.execute(update.values(sent=None))

    def _is(self, notice: Notice) -> sa.ColumnElement[bool]:
        return (_notices.c.server == self._server) & (_notices.c.name == notice.name)
