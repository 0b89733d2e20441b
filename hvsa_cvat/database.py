"""A small SQL database in one file, with a version, in which several processes take turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.errors import SessionError

_WAIT = 30
"""Seconds for which processes wait for each other's short transactions."""


class Database:
    """The tables of `metadata` in the SQLite file `path`, made if they are not there."""

    def __init__(self, path: Path, metadata: sa.MetaData, version: int, holds: str) -> None:
        """`version` is that of the tables; `holds` says in errors what the file is."""
        self.path = path
        self._holds = holds
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SessionError(
                f"cannot use {path.parent}: {error.strerror}; choose another by --workspace"
            ) from error
        url = sa.URL.create("sqlite", database=str(path))
        # sqlite3 would begin and commit transactions where it likes
        arguments = {"timeout": _WAIT, "isolation_level": None}
        self._engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=arguments)
        sa.event.listen(self._engine, "begin", _begin)
        versions = sa.Table(
            "version", metadata, sa.Column("version", sa.Integer), extend_existing=True
        )
        with self.transaction() as connection:
            metadata.create_all(connection)
            known = connection.scalar(sa.select(versions.c.version))
            if known is None:
                connection.execute(sa.insert(versions), {"version": version})
            elif known > version:
                raise SessionError(
                    f"{path} has schema version {known}, this hvsa-agent knows up to {version}; "
                    "install the newer hvsa-agent that made it"
                )

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All or nothing; what the database refuses becomes a `SessionError` naming its file."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise SessionError(
                f"cannot use {self.path}: {error.orig}; free space or choose another folder by "
                "--workspace"
            ) from error
        except sa.exc.DatabaseError as error:
            raise SessionError(
                f"{self.path} is not {self._holds} ({error.orig}); restore it from a copy or "
                "choose another folder by --workspace"
            ) from error


def _begin(connection: sa.Connection) -> Any:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
