"""The agent's memory: which tasks are enrolled and how, and which agent works on which task now.

SQL in `workspace.db`. Each task has a folder of its own below `tasks/`, with its session, the files
of its rounds and what the CVAT rooms remember. Agents lease tasks, so that several of them can
share a workspace; a lease that is not renewed ends by itself.
"""

from __future__ import annotations

import glob
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.agent.events import Event, Events
from hvsa_cvat.agent.looks import Look, Looks, look_of
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.outbox import Outbox
from hvsa_cvat.agent.pauses import Pauses
from hvsa_cvat.agent.signs import Signs
from hvsa_cvat.agent.wishes import Wish, Wishes, wish_of
from hvsa_cvat.database import Database, read_only
from hvsa_cvat.errors import ConfigError, HvsaError, SessionError

_TASKS = "tasks"

LEASE_SECONDS = 60.0
"""An agent that gives no sign of life for this long loses its task."""

_tasks, _projects, _leases = tables.tasks, tables.projects, tables.leases


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

    def __init__(self) -> None:
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

    def __init__(self, root: Path, server: str, owner: str, clock: Callable[[], float]) -> None:
        """`server` is the key of the server, `owner` the name of this agent; what comes before
        its first colon stands in the log of what was done.

        `clock` gives seconds since 1970; the agents of a workspace share it.
        """
        self.root = root
        self.server = server
        self.owner = owner
        self.database = root / tables.FILE
        self._clock = clock
        self._database = Database(self.database, tables.metadata, tables.VERSION, tables.HOLDS)
        self.events = Events(self._database, server, owner.partition(":")[0], clock)
        """What was done with the tasks."""
        self.pauses = Pauses(self._database, server, self.events, clock)
        self.wishes = Wishes(self._database, server, self.events, clock)
        self.outbox = Outbox(self._database, server, clock)
        self.looks = Looks(self._database, server, self.events, clock)
        """What was found of the open jobs."""
        self.signs = Signs(self._database, server, owner, clock)
        """Which agents live."""

    def folder(self, enrollment: Enrollment) -> Path:
        """Where the session and the files of an enrollment are."""
        return enrollment_folder(self.root, self.server, enrollment)

    def earlier_folders(self, task: int) -> list[Path]:
        """The folders of those enrollments of a task that have ended."""
        enrollment = self.enrollment(task)
        present = None if enrollment is None else self.folder(enrollment)
        found = enrollment_folders(self.root, self.server, task)
        return [folder for folder in found if folder != present]

    # -- tasks

    def enrollments(self) -> list[Enrollment]:
        """All enrolled tasks, by number."""
        query = sa.select(_tasks).where(_tasks.c.server == self.server).order_by(_tasks.c.task)
        with self._database.transaction() as connection:
            return [_enrollment(row) for row in connection.execute(query)]

    def enrollment(self, task: int) -> Enrollment | None:
        """The enrollment of a task; None where it is not enrolled."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(_tasks).where(self._is(_tasks, task))).first()
        return None if row is None else _enrollment(row)

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
        if not self._acquire(task):
            yield None
            return
        held, ended = HeldLease(), threading.Event()

        def renew() -> None:
            while not ended.wait(LEASE_SECONDS / 4):
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
                connection.execute(sa.delete(_leases).where(mine))

    def lease(self, task: int) -> Lease | None:
        """Which agent works on a task now."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(_leases).where(self._is(_leases, task))).first()
        if row is None or not self._holds(row.expires):
            return None
        return Lease(row.owner, row.expires)

    def _holds(self, expires: float) -> bool:
        return _runs(expires, self._clock())

    def _acquire(self, task: int) -> bool:
        with self._database.transaction() as connection:
            held = connection.execute(sa.select(_leases).where(self._is(_leases, task))).first()
            if held is not None and self._holds(held.expires):
                return False
            connection.execute(sa.delete(_leases).where(self._is(_leases, task)))
            row = {
                "server": self.server,
                "task": task,
                "owner": self.owner,
                "expires": self._clock() + LEASE_SECONDS,
            }
            connection.execute(sa.insert(_leases), row)
        return True

    def _renew(self, task: int) -> bool:
        """Whether the task is still ours."""
        mine = (_leases.c.owner == self.owner) & self._is(_leases, task)
        expires = self._clock() + LEASE_SECONDS
        with self._database.transaction() as connection:
            update = sa.update(_leases).where(mine).values(expires=expires)
            return connection.execute(update).rowcount > 0

    def _is(self, table: sa.Table, task: int) -> sa.ColumnElement[bool]:
        return (table.c.server == self.server) & (table.c.task == task)


