"""The tables and views in PostgreSQL, made from those that SQLite has."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from hvsa_cvat.database.place import Place
from hvsa_cvat.database.tables import Tables
from hvsa_cvat.errors import SessionError


def tables_schema(tables: Tables) -> str:
    """Where the rows of all places are."""
    return f"hvsa_{PurePath(tables.file).stem}"


def views_schema(tables: Tables) -> str:
    """Where the rows of one place are shown."""
    return f"{tables_schema(tables)}_here"


def make_tables(connection: sa.Connection, place: Place, tables: Tables) -> None:
    """Make what is missing, and upgrade what is of an older version."""
    schema, views = tables_schema(tables), views_schema(tables)
    # one process at a time, whatever places they are about
    lock = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")
    connection.execute(lock, {"key": schema})
    version = f"{schema}.{tables.version_table}"
    present = connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": version})
    known = connection.scalar(sa.text(f"SELECT version FROM {version}")) if present else None
    if known is not None and known > tables.version:
        raise SessionError(tables.newer(place.told(tables.file), known))
    if known == tables.version:
        return
    connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {views} CASCADE"))
    connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
    if known is not None:
        setting = sa.text("SELECT set_config('search_path', :schema, true)")
        connection.execute(setting, {"schema": schema})
        for old in range(known, tables.version):
            if old in tables.upgrades:
                tables.upgrades[old](connection)
    metadata = sa.MetaData(schema=schema)
    data = [t for t in tables.metadata.sorted_tables if t.name != tables.version_table]
    kept = [_with_place(table, metadata) for table in data]
    versions = sa.Table(tables.version_table, metadata, sa.Column("version", sa.Integer))
    sa.Table(
        "stamps",
        metadata,
        sa.Column("place", sa.Text, primary_key=True),
        sa.Column("stamp", sa.BigInteger, nullable=False),
    )
    metadata.create_all(connection)
    connection.execute(sa.text(f"CREATE SCHEMA {views}"))
    quote = connection.dialect.identifier_preparer.quote
    for table in (*kept, versions):
        names = ", ".join(quote(c.name) for c in table.columns if c.name != "place")
        mine = "" if table is versions else " WHERE place = current_setting('hvsa.place')"
        connection.execute(
            sa.text(
                f"CREATE VIEW {views}.{quote(table.name)} AS "
                f"SELECT {names} FROM {schema}.{quote(table.name)}{mine}"
            )
        )
    connection.execute(sa.delete(versions))
    connection.execute(sa.insert(versions), {"version": tables.version})


def _with_place(table: sa.Table, metadata: sa.MetaData) -> sa.Table:
    """The same table for the rows of all places. A row that is inserted through the view gets the
    place of its transaction."""
    here = sa.text("current_setting('hvsa.place')")
    place = sa.Column("place", sa.Text, primary_key=True, server_default=here)
    columns: list[sa.Column[Any]] = [
        sa.Column(
            column.name,
            _wide(column.type),
            primary_key=column.primary_key,
            nullable=column.nullable,
            autoincrement=column.autoincrement is True,
        )
        for column in table.columns
    ]
    indexes = [
        sa.Index(str(index.name), "place", *(column.name for column in index.columns))
        for index in table.indexes
    ]
    return sa.Table(table.name, metadata, place, *columns, *indexes)


def _wide(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """SQLite keeps integers of 64 bits and texts of any length, whatever their declared size."""
    if isinstance(kind, sa.Integer):
        return sa.BigInteger()
    return sa.Text() if isinstance(kind, sa.String) else kind
