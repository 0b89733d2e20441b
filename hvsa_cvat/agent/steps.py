"""What is computed for tasks now, for whoever looks at the workspace.

A step is written when it begins, and forgotten with the lease of its task. So it holds only while
an agent works on the task, and while the session still stands at this phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.database import Database, shared_time

_steps = tables.steps


@dataclass(frozen=True)
class ComputedStep:
    """A phase that somebody computes."""

    text: str
    """Such as `round 2: finetune`."""
    since: float
    """Seconds of the workspace's clock."""


class Steps:
    """The steps of the tasks of one server."""

    def __init__(self, database: Database, server: str, clock: Callable[[], float]) -> None:
        self._database = database
        self._server = server
        self._clock = clock

    def begin(self, task: int, text: str) -> None:
        """A step begins now."""
        with self._database.transaction() as connection:
            since = shared_time(connection, self._clock)
            self.forget(task, connection)
            row = {"server": self._server, "task": task, "step": text, "since": since}
            connection.execute(sa.insert(_steps), row)

    def forget(self, task: int, connection: sa.Connection) -> None:
        """Nothing is computed for a task any more."""
        connection.execute(sa.delete(_steps).where(tables.of_task(_steps, self._server, task)))
