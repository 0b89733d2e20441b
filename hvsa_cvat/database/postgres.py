"""PostgreSQL: the tables of all places in one database, for agents on many machines.

A schema holds what is a file of SQLite for one place, such as `hvsa_session`. Its tables have one
column more, `place`. Statements never name it: they use the views in a second schema, which show
the rows of the place that the transaction is about, and give new rows this place. So one task costs
rows and no tables.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import sqlalchemy as sa

from hvsa_cvat.database.place import LeaseLostError, Place
from hvsa_cvat.database.postgres_schema import make_tables, tables_schema, views_schema
from hvsa_cvat.database.postgres_server import PostgresServer
from hvsa_cvat.database.tables import Tables
from hvsa_cvat.errors import SessionError

T = TypeVar("T")


_WAIT = "30s"
"""For which transactions about the same place wait for each other."""

_LONGEST = "60s"
"""After which PostgreSQL ends a transaction whose holder does nothing: its machine may be gone."""

_servers: dict[str, PostgresServer] = {}
_lock = threading.Lock()


def server_at(address: str) -> PostgresServer:
    """The connections of this process to the database at `address`."""
    with _lock:
        if address not in _servers:
            _servers[address] = PostgresServer(address)
        return _servers[address]


def close_all() -> None:
    """Close the connections of this process, and forget what is known of the databases."""
    with _lock:
        for server in _servers.values():
            server.close()
        _servers.clear()


class PostgresDatabase:
    """The tables of one place, made if they are not there."""

    def __init__(self, place: Place, tables: Tables) -> None:
        self._place = place
        self._tables = tables
        assert place.database is not None
        self._server = server_at(place.database)
        self._server.once(tables.file, lambda connection: make_tables(connection, place, tables))

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        with self._server.refusals(), self._ended(self._server.retried(self._begun)) as connection:
            yield connection

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        def once() -> T:
            with self._ended(self._begun()) as connection:
                return work(connection)

        with self._server.refusals():
            return self._server.retried(once)

    def _begun(self) -> sa.Connection:
        """A connection whose transaction is about our place, and the only one about it."""
        connection = self._server.connect()
        try:
            schema, table = tables_schema(self._tables), self._tables.version_table
            begin = sa.text(
                "SELECT set_config('search_path', :views, true), set_config('hvsa.place', :place, "
                "true), set_config('lock_timeout', :wait, true), "
                "set_config('idle_in_transaction_session_timeout', :longest, true), "
                "pg_advisory_xact_lock(hashtextextended(:key, 0)), "
                f"(SELECT version FROM {schema}.{table}) AS version"
            )
            views, place = views_schema(self._tables), self._place.name
            values = {"views": views, "place": place, "key": f"{schema} {place}"}
            row = connection.execute(begin, {**values, "wait": _WAIT, "longest": _LONGEST}).one()
            if row.version > self._tables.version:
                told = self._place.told(self._tables.file)
                raise SessionError(self._tables.newer(told, row.version))
            self._check_fence(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_fence(self, connection: sa.Connection) -> None:
        """Nobody can take the task before this transaction has ended."""
        fence = self._place.fence
        if fence is None:
            return
        query = sa.text(
            "SELECT token FROM hvsa_workspace.fences "
            "WHERE place = '.' AND server = :server AND task = :task FOR SHARE"
        )
        token = connection.scalar(query, {"server": fence.server, "task": fence.task})
        if token != fence.token:
            raise LeaseLostError(
                f"another agent has taken task {fence.task} over, so nothing was written; the next "
                "pass goes on if the task is free then"
            )

    @contextmanager
    def _ended(self, connection: sa.Connection) -> Iterator[sa.Connection]:
        """Commit a transaction, or roll it back after an error."""
        with connection:
            connection.info.pop("wrote", None)
            yield connection
            if connection.info.pop("wrote", False):
                changed = sa.text(
                    f"INSERT INTO {tables_schema(self._tables)}.stamps AS known (place, stamp) "
                    "VALUES (:place, 1) ON CONFLICT (place) DO UPDATE SET stamp = known.stamp + 1"
                )
                connection.execute(changed, {"place": self._place.name})
            sys.audit("hvsa_cvat.commit", self._place.told(self._tables.file))
            connection.commit()


@contextmanager
def reading(place: Place, tables: Tables) -> Iterator[sa.Connection]:
    """A connection that reads the rows of a place as they were when it began to."""
    assert place.database is not None
    server = server_at(place.database)

    def begun() -> sa.Connection:
        connection = server.connect()
        try:
            connection = connection.execution_options(
                postgresql_readonly=True, isolation_level="REPEATABLE READ"
            )
            begin = sa.text(
                "SELECT set_config('search_path', :views, true), set_config('hvsa.place', :place, "
                "true)"
            )
            connection.execute(begin, {"views": views_schema(tables), "place": place.name})
        except BaseException:
            connection.close()
            raise
        return connection

    with server.refusals(), server.retried(begun) as connection:
        yield connection


def stamps_of(address: str, names: Sequence[str], tables: Tables) -> list[tuple[int, ...]]:
    """How often the rows of each place have changed."""
    server = server_at(address)
    if not server.has(tables):
        return [() for _ in names]
    query = sa.text(
        f"SELECT place, stamp FROM {tables_schema(tables)}.stamps WHERE place = ANY(:names)"
    )
    found = {row.place: (row.stamp,) for row in server.rows(query, {"names": list(names)})}
    return [found.get(name, ()) for name in names]


def places_with(folder: Place, tables: Tables, table: str) -> list[str]:
    """The names of the places below `folder` that have rows in a table."""
    assert folder.database is not None
    if not server_at(folder.database).has(tables):
        return []
    query = sa.text(
        f"SELECT DISTINCT place FROM {tables_schema(tables)}.{table} "
        "WHERE starts_with(place, :start) ORDER BY place"
    )
    with reading(folder, tables) as connection:
        return list(connection.scalars(query, {"start": f"{folder.name}/"}))
