"""Signs of life of the agents that watch, kept where others can read them.

An agent that has died can tell nobody. So each notes in the workspace that it lives, and whoever
looks there, another agent, a dashboard or `hvsa-agent notify check`, finds those that fell silent.
An agent that was stopped takes its row away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from hvsa_cvat import __version__
from hvsa_cvat.agent import tables
from hvsa_cvat.database import Database, Where, is_present, read_only, table_names
from hvsa_cvat.errors import HvsaError

_agents = tables.agents

EVERY = 30.0
"""Seconds between two signs in the workspace."""
_FORGOTTEN = 7 * 86400.0
"""Seconds after its last sign when an agent is no longer told of."""


@dataclass(frozen=True)
class Doing:
    """What an agent does, as it told last."""

    version: str = __version__
    workers: int = 1
    computing: int = 0
    """Tasks of which something is computed."""
    queued: int = 0
    """Tasks that wait for a worker."""
    requests: int = 0
    """To the server, since the agent began."""
    failed: int = 0
    """Those of them that got no answer."""


@dataclass(frozen=True)
class Sign:
    """The last sign of life of one agent."""

    owner: str
    """Its name in the workspace: user, machine, process, and what tells it from all others."""
    started: float
    last: float
    """Seconds since 1970."""
    doing: Doing

    @property
    def name(self) -> str:
        """User and machine, which an agent that is started again there shares."""
        return self.owner.partition(":")[0]

    def was_followed_by(self, other: Sign) -> bool:
        """Whether the other is this agent, started again after this sign."""
        again = other.owner != self.owner and other.name == self.name
        return again and other.started >= self.last


def silent(signs: Sequence[Sign], minutes: float, now: float) -> list[Sign]:
    """The agents that gave no sign for so long, but for those that were started again on their
    machine since. `now`: seconds since 1970."""
    return [
        one
        for one in signs
        if now - one.last > 60 * minutes and not any(map(one.was_followed_by, signs))
    ]


class Signs:
    """The signs of the agents of one server. Several threads may give them."""

    def __init__(
        self, database: Database, server: str, owner: str, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._server = server
        self._owner = owner
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._last: float | None = None

    def give(self, doing: Callable[[], Doing]) -> None:
        """Note that this agent lives, unless it did so a moment ago. What the workspace refuses,
        such as on a full disk, the work of the agent meets too."""
        now = self._clock()
        with self._lock:
            if self._last is not None and 0 <= now - self._last < EVERY:
                return
            first, self._last = self._last is None, now
        with suppress(HvsaError), self._database.transaction() as connection:
            if first:
                old = _agents.c.last < now - _FORGOTTEN
                connection.execute(sa.delete(_agents).where(self._mine(), old))
            self._forget(connection)
            row = {
                "server": self._server,
                "owner": self._owner,
                "started": self._started,
                "last": now,
                "doing": asdict(doing()),
            }
            connection.execute(sa.insert(_agents), row)

    def end(self) -> None:
        """This agent stops because it was told to: nobody has to be told."""
        with suppress(HvsaError), self._database.transaction() as connection:
            self._forget(connection)

    def all(self) -> list[Sign]:
        """Of all agents, by name."""
        with self._database.transaction() as connection:
            return _signs(connection, self._server)

    def _mine(self) -> sa.ColumnElement[bool]:
        return _agents.c.server == self._server

    def _forget(self, connection: sa.Connection) -> None:
        connection.execute(sa.delete(_agents).where(self._mine(), _agents.c.owner == self._owner))


def read_signs(workspace: Where, server: str) -> list[Sign]:
    """The signs in a workspace, for processes that only look."""
    if not is_present(workspace, tables.TABLES):
        return []
    with read_only(workspace, tables.TABLES) as connection:
        present = _agents.name in table_names(connection)
        return _signs(connection, server) if present else []


def _signs(connection: sa.Connection, server: str) -> list[Sign]:
    query = sa.select(_agents).where(_agents.c.server == server).order_by(_agents.c.owner)
    return [
        Sign(row.owner, row.started, row.last, _doing(row.doing))
        for row in connection.execute(query)
    ]


def _doing(told: dict[str, Any]) -> Doing:
    """What another version may have told in other words."""
    known = {name: told[name] for name in asdict(Doing()) if name in told}
    return Doing(**known)
