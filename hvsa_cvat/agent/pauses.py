"""Tasks that nobody works on for now, because a person said so."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.agent.events import Event, Events
from hvsa_cvat.database import Database
from hvsa_cvat.errors import ConfigError

_pauses = tables.pauses


class Pauses:
    """The paused tasks of one server. The pass that works on a task when it is paused goes on to
    its end; the next ones leave the task out."""

    def __init__(
        self, database: Database, server: str, events: Events, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._server = server
        self._events = events
        self._clock = clock

    def all(self) -> frozenset[int]:
        """The numbers of the paused tasks."""
        query = sa.select(_pauses.c.task).where(_pauses.c.server == self._server)
        with self._database.transaction() as connection:
            return frozenset(connection.scalars(query))

    def pause(self, task: int, who: str | None = None) -> None:
        """`ConfigError` for a task that is not enrolled, or is paused already."""
        with self._database.transaction() as connection:
            key = tables.enrollment_key(connection, self._server, task)
            if self._is_paused(connection, task):
                raise ConfigError(f"task {task} is paused already; hvsa-agent resume {task}")
            row = {"server": self._server, "task": task, "since": self._clock()}
            connection.execute(sa.insert(_pauses), row)
            event = self._events.row(task, Event.PAUSED, key, who=who)
            connection.execute(sa.insert(tables.events), event)

    def resume(self, task: int, who: str | None = None) -> None:
        """`ConfigError` for a task that is not enrolled, or is not paused."""
        with self._database.transaction() as connection:
            key = tables.enrollment_key(connection, self._server, task)
            if not self._is_paused(connection, task):
                raise ConfigError(f"task {task} is not paused; see `hvsa-agent status`")
            connection.execute(
                sa.delete(_pauses).where(tables.of_task(_pauses, self._server, task))
            )
            event = self._events.row(task, Event.RESUMED, key, who=who)
            connection.execute(sa.insert(tables.events), event)

    def _is_paused(self, connection: sa.Connection, task: int) -> bool:
        query = sa.select(_pauses.c.task).where(tables.of_task(_pauses, self._server, task))
        return connection.execute(query).first() is not None
