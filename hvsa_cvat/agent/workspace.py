"""The agent's memory: which tasks are in care and how, and who works on which just now.

SQL in `workspace.db`; each task has a folder of its own below `tasks/`, with its session, its
artefacts and what the adapter remembers. Tasks are leased, so that several agents can share a
workspace: a lease that is not renewed ends by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.agent.settings import CareOptions
from hvsa_cvat.database import Database
from hvsa_cvat.errors import ConfigError, HvsaError

SCHEMA_VERSION = 1

LEASE_SECONDS = 60.0
"""After so long without a sign of life the task of an agent is free again."""

_metadata = sa.MetaData()

_tasks = sa.Table(
    "tasks",
    _metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("care", sa.String(20), nullable=False),
    sa.Column("classes", sa.JSON, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("error", sa.Text),
)

_projects = sa.Table(
    "projects",
    _metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("project", sa.Integer, primary_key=True),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("withdrawn", sa.JSON, nullable=False),
)

_leases = sa.Table(
    "leases",
    _metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)


@dataclass(frozen=True)
class Care:
    """A task in care."""

    task: int
    care: str
    """Tells this time in care from earlier ones of the same task."""
    classes: tuple[tuple[int, str], ...]
    """Label id and name of each class when the task came into care, in class order."""
    options: CareOptions
    error: str | None
    """What stopped the last pass, one line."""


@dataclass(frozen=True)
class Lease:
    owner: str
    expires: float
    """Seconds of the workspace's clock."""


class Workspace:
    """Everything in care on one server. Safe to use from several processes."""

    def __init__(self, root: Path, server: str, owner: str, clock: Callable[[], float]) -> None:
        """`server` is the server's host name, `owner` the name of this agent, `clock` the time in
        seconds since 1970, which the agents of a workspace share."""
        self.root = root
        self.server = server
        self.owner = owner
        self.database = root / "workspace.db"
        self._clock = clock
        self._database = Database(self.database, _metadata, SCHEMA_VERSION, "a workspace")

    def folder(self, care: Care) -> Path:
        """Where a task's session and artefacts lie."""
        host = self.server.replace(":", "_")
        return self.root / "tasks" / f"{host}-{care.task}-{care.care}"

    # -- tasks

    def tasks(self) -> list[Care]:
        """All tasks in care, by number."""
        query = sa.select(_tasks).where(_tasks.c.server == self.server).order_by(_tasks.c.task)
        with self._database.transaction() as connection:
            return [_care(row) for row in connection.execute(query)]

    def task(self, task: int) -> Care | None:
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(_tasks).where(self._is(_tasks, task))).first()
        return None if row is None else _care(row)

    def take(
        self, task: int, care: str, classes: Sequence[tuple[int, str]], options: CareOptions
    ) -> Care:
        """Take a task into care."""
        row = {
            "server": self.server,
            "task": task,
            "care": care,
            "classes": [list(pair) for pair in classes],
            "options": options.model_dump(mode="json"),
        }
        with self._database.transaction() as connection:
            if connection.execute(sa.select(_tasks.c.task).where(self._is(_tasks, task))).first():
                raise ConfigError(
                    f"task {task} is in care already; see `hvsa-agent status`, or withdraw it "
                    f"first: `hvsa-agent withdraw {task}`"
                )
            connection.execute(sa.insert(_tasks), row)
        return Care(task, care, tuple((i, n) for i, n in classes), options, None)

    def drop(self, task: int) -> None:
        """Let go of a task; its folder stays."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_tasks).where(self._is(_tasks, task)))

    def set_error(self, task: int, error: str | None) -> None:
        with self._database.transaction() as connection:
            connection.execute(sa.update(_tasks).where(self._is(_tasks, task)).values(error=error))

    # -- projects whose tasks are taken into care as they come

    def projects(self) -> dict[int, dict[str, Any]]:
        """The options given for each project."""
        query = sa.select(_projects).where(_projects.c.server == self.server)
        with self._database.transaction() as connection:
            return {row.project: row.options for row in connection.execute(query)}

    def take_project(self, project: int, options: dict[str, Any]) -> None:
        """Take a project into care, or give it other options for its future tasks."""
        mine = (_projects.c.server == self.server) & (_projects.c.project == project)
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_projects).where(mine))
            connection.execute(
                sa.insert(_projects),
                {"server": self.server, "project": project, "options": options, "withdrawn": []},
            )

    def drop_project(self, project: int) -> bool:
        """Take no further tasks of a project; whether it was in care."""
        mine = (_projects.c.server == self.server) & (_projects.c.project == project)
        with self._database.transaction() as connection:
            return connection.execute(sa.delete(_projects).where(mine)).rowcount > 0

    def withdrawn(self, project: int) -> set[int]:
        """Tasks of a project that were withdrawn, so that they are not taken again."""
        mine = (_projects.c.server == self.server) & (_projects.c.project == project)
        with self._database.transaction() as connection:
            return set(connection.scalar(sa.select(_projects.c.withdrawn).where(mine)) or ())

    def set_withdrawn(self, project: int, task: int) -> None:
        mine = (_projects.c.server == self.server) & (_projects.c.project == project)
        with self._database.transaction() as connection:
            known = connection.scalar(sa.select(_projects.c.withdrawn).where(mine))
            if known is not None:
                now = sorted({*known, task})
                connection.execute(sa.update(_projects).where(mine).values(withdrawn=now))

    # -- leases

    @contextmanager
    def leased(self, task: int) -> Iterator[bool]:
        """Hold a task alone; False where another agent holds it.

        A thread renews the lease for as long as the block runs, so that long training does not
        lose it, and a dead process does.
        """
        if not self._acquire(task):
            yield False
            return
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(LEASE_SECONDS / 4):
                with suppress(HvsaError):  # a full disk, say; the work itself will tell
                    self._renew(task)

        renewing = threading.Thread(target=renew, name=f"lease-{task}", daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            ended.set()
            renewing.join()
            mine = (_leases.c.owner == self.owner) & self._is(_leases, task)
            with suppress(HvsaError), self._database.transaction() as connection:
                connection.execute(sa.delete(_leases).where(mine))

    def lease(self, task: int) -> Lease | None:
        """Who works on a task now."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(_leases).where(self._is(_leases, task))).first()
        if row is None or row.expires <= self._clock():
            return None
        return Lease(row.owner, row.expires)

    def _acquire(self, task: int) -> bool:
        now = self._clock()
        with self._database.transaction() as connection:
            held = connection.execute(sa.select(_leases).where(self._is(_leases, task))).first()
            if held is not None and held.expires > now:
                return False
            connection.execute(sa.delete(_leases).where(self._is(_leases, task)))
            row = {
                "server": self.server,
                "task": task,
                "owner": self.owner,
                "expires": now + LEASE_SECONDS,
            }
            connection.execute(sa.insert(_leases), row)
        return True

    def _renew(self, task: int) -> None:
        mine = (_leases.c.owner == self.owner) & self._is(_leases, task)
        expires = self._clock() + LEASE_SECONDS
        with self._database.transaction() as connection:
            connection.execute(sa.update(_leases).where(mine).values(expires=expires))

    def _is(self, table: sa.Table, task: int) -> sa.ColumnElement[bool]:
        return (table.c.server == self.server) & (table.c.task == task)


def _care(row: sa.Row[Any]) -> Care:
    return Care(
        row.task,
        row.care,
        tuple((int(i), str(n)) for i, n in row.classes),
        CareOptions.model_validate(row.options),
        row.error,
    )
