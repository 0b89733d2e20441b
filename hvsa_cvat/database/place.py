"""Where the rows and the files of a workspace or of a session are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from hvsa_cvat.errors import ConfigError, SessionError


@dataclass(frozen=True)
class Fence:
    """The right of one agent to write for a task, which ends when another agent takes the task."""

    server: str
    """Key of the server."""
    task: int
    token: int
    """Grows each time that an agent takes the task."""


class LeaseLostError(SessionError):
    """Another agent has taken the task: nothing more may be written for it here."""


@dataclass(frozen=True)
class Place:
    """A folder, and the rows that belong to it. It can be sent to other processes and machines."""

    folder: Path
    database: str | None = None
    """Address of a PostgreSQL database, without a password. None: the rows are in SQLite files in
    the folder."""
    name: str = "."
    """Tells the rows in PostgreSQL from those of other places: the path of the folder below that of
    the workspace."""
    fence: Fence | None = None
    """Held by whoever may write. None: nobody else can, or nothing is written."""
    artefacts: str | None = None
    """Address of the bucket in which files are kept beside the folder, which is a cache then. None:
    they are in the folder only."""

    def __truediv__(self, name: str) -> Place:
        """The place of a folder below this one."""
        below = name if self.name == "." else f"{self.name}/{name}"
        return replace(self, folder=self.folder / name, name=below)

    def told(self, file: str) -> str:
        """What to call the rows of `file` in messages."""
        if self.database is None:
            return str(self.folder / file)
        return f"{self.database} ({file.removesuffix('.db')} of {self.name})"


def checked_address(text: str) -> str:
    """The address of a PostgreSQL database, as `Place` has it; `ConfigError` for others."""
    shown = "postgresql+psycopg://user@host/name"
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ConfigError(f"database: this is no address of a database; write {shown}") from error
    if url.password is not None or {"password", "sslpassword"} & set(url.query):
        raise ConfigError(
            "database: the address holds a password; remove it there, and set PGPASSWORD in the "
            "environment"
        )
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigError(
            f"database: {url.drivername} is not supported; write {shown}, or leave `database` out "
            "to keep SQLite files in the workspace"
        )
    if not url.database:
        raise ConfigError(f"database: the address names no database; write {shown}")
    return url.set(drivername="postgresql+psycopg").render_as_string()


Where = Path | Place
"""A folder alone is a place whose rows are in SQLite files."""


def place_of(where: Where) -> Place:
    return where if isinstance(where, Place) else Place(where)
