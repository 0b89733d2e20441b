"""Opening the tables of a place, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

import sqlalchemy as sa

from hvsa_cvat.database import sqlite
from hvsa_cvat.database.place import Place, Where, place_of
from hvsa_cvat.database.tables import Tables

T = TypeVar("T")


class Database(Protocol):
    """The tables of one place. Several processes take turns: one transaction after the other."""

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """All or nothing; what the database refuses becomes a `SessionError` that names it.
        `LeaseLostError`, and nothing is done, where another agent has taken the task of the place.

        The audit event `hvsa_cvat.commit` comes right before it is made to last.
        """

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` gives, called within a transaction. Where the connection to a server is lost
        meanwhile, it is called once more: `work` must be safe to repeat."""


def open_database(where: Where, tables: Tables) -> Database:
    """The tables, made if they are not there, and upgraded if they are of an older version."""
    place = place_of(where)
    if place.database is None:
        return sqlite.SqliteDatabase(place.folder / tables.file, tables)
    # SQLite's users have no driver for it
    from hvsa_cvat.database.postgres import PostgresDatabase

    return PostgresDatabase(place, tables)


@contextmanager
def read_only(where: Where, tables: Tables) -> Iterator[sa.Connection]:
    """A connection that makes nothing, writes nothing and waits for no writer.

    The tables may be of an older version.
    """
    place = place_of(where)
    with _reading(place, tables) as connection:
        yield connection


def _reading(place: Place, tables: Tables) -> AbstractContextManager[sa.Connection]:
    if place.database is None:
        return sqlite.read_only(place.folder / tables.file, tables)
    from hvsa_cvat.database.postgres import reading

    return reading(place, tables)


def is_present(where: Where, tables: Tables) -> bool:
    """Whether somebody has made the tables. In PostgreSQL one schema holds those of all places, so
    there may be no row of this place."""
    place = place_of(where)
    if place.database is None:
        return sqlite.is_present(place.folder / tables.file)
    from hvsa_cvat.database.postgres import server_at

    return server_at(place.database).has(tables)


def names_below(folder: Place, tables: Tables, table: sa.Table) -> list[str]:
    """The names of the places below one in PostgreSQL that have rows in a table."""
    from hvsa_cvat.database.postgres import places_with

    return places_with(folder, tables, table.name)


def stamps(places: Sequence[Where], tables: Tables) -> list[tuple[int, ...]]:
    """For each place another tuple after each change of its tables. The places are all of one
    workspace; PostgreSQL is asked once."""
    every = [place_of(place) for place in places]
    if not every or every[0].database is None:
        return [sqlite.stamp(place.folder / tables.file) for place in every]
    from hvsa_cvat.database.postgres import stamps_of

    return stamps_of(every[0].database, [place.name for place in every], tables)


def table_names(connection: sa.Connection) -> set[str]:
    """The tables that are there."""
    found = sa.inspect(connection)
    return {*found.get_table_names(), *found.get_view_names()}


def shared_time(connection: sa.Connection, clock: Callable[[], float]) -> float:
    """Seconds since 1970 by the clock that all who use the database share: that of a PostgreSQL
    server; for a file, the clock of this machine."""
    if connection.dialect.name != "postgresql":
        return clock()
    return float(
        connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    )
