"""SQLite: the tables in one file, in which several processes take turns."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from hvsa_cvat.database.tables import Tables
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import make_folder

T = TypeVar("T")

_WAIT = 30
"""Seconds for which processes wait for each other's short transactions."""


class SqliteDatabase:
    """The tables in the file `path`, made if they are not there."""

    def __init__(self, path: Path, tables: Tables) -> None:
        self.path = path
        self._holds = tables.holds
        try:
            make_folder(path.parent)
        except OSError as error:
            raise SessionError(
                f"cannot use {path.parent}: {error.strerror}; choose another folder"
            ) from error
        url = sa.URL.create("sqlite", database=str(path))
        # sqlite3 would begin and commit transactions where it likes
        arguments = {"timeout": _WAIT, "isolation_level": None}
        self._engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=arguments)
        sa.event.listen(self._engine, "begin", _begin)
        with self.transaction() as connection:
            self._prepare(connection, tables)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        with _refusals(self.path, self._holds), self._engine.begin() as connection:
            yield connection
            sys.audit("hvsa_cvat.commit", str(self.path))

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        with self.transaction() as connection:
            return work(connection)

    def _prepare(self, connection: sa.Connection, tables: Tables) -> None:
        versions = sa.Table(
            tables.version_table,
            tables.metadata,
            sa.Column("version", sa.Integer),
            extend_existing=True,
        )
        present = set(sa.inspect(connection).get_table_names())
        if present and versions.name not in present:
            raise SessionError(f"{self.path} was not made by hvsa-agent; choose another folder")
        known = tables.version
        if present:
            known = connection.scalar(sa.select(versions.c.version)) or 1
        if known > tables.version:
            raise SessionError(tables.newer(str(self.path), known))
        for old in range(known, tables.version):
            if old in tables.upgrades:
                tables.upgrades[old](connection)
        tables.metadata.create_all(connection)
        if not present or known < tables.version:
            connection.execute(sa.delete(versions))
            connection.execute(sa.insert(versions), {"version": tables.version})


_read_from: ContextVar[str] = ContextVar("read_from")
"""The address of the file that `_reader` opens next."""

# one for all files, because it keeps the statements that it has compiled
_reader = sa.create_engine(
    "sqlite://",
    creator=lambda: sqlite3.connect(_read_from.get(), uri=True, timeout=_WAIT),
    poolclass=sa.NullPool,
)


@contextmanager
def read_only(path: Path, tables: Tables) -> Iterator[sa.Connection]:
    # as a quoted URI: `?`, `#` and `%` in the path are not part of SQLite's options
    token = _read_from.set(f"{path.absolute().as_uri()}?mode=ro")
    with _refusals(path, tables.holds):
        try:
            opened = _reader.connect()
        finally:
            _read_from.reset(token)
        with opened as connection:
            yield connection


def is_present(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def stamp(path: Path) -> tuple[int, ...]:
    """Sizes and times of the file. It reads nothing, so it is cheap for many."""
    found: list[int] = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            told = file.stat()
        except OSError:
            continue
        if told.st_size:
            found += (told.st_size, told.st_mtime_ns)
    return tuple(found)


@contextmanager
def _refusals(path: Path, holds: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.OperationalError as error:
        raise SessionError(
            f"cannot use {path}: {error.orig}; free space or choose another folder"
        ) from error
    except sa.exc.DatabaseError as error:
        raise SessionError(
            f"{path} is not {holds} ({error.orig}); restore it from a copy or choose another folder"
        ) from error


def _begin(connection: sa.Connection) -> Any:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
