"""What a run leaves behind: its session in SQL, its artefacts as files, under one locked folder."""

from __future__ import annotations

import fcntl
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from hvsa_cvat.errors import HvsaError, SessionError
from hvsa_cvat.files import atomic_write, remove_partial
from hvsa_cvat.selection.strategy import Pool
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.types import Answers, Clicks, FrameAnnotation, Packed, Sample

SCHEMA_VERSION = 1

_metadata = sa.MetaData()

_versions = sa.Table("schema_version", _metadata, sa.Column("version", sa.Integer, nullable=False))

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


_MEND = "restore it from a copy or start again in another folder"

# What numpy and zipfile raise for a damaged or foreign file; RuntimeError is how zipfile refuses
# flags that damage has set, TypeError what follows from a file that is no archive.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


class Store:
    """The folder of one run, held alone until it is closed. Use it in a `with` statement."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "session.db"
        with ExitStack() as opening:
            opening.enter_context(_locked(root))
            url = sa.URL.create("sqlite", database=str(self.database))
            self._engine = sa.create_engine(url, poolclass=sa.NullPool)
            sa.event.listen(self._engine, "connect", _leave_transactions_to_us)
            sa.event.listen(self._engine, "begin", _begin)
            opening.callback(self._engine.dispose)
            self._prepare()
            remove_partial(root)
            self._resources = opening.pop_all()

    @staticmethod
    def peek(root: Path) -> Session | None:
        """The session that lies in `root`, read without holding the folder: whoever works there
        goes on. None in a folder without one."""
        database = root / "session.db"
        if not database.exists():
            return None
        url = sa.URL.create(
            "sqlite", database=f"file:{database}", query={"mode": "ro", "uri": "true"}
        )
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        try:
            with _refusals(database), engine.connect() as connection:
                return _load(connection, database)
        finally:
            engine.dispose()

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
        """Where an artefact lies, e.g. `path("rounds", 2, "scores.npz")`."""
        return self.root.joinpath(*map(str, parts))

    def create(self, session: Session) -> None:
        """Begin `session` in this folder."""
        with self._transaction() as connection:
            present = connection.scalar(sa.select(_sessions.c.id))
            if present is not None:
                raise SessionError(
                    f"{self.root} already holds session {present!r}; resume it or choose "
                    "another folder"
                )
            head = {k: v for k, v in session.to_json().items() if k != "rounds"}
            connection.execute(sa.insert(_sessions), head)
            _write_rounds(connection, session)

    def save(self, session: Session) -> None:
        """Replace what is stored of the rounds of `session`, as a whole or not at all."""
        with self._transaction() as connection:
            known = sa.select(_sessions.c.id).where(_sessions.c.id == session.id)
            if connection.scalar(known) is None:
                raise SessionError(
                    f"{self.root} does not hold session {session.id!r}; choose its own folder"
                )
            connection.execute(sa.delete(_rounds).where(_rounds.c.session == session.id))
            _write_rounds(connection, session)

    def load(self) -> Session | None:
        """The session as it was saved last, or None in a new folder."""
        with self._transaction() as connection:
            return _load(connection, self.database)

    def save_answers(self, round_number: int, answers: Answers) -> None:
        """Keep the answers of a round in `rounds/K/answers.npz`."""
        _write_answers(self._answers(round_number), answers)

    def load_answers(self, round_number: int) -> Answers:
        return _read_answers(self._answers(round_number))

    def save_corrections(self, round_number: int, corrections: Answers) -> None:
        """Keep what people had drawn unasked when a round was answered, `rounds/K/corrections.npz`.

        Runs without any have no such file.
        """
        path = self._corrections(round_number)
        if corrections.annotations or path.exists():
            _write_answers(path, corrections)

    def load_corrections(self, round_number: int) -> Answers:
        path = self._corrections(round_number)
        return _read_answers(path) if path.exists() else Answers(())

    def save_scores(self, round_number: int, scores: Pool) -> None:
        """Keep what the network of a round says of all samples in `rounds/K/scores.npz`."""
        with atomic_write(self._scores(round_number)) as path:
            np.savez(
                path,
                frames=scores.frames,
                segments=scores.segments,
                uncertainty=scores.uncertainty,
                features=scores.features,
            )

    def load_scores(self, round_number: int) -> Pool:
        columns = ("frames", "segments", "uncertainty", "features")
        frames, segments, uncertainty, features = _read(self._scores(round_number), columns)
        return Pool(frames, segments, uncertainty, features)

    def _answers(self, round_number: int) -> Path:
        return self.path("rounds", round_number, "answers.npz")

    def _corrections(self, round_number: int) -> Path:
        return self.path("rounds", round_number, "corrections.npz")

    def _scores(self, round_number: int) -> Path:
        return self.path("rounds", round_number, "scores.npz")

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """All or nothing."""
        with _refusals(self.database), self._engine.begin() as connection:
            yield connection

    def _prepare(self) -> None:
        """Create the tables, or check that they are ours."""
        with self._transaction() as connection:
            present = set(sa.inspect(connection).get_table_names())
            if not present:
                _metadata.create_all(connection)
                connection.execute(sa.insert(_versions), {"version": SCHEMA_VERSION})
                return
            if not present >= set(_metadata.tables):
                raise SessionError(
                    f"{self.database} was not made by hvsa-agent; choose another folder"
                )
            version = connection.scalar(sa.select(_versions.c.version))
        if version is None or version > SCHEMA_VERSION:
            raise SessionError(
                f"{self.database} has schema version {version}, this hvsa-agent knows up to "
                f"{SCHEMA_VERSION}; install the newer hvsa-agent that made it"
            )


def _leave_transactions_to_us(connection: Any, record: object) -> None:
    # sqlite3 would commit each CREATE TABLE by itself, and a full disk leave some of them
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _refusals(database: Path) -> Iterator[None]:
    """What the database refuses becomes a `SessionError` naming its file."""
    try:
        yield
    except sa.exc.OperationalError as error:
        raise SessionError(
            f"cannot use {database}: {error.orig}; free space or choose another folder"
        ) from error
    except sa.exc.DatabaseError as error:
        raise SessionError(
            f"{database} is not a session ({error.orig}); restore it from a copy or "
            "choose another folder"
        ) from error


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


def _write_rounds(connection: sa.Connection, session: Session) -> None:
    rows = [{"session": session.id, **r.to_json()} for r in session.rounds]
    connection.execute(sa.insert(_rounds), rows)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the folder `root` alone; the lock goes with the process, whatever ends it."""
    lock: IO[str]
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("a")
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
        yield


