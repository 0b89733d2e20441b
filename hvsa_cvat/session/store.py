"""What a run leaves behind: its session in SQL, its artefacts as files, under one locked folder."""

from __future__ import annotations

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import sqlalchemy as sa

from hvsa_cvat.database import (
    Place,
    Tables,
    Where,
    is_present,
    names_below,
    open_database,
    place_of,
    read_only,
    stamps,
)
from hvsa_cvat.errors import HvsaError, SessionError
from hvsa_cvat.files import make_folder, remove_partial
from hvsa_cvat.objects import Objects, objects_of
from hvsa_cvat.session.artefacts import RoundFiles, VideoFiles
from hvsa_cvat.session.checksums import Checksums, file_checksum, is_local
from hvsa_cvat.session.kept import KeptFiles
from hvsa_cvat.session.rounds import Json, Session

SCHEMA_VERSION = 2
"""1 had no checksums."""

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

_TABLES = Tables(
    "session.db", _metadata, SCHEMA_VERSION, "a session", version_table="schema_version"
)

_CLOSED = "closed"
"""What the lock file says while nobody works in the folder and nobody was killed there."""


class Store:
    """The folder of one run, held alone until it is closed. Use it in a `with` statement."""

    def __init__(self, where: Where) -> None:
        self.place = place_of(where)
        self.root = root = self.place.folder
        self.database = root / _TABLES.file
        with ExitStack() as opening:
            closed_well = opening.enter_context(_locked(root))
            if (root / "rounds").exists() and not _is_begun(self.place):
                raise SessionError(
                    f"{self.place.told(_TABLES.file)} is missing or empty, but {root} holds "
                    "rounds; restore it from a copy or choose another folder"
                )
            self._database = open_database(self.place, _TABLES)
            if not closed_well:
                remove_partial(root)
            self._kept = KeptFiles.of(self.place)
            with self._database.transaction() as connection:
                recorded = _recorded(connection)
            if self._kept is not None:
                recorded = self._kept.with_local(recorded)
            self.checksums = Checksums(root, recorded, self._expect, _elsewhere(self.place))
            self._resources = opening.pop_all()

    @staticmethod
    def peek(where: Where) -> Session | None:
        """The session of a place, read without holding the folder: whoever works there
        goes on. None where there is none."""
        if not is_present(where, _TABLES):
            return None
        with read_only(where, _TABLES) as connection:
            return _load(connection, place_of(where).told(_TABLES.file))

    @staticmethod
    def peek_round(where: Where, number: int) -> RoundFiles:
        """The files of a round, to be read without holding the folder."""
        return RoundFiles(place_of(where).folder, number, Store.peek_checksums(where))

    @staticmethod
    def peek_checksums(where: Where, *like: str) -> Checksums:
        """What the files must contain whose names match a pattern of SQL, or all, and where they
        are; to be read without holding the folder."""
        place, recorded = place_of(where), dict[str, set[str]]()
        if is_present(where, _TABLES):
            with read_only(where, _TABLES) as connection:
                if sa.inspect(connection).has_table(_artefacts.name):
                    recorded = _recorded(connection, *like)
        return Checksums(place.folder, recorded, elsewhere=_elsewhere(place))

    @staticmethod
    def peek_records(where: Where) -> tuple[Session, RoundFiles] | None:
        """The session of a place, and the files of its current round, of which the
        records alone may be read: the checksums of masks are not looked up, because a long video
        has tens of thousands."""
        if not is_present(where, _TABLES):
            return None
        place = place_of(where)
        with read_only(where, _TABLES) as connection:
            session = _load(connection, place.told(_TABLES.file))
            present = sa.inspect(connection).has_table(_artefacts.name)
            recorded = _recorded(connection, f"%{_RECORD}") if present else {}
        if session is None:
            return None
        checksums = Checksums(place.folder, recorded, elsewhere=_elsewhere(place))
        return session, RoundFiles(place.folder, session.current.number, checksums)

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
        rows, gone = self._uploaded()
        with self._database.transaction() as connection:
            present = connection.scalar(sa.select(_sessions.c.id))
            if present is not None:
                raise SessionError(
                    f"{self.root} already holds session {present!r}; resume it or choose "
                    "another folder"
                )
            connection.execute(sa.insert(_sessions), _head(session))
            _write_rounds(connection, session)
            _write_checksums(connection, rows, gone)
        self.checksums.settle(gone)

    def save(self, session: Session) -> None:
        """Replace what is stored of `session`, and record the checksums of the files that were
        written since: as a whole or not at all. Where there is a bucket, they are in it before."""
        rows, gone = self._uploaded()

        def write(connection: sa.Connection) -> None:
            mine = sa.update(_sessions).where(_sessions.c.id == session.id)
            if connection.execute(mine.values(_head(session))).rowcount == 0:
                raise SessionError(
                    f"{self.root} does not hold session {session.id!r}; choose its own folder"
                )
            connection.execute(sa.delete(_rounds).where(_rounds.c.session == session.id))
            _write_rounds(connection, session)
            _write_checksums(connection, rows, gone)

        self._database.run(write)
        self.checksums.settle(gone)

    def save_checksums(self) -> None:
        """Record the checksums of files that were written outside the phases."""
        if self.checksums.written:
            rows, gone = self._uploaded()
            self._database.run(lambda c: _write_checksums(c, rows, gone))
            self.checksums.settle(gone)

    def keep(self, folder: Path) -> None:
        """Put the files below a folder that the caller has written, or the file itself, into the
        bucket, where there is one; what is gone here is gone there. A file that was kept already
        is not looked at, unless it is named itself."""
        if self._kept is not None:
            if folder.is_file():
                self.checksums.note(folder)
            gone = self._kept.note_new(self.checksums, folder)
            rows, replaced = self._uploaded()
            if rows or gone:
                every = (*gone, *replaced)
                self._database.run(lambda c: _write_checksums(c, rows, every))
                self.checksums.settle(every)

    def bring(self, folder: Path) -> None:
        """Fetch the files below a folder, or the file itself, that other machines have kept and
        that are not here; nothing without a bucket."""
        self.checksums.bring(folder)

    def drop(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Record files no longer; the caller removes them then. Names and checksums of what was
        recorded."""
        found = [(name, one) for name in names for one in self.checksums.of(name)]
        rows, replaced = self._uploaded()
        every = (*names, *replaced)
        self._database.run(lambda c: _write_checksums(c, rows, every))
        self.checksums.settle(every)
        return found

    def keep_all(self) -> None:
        """Put every file of the session that other machines need into the bucket, as when the
        files were in the folder only until now."""
        if self._kept is not None:
            self._kept.note_all(self.checksums)
            rows, replaced = self._uploaded()
            self._database.run(lambda c: _write_checksums(c, rows, replaced))
            self.checksums.settle(replaced)

    def load(self) -> Session | None:
        """The session as it was saved last, or None in a new folder."""
        with self._database.transaction() as connection:
            return _load(connection, self.place.told(_TABLES.file))

    def check_held(self) -> None:
        """`LeaseLostError` where another agent has taken the task since."""
        if self.place.database is not None and self.place.fence is not None:
            with self._database.transaction():
                pass

    def _uploaded(self) -> tuple[dict[str, str], Sequence[str]]:
        """Upload what was written since, where there is a bucket. Names and checksums to record,
        and names that are no longer needed."""
        if self._kept is None:
            return dict(self.checksums.written), ()
        self._kept.note_new(self.checksums, self.video.segments)
        return self._kept.upload(self.checksums)

    def _expect(self, name: str, checksum: str) -> None:
        if self._kept is not None and is_local(name):
            return
        with self._database.transaction() as connection:
            row = {"path": name, "checksum": checksum}
            connection.execute(sa.insert(_artefacts), row)


def session_places(folder: Place) -> list[Place]:
    """The places below a folder that hold sessions."""
    if folder.database is None:
        found = sorted(path.parent for path in folder.folder.glob(f"*/{_TABLES.file}"))
        return [folder / path.name for path in found]
    names = names_below(folder, _TABLES, _sessions)
    return [folder / name.rpartition("/")[2] for name in names]


def session_stamps(places: Sequence[Where]) -> list[tuple[int, ...]]:
    """For each session another tuple after each change; cheap for many sessions."""
    return stamps(places, _TABLES)


def _load(connection: sa.Connection, database: str) -> Session | None:
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


def _recorded(connection: sa.Connection, *like: str) -> dict[str, set[str]]:
    recorded = defaultdict[str, set[str]](set)
    matching = sa.or_(*(_artefacts.c.path.like(one) for one in like or ("%",)))
    for row in connection.execute(sa.select(_artefacts).where(matching)):
        recorded[row.path].add(row.checksum)
    return dict(recorded)


def _write_checksums(
    connection: sa.Connection, written: dict[str, str], gone: Sequence[str] = ()
) -> None:
    """Record what is `written`, in place of what was; `gone` are recorded no longer."""
    if gone:
        forgotten = sa.delete(_artefacts).where(_artefacts.c.path == sa.bindparam("name"))
        connection.execute(forgotten, [{"name": name} for name in gone])
    if not written:
        return
    rows = [{"path": name, "checksum": checksum} for name, checksum in written.items()]
    replaced = sa.delete(_artefacts).where(_artefacts.c.path == sa.bindparam("name"))
    connection.execute(replaced, [{"name": name} for name in written])
    connection.execute(sa.insert(_artefacts), rows)


def _elsewhere(place: Place) -> Objects | None:
    return objects_of(place, file_checksum)


def _is_begun(where: Where) -> bool:
    """Whether a session, or in a file the beginning of one, is there."""
    if place_of(where).database is None:
        return is_present(where, _TABLES)
    return Store.peek(where) is not None


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
