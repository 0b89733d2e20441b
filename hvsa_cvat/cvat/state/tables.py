"""The tables that are in `cvat.db` in SQLite, and how those of an older version become these."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from hvsa_cvat.database import Tables

VERSION = 3
"""Version 3 only adds tables: `work_times`, `log_refusals`, `job_marks` and `truth_jobs`."""

metadata = sa.MetaData()

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("key", sa.String(500), primary_key=True),
    sa.Column("content", sa.JSON, nullable=False),
)

collected_answers = sa.Table(
    "collected_answers",
    metadata,
    sa.Column("task", sa.Integer, primary_key=True),  # the child task
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("revised", sa.Boolean, nullable=False),
)

told = sa.Table(
    "told",
    metadata,
    sa.Column("task", sa.Integer, primary_key=True),  # the child task
    sa.Column("line", sa.Text, nullable=False),
)

readings = sa.Table(
    "readings",
    metadata,
    sa.Column("job", sa.Integer, primary_key=True),
    sa.Column("updated_date", sa.String(40), nullable=False),
    sa.Column("sent_back", sa.Boolean, nullable=False),
)

send_backs = sa.Table(
    "send_backs",
    metadata,
    sa.Column("job", sa.Integer, primary_key=True),
    sa.Column("updated_date", sa.String(40), nullable=False),
)

pushed = sa.Table(
    "pushed",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job", sa.Integer, nullable=False),
    sa.Column("frame", sa.Integer, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("shape", sa.BigInteger),  # NULL: the server's answer is not known
    sa.Index("pushed_shape", "job", "shape"),
)

published = sa.Table(
    "published",
    metadata,
    sa.Column("job", sa.Integer, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("reached", sa.Integer),  # the last frame so far; NULL: all of them
)

own_writes = sa.Table(
    "own_writes",
    metadata,
    sa.Column("job", sa.Integer, primary_key=True),
    sa.Column("updated_date", sa.String(40), nullable=False),
)

frames_in_use = sa.Table(
    "frames_in_use",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
)

first_label_ids = sa.Table(
    "first_label_ids",
    metadata,
    sa.Column("class_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("label", sa.Integer),  # NULL: the label was gone already
)

class_pixels = sa.Table(
    "class_pixels",
    metadata,
    sa.Column("class_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("pixels", sa.BigInteger, nullable=False),
)

class_colours = sa.Table(
    "class_colours",
    metadata,
    sa.Column("class_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("colour", sa.String(20), nullable=False),  # as the server has it: #rrggbb
)

project = sa.Table(
    "project",  # one row: that of the task
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text),
)

frame_files = sa.Table(
    "frame_files",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),  # as it was uploaded
)

work_times = sa.Table(
    "work_times",
    metadata,
    sa.Column("job", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("updated_date", sa.String(40), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("gaps", sa.Integer, nullable=False),
    sa.Column("pauses", sa.Integer, nullable=False),
    sa.Column("logged", sa.Float),  # NULL: the server's log does not tell
)

log_refusals = sa.Table(
    "log_refusals",
    metadata,
    sa.Column("reason", sa.Text, nullable=False),  # at most one row
)

job_marks = sa.Table(
    "job_marks",
    metadata,
    sa.Column("job", sa.Integer, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("right", sa.Float, nullable=False),
    sa.Column("marked", sa.Boolean, nullable=False),
    sa.Column("updated_date", sa.String(40)),  # NULL: the server's answer is not known
)

truth_jobs = sa.Table(
    "truth_jobs",
    metadata,
    sa.Column("job", sa.Integer, primary_key=True),
    sa.Column("ours", sa.Boolean, nullable=False),
    sa.Column("updated_date", sa.String(40)),  # NULL: it is not wholly made, or was never read
)


def upgrade_from_1(connection: sa.Connection) -> None:
    """Version 1 kept seven kinds of facts in one table of JSON values, by an English name."""
    old = sa.Table(
        "notes",
        sa.MetaData(),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("value", sa.JSON),
    )
    metadata.create_all(connection)
    for name, value in connection.execute(sa.select(old.c.name, old.c.value)).all():
        for pattern, table, rows_of in _NOTES:
            found = re.fullmatch(pattern, name)
            if found is not None and value is not None:
                number = int(found[1]) if found.groups() else 0
                rows = rows_of(number, value)
                if rows:
                    connection.execute(sa.insert(table), rows)
    old.drop(connection)


def _numbered(column: str) -> Callable[[int, Any], list[dict[str, Any]]]:
    """Rows of a list: the place of each value, and the value."""
    return lambda _, values: [{"class_index": i, column: one} for i, one in enumerate(values)]


def _date_of_job(job: int, date: str) -> list[dict[str, Any]]:
    return [{"job": job, "updated_date": date}]


_NOTES: tuple[tuple[str, sa.Table, Callable[[int, Any], list[dict[str, Any]]]], ...] = (
    (r"frames in use", frames_in_use, lambda _, numbers: [{"number": n} for n in numbers]),
    (r"label ids", first_label_ids, _numbered("label")),
    (r"class pixels", class_pixels, _numbered("pixels")),
    (r"answers of task (\d+)", collected_answers, lambda task, kept: [{"task": task, **kept}]),
    (r"jobs of task (\d+)", told, lambda task, line: [{"task": task, "line": line}]),
    (r"sending back job (\d+)", send_backs, _date_of_job),
    (r"own write to job (\d+)", own_writes, _date_of_job),
)
"""Name of a note in version 1, the table that its value moves to, and the rows there."""

TABLES = Tables(
    "cvat.db",
    metadata,
    VERSION,
    "the memory of a watched task",
    upgrades={1: upgrade_from_1},
)