def _enrollment(row: sa.Row[Any]) -> Enrollment:
    return Enrollment(
        row.task,
        row.enrollment,
        tuple((int(i), str(n)) for i, n in row.classes),
        EnrollOptions.model_validate(row.options),
        row.error,
    )


@dataclass(frozen=True)
class Contents:
    """What a process that only looks reads of a workspace."""

    enrollments: tuple[Enrollment, ...] = ()
    """By number of the task."""
    owners: Mapping[int, str] = field(default_factory=dict)
    """The agent that works on a task now, by task."""
    paused: frozenset[int] = frozenset()
    wishes: Mapping[int, Wish] = field(default_factory=dict)
    """What the next pass is asked to do, by task."""
    looks: Mapping[int, Look] = field(default_factory=dict)
    """What was found of the open jobs, by task."""


def is_workspace(root: Path) -> bool:
    """Whether an agent has made a workspace there."""
    return (root / tables.FILE).exists()


def look_into(root: Path, server: str, now: float) -> Contents:
    """The enrolled tasks of a server. It makes no file, changes none and waits for no agent.

    `now`: seconds since 1970. `SessionError` where a newer hvsa-agent made the workspace.
    """
    if not is_workspace(root):
        return Contents()
    with read_only(root / tables.FILE, tables.HOLDS) as connection:
        version = connection.scalar(sa.text("SELECT version FROM version")) or 1
        if version > tables.VERSION:
            raise SessionError(
                f"{root / tables.FILE} has schema version {version}, this hvsa-agent knows up to "
                f"{tables.VERSION}; install the newer hvsa-agent that made it"
            )
        tasks = sa.select(_tasks).where(_tasks.c.server == server).order_by(_tasks.c.task)
        leases = sa.select(_leases).where(_leases.c.server == server)
        pauses = sa.select(tables.pauses).where(tables.pauses.c.server == server)
        wishes = sa.select(tables.wishes).where(tables.wishes.c.server == server)
        looks = sa.select(tables.looks).where(tables.looks.c.server == server)
        young = version > 1
        return Contents(
            tuple(_enrollment(row) for row in connection.execute(tasks)),
            {row.task: row.owner for row in connection.execute(leases) if _runs(row.expires, now)},
            frozenset(row.task for row in connection.execute(pauses)) if young else frozenset(),
            {row.task: wish_of(row) for row in connection.execute(wishes)} if young else {},
            {row.task: look_of(row) for row in connection.execute(looks)} if version > 2 else {},
        )


def enrollment_folder(root: Path, server: str, enrollment: Enrollment) -> Path:
    """Where the session and the files of an enrollment are, in the workspace `root`."""
    return root / _TASKS / f"{_prefix(server, enrollment.task)}{enrollment.key}"


def enrollment_folders(root: Path, server: str, task: int) -> list[Path]:
    """The folders of all enrollments of a task, those that have ended, too."""
    return sorted((root / _TASKS).glob(f"{glob.escape(_prefix(server, task))}*"))


def _prefix(server: str, task: int) -> str:
    return f"{server.replace(':', '_')}-{task}-"


def _runs(expires: float, now: float) -> bool:
    """Whether a lease is still running.

    No lease is longer than `LEASE_SECONDS`: one that ends later was written while the clock was
    wrong, and would lock the task for as long as the clock was ahead.
    """
    return 0 < expires - now <= LEASE_SECONDS
