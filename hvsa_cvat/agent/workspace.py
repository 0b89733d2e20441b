"""The agent's memory: which tasks are enrolled and how, and which agent works on which task now.

SQL in `workspace.db`, or in PostgreSQL. Each task has a place of its own below `tasks/`, with its
session, the files of its rounds and what the CVAT rooms remember. Agents lease tasks, so that
several of them can share a workspace; a lease that is not renewed ends by itself.
"""

from __future__ import annotations

import glob
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.agent.events import Event, Events
from hvsa_cvat.agent.looks import Looks
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.outbox import Outbox
from hvsa_cvat.agent.pauses import Pauses
from hvsa_cvat.agent.steps import Steps
from hvsa_cvat.agent.wishes import Wishes
from hvsa_cvat.database import (
    Fence,
    Place,
    Where,
    open_database,
    place_of,
    shared_time,
)
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.objects import claim
from hvsa_cvat.session.store import session_places

_TASKS = "tasks"

LEASE_SECONDS = 60.0
"""An agent that gives no sign of life for this long loses its task."""

_tasks, _projects = tables.tasks, tables.projects
_leases, _fences = tables.leases, tables.fences


@dataclass(frozen=True)
class Enrollment:
    """An enrolled task."""

    task: int
    key: str
    """Tells this enrollment from earlier ones of the same task."""
    classes: tuple[tuple[int, str], ...]
    """Label id and name of each class when the task was enrolled, in class order."""
    options: EnrollOptions
    error: str | None
    """Why the last pass stopped, in one line."""


@dataclass(frozen=True)
class Lease:
    """Which agent works on a task."""

    owner: str
    expires: float
    """Seconds of the workspace's clock."""


