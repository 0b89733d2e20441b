"""The tables that are in `workspace.db` in SQLite."""

from __future__ import annotations

import sqlalchemy as sa

from hvsa_cvat.database import Tables
from hvsa_cvat.errors import ConfigError

VERSION = 4
"""1 had no events, pauses, wishes and notices. An agent that knows nothing of pauses must not work
with the tables. 2 had no looks; an agent that keeps none would let those of others grow old. 3 had
no fences; an agent that raises none would not stop the holder of a lease that has ended."""

metadata = sa.MetaData()

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("care", sa.String(20), key="enrollment", nullable=False),
    sa.Column("classes", sa.JSON, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("error", sa.Text),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("project", sa.Integer, primary_key=True),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("withdrawn", sa.JSON, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)

fences = sa.Table(
    "fences",
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("token", sa.Integer, nullable=False),  # of the newest lease
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("step", sa.Text, nullable=False),  # what is computed
    sa.Column("since", sa.Float, nullable=False),  # by the same clock as the leases
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("server", sa.String(200), nullable=False),
    sa.Column("task", sa.Integer, nullable=False),
    sa.Column("enrollment", sa.String(20)),  # its key; NULL: the task was not enrolled
    sa.Column("time", sa.Float, nullable=False),  # seconds since 1970
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("what", sa.String(20), nullable=False),
    sa.Column("round", sa.Integer),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Index("events_of_task", "server", "task"),
)

pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("since", sa.Float, nullable=False),  # seconds since 1970
)

wishes = sa.Table(
    "wishes",
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("enrollment", sa.String(20), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("arguments", sa.JSON, nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("time", sa.Float, nullable=False),
)

looks = sa.Table(
    "looks",
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("enrollment", sa.String(20), nullable=False),
    sa.Column("time", sa.Float, nullable=False),  # seconds since 1970
    sa.Column("jobs", sa.JSON, nullable=False),  # those that are open
)

agents = sa.Table(
    "agents",  # an agent that knows nothing of it does no harm
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("owner", sa.String(200), primary_key=True),
    sa.Column("started", sa.Float, nullable=False),  # seconds since 1970
    sa.Column("last", sa.Float, nullable=False),
    sa.Column("doing", sa.JSON, nullable=False),
)

notices = sa.Table(
    "notices",
    metadata,
    sa.Column("server", sa.String(200), primary_key=True),
    sa.Column("name", sa.String(300), primary_key=True),  # tells that two notices are the same
    sa.Column("task", sa.Integer, nullable=False),
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("sent", sa.Float),  # NULL: it waits
)

job_times = sa.Table(
    "job_times",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("server", sa.String(200), nullable=False),
    sa.Column("project", sa.Integer, nullable=False),
    sa.Column("enrollment", sa.String(20), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("whole", sa.Boolean, nullable=False),  # whole frames, or smaller samples
    sa.Column("record", sa.JSON, nullable=False),  # what was done in a job, and its seconds
    sa.Column("time", sa.Float, nullable=False),
    sa.Index("job_times_of_project", "server", "project", "whole"),
)

TABLES = Tables("workspace.db", metadata, VERSION, "a workspace")


def of_task(table: sa.Table, server: str, task: int) -> sa.ColumnElement[bool]:
    """The rows of a task of a server."""
    return (table.c.server == server) & (table.c.task == task)


def enrollment_key(connection: sa.Connection, server: str, task: int) -> str:
    """The key of a task's enrollment; `ConfigError` for one that is not enrolled."""
    query = sa.select(tasks.c.enrollment).where(of_task(tasks, server, task))
    key: str | None = connection.scalar(query)
    if key is None:
        raise ConfigError(f"task {task} is not enrolled; see `hvsa-agent status`")
    return key
