"""What a run leaves behind: its session in SQL, its artefacts as files, under one locked folder."""

from __future__ import annotations

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import sqlalchemy as sa

from hvsa_cvat.database import Database, read_only
from hvsa_cvat.errors import HvsaError, SessionError
from hvsa_cvat.files import make_folder, remove_partial
from hvsa_cvat.session.artefacts import RoundFiles, VideoFiles
from hvsa_cvat.session.checksums import Checksums
from hvsa_cvat.session.rounds import Json, Session

SCHEMA_VERSION = 2
"""1 had no checksums."""

_HOLDS = "a session"

_RECORD = ".json"
"""How the names of records end."""

_metadata = sa.MetaData()

_sessions = sa.Table(
    "sessions",
    _metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("video", sa.Text, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("rounds_total", sa.Integer, nullable=False),
)

_rounds = sa.Table(
    "rounds",
    _metadata,
    sa.Column("session", sa.ForeignKey("sessions.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("phase", sa.String(20), nullable=False),
    sa.Column("queried", sa.JSON, nullable=False),
    sa.Column("expected_clicks", sa.Float),
    sa.Column("request", sa.Text),
    sa.Column("clicks", sa.Integer),
    sa.Column("seconds", sa.JSON, nullable=False),
)

_artefacts = sa.Table(
    "artefacts",
    _metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("checksum", sa.String(64), primary_key=True),  # two while a file is being replaced
)

_CLOSED = "closed"
"""What the lock file says while nobody works in the folder and nobody was killed there."""


class Store:
    """The folder of one run, held alone until it is closed. Use it in a `with` statement."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "session.db"
        with ExitStack() as opening:
            closed_well = opening.enter_context(_locked(root))
            if not _has_content(self.database) and (root / "rounds").exists():
                raise SessionError(
                    f"{self.database} is missing or empty, but {root} holds rounds; restore it "
                    "from a copy or choose another folder"
                )
            self._database = Database(
                self.database, _metadata, SCHEMA_VERSION, _HOLDS, version_table="schema_version"
            )
            if not closed_well:
                remove_partial(root)
            with self._database.transaction() as connection:
                self.checksums = Checksums(root, _recorded(connection), self._expect)
            self._resources = opening.pop_all()

    @staticmethod
    def peek(root: Path) -> Session | None:
        """The session that lies in `root`, read without holding the folder: whoever works there
        goes on. None in a folder without one."""
        database = root / "session.db"
        if not _has_content(database):
            return None
        with read_only(database, _HOLDS) as connection:
            return _load(connection, database)

    @staticmethod
    def peek_round(root: Path, number: int) -> RoundFiles:
        """The files of a round in `root`, to be read without holding the folder."""
        database, recorded = root / "session.db", dict[str, set[str]]()
        if _has_content(database):
            with read_only(database, _HOLDS) as connection:
                if sa.inspect(connection).has_table(_artefacts.name):
                    recorded = _recorded(connection)
        return RoundFiles(root, number, Checksums(root, recorded))

    @staticmethod
    def peek_records(root: Path) -> tuple[Session, RoundFiles] | None:
        """The session that lies in `root`, and the files of its current round, of which the
        records alone may be read: the checksums of masks are not looked up, because a long video
        has tens of thousands."""
        database = root / "session.db"
        if not _has_content(database):
            return None
        with read_only(database, _HOLDS) as connection:
            session = _load(connection, database)
            present = sa.inspect(connection).has_table(_artefacts.name)
            recorded = _recorded(connection, f"%{_RECORD}") if present else {}
        if session is None:
            return None
        return session, RoundFiles(root, session.current.number, Checksums(root, recorded))

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; safe to repeat."""
        self._resources.close()

    def path(self, *parts: str | int) -> Path:
        """A place in the folder that belongs to the caller, e.g. `path("cvat", "chunks")`."""
        return self.root.joinpath(*map(str, parts))

    @property
    def video(self) -> VideoFiles:
        return VideoFiles(self.root, self.checksums)

    def round(self, number: int) -> RoundFiles:
        return RoundFiles(self.root, number, self.checksums)

    def create(self, session: Session) -> None:
        """Begin `session` in this folder."""
        with self._database.transaction() as connection:
            present = connection.scalar(sa.select(_sessions.c.id))
            if present is not None:
                raise SessionError(
                    f"{self.root} already holds session {present!r}; resume it or choose "
                    "another folder"
                )
            connection.execute(sa.insert(_sessions), _head(session))
            _write_rounds(connection, session)

    def save(self, session: Session) -> None:
        """Replace what is stored of `session`, and record the checksums of the files that were
        written since: as a whole or not at all."""
        with self._database.transaction() as connection:
            mine = sa.update(_sessions).where(_sessions.c.id == session.id)
            if connection.execute(mine.values(_head(session))).rowcount == 0:
                raise SessionError(
                    f"{self.root} does not hold session {session.id!r}; choose its own folder"
                )
            connection.execute(sa.delete(_rounds).where(_rounds.c.session == session.id))
            _write_rounds(connection, session)
            _write_checksums(connection, self.checksums.written)
        self.checksums.settle()

    def save_checksums(self) -> None:
        """Record the checksums of files that were written outside the phases."""
        if self.checksums.written:
            with self._database.transaction() as connection:
                _write_checksums(connection, self.checksums.written)
            self.checksums.settle()

    def load(self) -> Session | None:
        """The session as it was saved last, or None in a new folder."""
        with self._database.transaction() as connection:
            return _load(connection, self.database)

    def _expect(self, name: str, checksum: str) -> None:
        with self._database.transaction() as connection:
            row = {"path": name, "checksum": checksum}
            connection.execute(sa.insert(_artefacts), row)


def database_stamp(root: Path, name: str = "session.db") -> tuple[int, ...]:
    """Sizes and times of a database in the folder of a session; another tuple after each change.
    It reads nothing, so it is cheap for many sessions."""
    found: list[int] = []
    for file in (name, f"{name}-wal"):
        try:
            told = (root / file).stat()
        except OSError:
            continue
        if told.st_size:
            found += (told.st_size, told.st_mtime_ns)
    return tuple(found)


def _load(connection: sa.Connection, database: Path) -> Session | None:
    head = connection.execute(sa.select(_sessions)).mappings().first()
    if head is None:
        return None
    columns = [c for c in _rounds.c if c is not _rounds.c.session]
    mine = sa.select(*columns).where(_rounds.c.session == head["id"])
    rounds = connection.execute(mine.order_by(_rounds.c.number)).mappings().all()
    try:
        return Session.from_json({**head, "rounds": rounds})
    except (KeyError, TypeError, ValueError, HvsaError) as error:
        raise SessionError(
            f"{database} does not hold a whole session ({error}); restore it from a copy or "
            "choose another folder"
        ) from error


def _head(session: Session) -> Json:
    """Everything but the rounds."""
    return {name: value for name, value in session.to_json().items() if name != "rounds"}


def _write_rounds(connection: sa.Connection, session: Session) -> None:
    rows = [{"session": session.id, **r.to_json()} for r in session.rounds]
    connection.execute(sa.insert(_rounds), rows)


def _recorded(connection: sa.Connection, like: str = "%") -> dict[str, set[str]]:
    recorded = defaultdict[str, set[str]](set)
    for row in connection.execute(sa.select(_artefacts).where(_artefacts.c.path.like(like))):
        recorded[row.path].add(row.checksum)
    return dict(recorded)


def _write_checksums(connection: sa.Connection, written: dict[str, str]) -> None:
    if not written:
        return
    rows = [{"path": name, "checksum": checksum} for name, checksum in written.items()]
    replaced = sa.delete(_artefacts).where(_artefacts.c.path == sa.bindparam("name"))
    connection.execute(replaced, [{"name": name} for name in written])
    connection.execute(sa.insert(_artefacts), rows)


def _has_content(database: Path) -> bool:
    return database.exists() and database.stat().st_size > 0


@contextmanager
def _locked(root: Path) -> Iterator[bool]:
    """Hold the folder `root` alone; the lock goes with the process, whatever ends it.

    Yields whether the one who held it before closed it.
    """
    lock: IO[str]
    try:
        make_folder(root)
        lock = (root / ".lock").open("a+")
    except OSError as error:
        reason = error.strerror or str(error)
        raise SessionError(f"cannot use {root}: {reason}; choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SessionError(
                f"{root} is in use by another run; wait for it or choose another folder"
            ) from error
        lock.seek(0)
        closed_well = lock.read() == _CLOSED
        if closed_well:
            lock.truncate(0)
            os.fsync(lock.fileno())
        yield closed_well
        lock.write(_CLOSED)