class HeldLease:
    """A lease of ours."""

    def __init__(self, fence: Fence | None = None) -> None:
        self.fence = fence
        """Proves to PostgreSQL that the lease is still ours."""
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether another agent has taken the task over; nothing more may be written for it."""
        return self._lost.is_set()

    def lose(self) -> None:
        """Say that another agent has the task now."""
        self._lost.set()


class Workspace:
    """The enrolled tasks of one server. Safe to use from several processes."""

    def __init__(
        self,
        where: Where,
        server: str,
        owner: str,
        clock: Callable[[], float],
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """`server` is the key of the server, `owner` the name of this agent; what comes before
        its first colon stands in the log of what was done.

        `clock` gives seconds since 1970. The agents of a workspace in files share it; leases in
        PostgreSQL go by the clock of the database. A lease that is not renewed for `lease_seconds`
        ends; the agents of a workspace agree on that.
        """
        self.place = place_of(where)
        self.root = self.place.folder
        self.server = server
        self.owner = owner
        self.database = self.root / tables.TABLES.file
        self._clock = clock
        self._lease_seconds = lease_seconds
        claim(self.place)
        self._database = open_database(self.place, tables.TABLES)
        self.events = Events(self._database, server, owner.partition(":")[0], clock)
        """What was done with the tasks."""
        self.pauses = Pauses(self._database, server, self.events, clock)
        self.wishes = Wishes(self._database, server, self.events, clock)
        self.outbox = Outbox(self._database, server, clock)
        self.looks = Looks(self._database, server, clock)
        """What was found of the open jobs."""
        self.steps = Steps(self._database, server, clock)
        """What is computed now."""

    def folder(self, enrollment: Enrollment) -> Path:
        """Where the files of an enrollment are."""
        return self.session_place(enrollment).folder

    def session_place(self, enrollment: Enrollment, lease: HeldLease | None = None) -> Place:
        """Where the session of an enrollment is; to write there, under a lease of the task."""
        place = enrollment_place(self.place, self.server, enrollment)
        return place if lease is None else replace(place, fence=lease.fence)

    def earlier_places(self, task: int, lease: HeldLease | None = None) -> list[Place]:
        """The places of those enrollments of a task that have ended."""
        enrollment = self.enrollment(task)
        present = None if enrollment is None else self.session_place(enrollment)
        found = enrollment_places(self.place, self.server, task)
        fence = None if lease is None else lease.fence
        return [replace(place, fence=fence) for place in found if place != present]

    # -- tasks

    def enrollments(self) -> list[Enrollment]:
        """All enrolled tasks, by number."""
        query = sa.select(_tasks).where(_tasks.c.server == self.server).order_by(_tasks.c.task)
        with self._database.transaction() as connection:
            return [enrollment_of(row) for row in connection.execute(query)]

    def enrollment(self, task: int) -> Enrollment | None:
        """The enrollment of a task; None where it is not enrolled."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(_tasks).where(self._is(_tasks, task))).first()
        return None if row is None else enrollment_of(row)

    def add_task(
        self, task: int, key: str, classes: Sequence[tuple[int, str]], options: EnrollOptions
    ) -> Enrollment:
        """Remember that a task is enrolled."""
        row = {
            "server": self.server,
            "task": task,
            "enrollment": key,
            "classes": [list(pair) for pair in classes],
            "options": options.model_dump(mode="json"),
        }
        with self._database.transaction() as connection:
            if connection.execute(sa.select(_tasks.c.task).where(self._is(_tasks, task))).first():
                raise ConfigError(
                    f"task {task} is enrolled already; see `hvsa-agent status`, or withdraw it "
                    f"first: `hvsa-agent withdraw {task}`"
                )
            connection.execute(sa.insert(_tasks), row)
            detail = {"options": options.model_dump(mode="json", exclude_defaults=True)}
            event = self.events.row(task, Event.ENROLLED, key, detail=detail)
            connection.execute(sa.insert(tables.events), event)
        return Enrollment(task, key, tuple((i, n) for i, n in classes), options, None)

    def remove_task(self, task: int, who: str | None = None, **detail: Any) -> None:
        """Forget that a task is enrolled; its folder stays. `detail` is kept in the log."""
        with self._database.transaction() as connection:
            mine = self._is(_tasks, task)
            key = connection.scalar(sa.select(_tasks.c.enrollment).where(mine))
            for table in (_tasks, tables.pauses, tables.wishes, tables.looks):
                connection.execute(sa.delete(table).where(self._is(table, task)))
            event = self.events.row(task, Event.WITHDRAWN, key, who=who, detail=detail)
            connection.execute(sa.insert(tables.events), event)

    def set_error(self, task: int, error: str | None) -> None:
        """Remember why the last pass over a task stopped; None where it did not."""
        mine = self._is(_tasks, task)
        with self._database.transaction() as connection:
            columns = (_tasks.c.enrollment, _tasks.c.error)
            row = connection.execute(sa.select(*columns).where(mine)).first()
            if row is None or row.error == error:
                return
            connection.execute(sa.update(_tasks).where(mine).values(error=error))
            if (row.error is None) == (error is None):
                return  # other words for what is wrong, such as another number of free bytes
            what = Event.GOES_ON if error is None else Event.STOPPED
            detail = {} if error is None else {"error": error}
            event = self.events.row(task, what, row.enrollment, detail=detail)
            connection.execute(sa.insert(tables.events), event)

    # -- projects whose new tasks are enrolled by themselves

    def projects(self) -> dict[int, dict[str, Any]]:
        """The options given for each project."""
        query = sa.select(_projects).where(_projects.c.server == self.server)
        with self._database.transaction() as connection:
            return {row.project: row.options for row in connection.execute(query)}

    def add_project(self, project: int, options: dict[str, Any]) -> None:
        """Enroll a project, or give it other options for its future tasks."""
        mine = (_projects.c.server == self.server) & (_projects.c.project == project)
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_projects).where(mine))
            connection.execute(
                sa.insert(_projects),
                {"server": self.server, "project": project, "options": options, "withdrawn": []},
            )

    def remove_project(self, project: int) -> bool:
        """Enroll no further tasks of a project. Returns whether it was enrolled."""
        mine = (_projects.c.server == self.server) & (_projects.c.project == project)
        with self._database.transaction() as connection:
            return connection.execute(sa.delete(_projects).where(mine)).rowcount > 0

    def withdrawn(self, project: int) -> set[int]:
        """Tasks of a project that were withdrawn and must not be enrolled by themselves."""
        mine = (_projects.c.server == self.server) & (_projects.c.project == project)
        with self._database.transaction() as connection:
            return set(connection.scalar(sa.select(_projects.c.withdrawn).where(mine)) or ())

    def set_withdrawn(self, project: int, task: int) -> None:
        """Remember that a task of a project was withdrawn."""
        mine = (_projects.c.server == self.server) & (_projects.c.project == project)
        with self._database.transaction() as connection:
            known = connection.scalar(sa.select(_projects.c.withdrawn).where(mine))
            if known is not None:
                now = sorted({*known, task})
                connection.execute(sa.update(_projects).where(mine).values(withdrawn=now))

    # -- leases

    @contextmanager
    def leased(self, task: int) -> Iterator[HeldLease | None]:
        """Hold a task alone; None where another agent holds it.

        A thread renews the lease while the block runs, so that long training keeps it. The lease
        of a process that dies ends by itself.
        """
        fence = self._acquire(task)
        if fence is None:
            yield None
            return
        held, ended = HeldLease(fence), threading.Event()

        def renew() -> None:
            while not ended.wait(self._lease_seconds / 4):
                with suppress(HvsaError):  # such as a full disk; the work meets it too
                    if not self._renew(task):
                        held.lose()

        thread = threading.Thread(target=renew, name=f"lease-{task}", daemon=True)
        thread.start()
        try:
            yield held
        finally:
            ended.set()
            thread.join()
            mine = (_leases.c.owner == self.owner) & self._is(_leases, task)
            with suppress(HvsaError), self._database.transaction() as connection:
                if connection.execute(sa.delete(_leases).where(mine)).rowcount:
                    self.steps.forget(task, connection)

    def lease(self, task: int) -> Lease | None:
        """Which agent works on a task now."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(_leases).where(self._is(_leases, task))).first()
            now = shared_time(connection, self._clock)
        if row is None or not runs(row.expires, now, self._lease_seconds):
            return None
        return Lease(row.owner, row.expires)

    def _acquire(self, task: int) -> Fence | None:
        """None where another agent holds the task."""
        with self._database.transaction() as connection:
            held = connection.execute(sa.select(_leases).where(self._is(_leases, task))).first()
            now = shared_time(connection, self._clock)
            if held is not None and runs(held.expires, now, self._lease_seconds):
                return None
            connection.execute(sa.delete(_leases).where(self._is(_leases, task)))
            key = {"server": self.server, "task": task}
            row = {**key, "owner": self.owner, "expires": now + self._lease_seconds}
            connection.execute(sa.insert(_leases), row)
            mine = self._is(_fences, task)
            # whoever held the task before finds another token before its next write
            if not connection.execute(
                sa.update(_fences).where(mine).values(token=_fences.c.token + 1)
            ).rowcount:
                connection.execute(sa.insert(_fences), {**key, "token": 1})
            token = connection.execute(sa.select(_fences.c.token).where(mine)).scalar_one()
        return Fence(self.server, task, token)

    def _renew(self, task: int) -> bool:
        """Whether the task is still ours."""
        mine = (_leases.c.owner == self.owner) & self._is(_leases, task)
        with self._database.transaction() as connection:
            expires = shared_time(connection, self._clock) + self._lease_seconds
            update = sa.update(_leases).where(mine).values(expires=expires)
            return connection.execute(update).rowcount > 0

    def _is(self, table: sa.Table, task: int) -> sa.ColumnElement[bool]:
        return (table.c.server == self.server) & (table.c.task == task)


def enrollment_of(row: sa.Row[Any]) -> Enrollment:
    """The enrollment in a row of the table."""
    return Enrollment(
        row.task,
        row.enrollment,
        tuple((int(i), str(n)) for i, n in row.classes),
        EnrollOptions.model_validate(row.options),
        row.error,
    )


def enrollment_place(workspace: Where, server: str, enrollment: Enrollment) -> Place:
    """Where the session and the files of an enrollment are."""
    return place_of(workspace) / _TASKS / f"{_prefix(server, enrollment.task)}{enrollment.key}"


def enrollment_places(workspace: Where, server: str, task: int) -> list[Place]:
    """The places of all enrollments of a task, those that have ended, too."""
    tasks = place_of(workspace) / _TASKS
    if tasks.database is not None:  # the folders may be on other machines
        start = _prefix(server, task)
        return [one for one in session_places(tasks) if one.folder.name.startswith(start)]
    found = tasks.folder.glob(f"{glob.escape(_prefix(server, task))}*")
    return [tasks / folder.name for folder in sorted(found)]


def _prefix(server: str, task: int) -> str:
    return f"{server.replace(':', '_')}-{task}-"


def runs(expires: float, now: float, longest: float = LEASE_SECONDS) -> bool:
    """Whether a lease is still running.

    No lease is longer than `longest` seconds: one that ends later was written while the clock was
    wrong, and would lock the task for as long as the clock was ahead.
    """
    return 0 < expires - now <= longest