def _read(path: Path, columns: tuple[str, ...]) -> list[NDArray[Any]]:
    """The named arrays of an npz file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return [archive[column] for column in columns]
    except FileNotFoundError as error:
        raise SessionError(f"{path} is missing; {_MEND}") from error
    except _UNREADABLE as error:
        raise SessionError(f"{path} is truncated or foreign; {_MEND}") from error


def _write_answers(path: Path, answers: Answers) -> None:
    packed = [a.packed for a in answers.annotations]
    segments = [s for a in answers.annotations for s in a.segments]
    clicks = [(s.frame, s.segment, c.boundary, c.classes) for s, c in answers.clicks.items()]
    with atomic_write(path) as temporary:
        np.savez(
            temporary,
            frames=np.array([a.frame for a in answers.annotations], np.int32),
            sizes=np.array([one.shape for one in packed], np.int32).reshape(-1, 2),
            # label maps, uint8, each deflated by itself
            packed=np.frombuffer(b"".join(one.content for one in packed), np.uint8),
            packed_bytes=np.array([len(one.content) for one in packed], np.int64),
            segments=np.array(segments, np.int32),
            segment_counts=np.array([len(a.segments) for a in answers.annotations], np.int64),
            clicks=np.array(clicks, np.int64).reshape(-1, 4),
        )


def _read_answers(path: Path) -> Answers:
    columns = ("frames", "sizes", "packed", "packed_bytes", "segments", "segment_counts", "clicks")
    frames, sizes, packed, lengths, segments, counts, clicks = _read(path, columns)
    parts = _split(segments, counts)
    label_maps = [
        Packed(tuple(size), np.dtype(np.uint8).str, content.tobytes())
        for size, content in zip(sizes.tolist(), _split(packed, lengths), strict=True)
    ]
    return Answers(
        tuple(
            FrameAnnotation(int(frame), tuple(part.tolist()), label_map)
            for frame, part, label_map in zip(frames, parts, label_maps, strict=True)
        ),
        {Sample(f, s): Clicks(boundary, classes) for f, s, boundary, classes in clicks.tolist()},
    )


def _split(joined: NDArray[Any], counts: NDArray[np.int64]) -> list[NDArray[Any]]:
    return np.split(joined, np.cumsum(counts)[:-1]) if len(counts) else []
