"""A small SQL database in one file, with a version, in which several processes take turns."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import make_folder

_WAIT = 30
"""Seconds for which processes wait for each other's short transactions."""

Upgrade = Callable[[sa.Connection], None]
"""Changes tables of one version to the next; tables that are missing are made afterwards."""


class Database:
    """The tables of `metadata` in the SQLite file `path`, made if they are not there."""

    def __init__(
        self,
        path: Path,
        metadata: sa.MetaData,
        version: int,
        holds: str,
        *,
        version_table: str = "version",
        upgrades: Mapping[int, Upgrade] | None = None,
    ) -> None:
        """`version` is that of the tables; `holds` says in errors what the file is.

        `upgrades[n]` leads from version n to n + 1; where there is none, the new version only adds
        tables.
        """
        self.path = path
        self._holds = holds
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
        versions = sa.Table(
            version_table, metadata, sa.Column("version", sa.Integer), extend_existing=True
        )
        with self.transaction() as connection:
            self._prepare(connection, metadata, versions, version, upgrades or {})

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All or nothing; what the database refuses becomes a `SessionError` naming its file.

        The audit event `hvsa_cvat.commit` comes right before it is made to last.
        """
        with _refusals(self.path, self._holds), self._engine.begin() as connection:
            yield connection
            sys.audit("hvsa_cvat.commit", str(self.path))

    def _prepare(
        self,
        connection: sa.Connection,
        metadata: sa.MetaData,
        versions: sa.Table,
        version: int,
        upgrades: Mapping[int, Upgrade],
    ) -> None:
        present = set(sa.inspect(connection).get_table_names())
        if present and versions.name not in present:
            raise SessionError(f"{self.path} was not made by hvsa-agent; choose another folder")
        known = version
        if present:
            known = connection.scalar(sa.select(versions.c.version)) or 1
        if known > version:
            raise SessionError(
                f"{self.path} has schema version {known}, this hvsa-agent knows up to {version}; "
                "install the newer hvsa-agent that made it"
            )
        for old in range(known, version):
            if old in upgrades:
                upgrades[old](connection)
        metadata.create_all(connection)
        if not present or known < version:
            connection.execute(sa.delete(versions))
            connection.execute(sa.insert(versions), {"version": version})


_read_from: ContextVar[str] = ContextVar("read_from")
"""The address of the file that `_reader` opens next."""

# one for all files, because it keeps the statements that it has compiled
_reader = sa.create_engine(
    "sqlite://",
    creator=lambda: sqlite3.connect(_read_from.get(), uri=True, timeout=_WAIT),
    poolclass=sa.NullPool,
)


@contextmanager
def read_only(path: Path, holds: str) -> Iterator[sa.Connection]:
    """A connection that makes no file, writes nothing and takes no lock beyond a single query.

    The tables may be of an older version.
    """
    # as a quoted URI: `?`, `#` and `%` in the path are not part of SQLite's options
    token = _read_from.set(f"{path.absolute().as_uri()}?mode=ro")
    with _refusals(path, holds):
        try:
            opened = _reader.connect()
        finally:
            _read_from.reset(token)
        with opened as connection:
            yield connection


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
