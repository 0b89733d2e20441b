"""What a process that only looks reads of a workspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.agent.looks import Look, look_of
from hvsa_cvat.agent.steps import ComputedStep
from hvsa_cvat.agent.wishes import Wish, wish_of
from hvsa_cvat.agent.workspace import Enrollment, enrollment_of, runs
from hvsa_cvat.database import Where, is_present, place_of, read_only, shared_time, stamps
from hvsa_cvat.errors import SessionError


@dataclass(frozen=True)
class Contents:
    """What a process that only looks reads of a workspace."""

    enrollments: tuple[Enrollment, ...] = ()
    """By number of the task."""
    owners: Mapping[int, str] = field(default_factory=dict)
    """The agent that works on a task now, by task."""
    paused: frozenset[int] = frozenset()
    wishes: Mapping[int, Wish] = field(default_factory=dict)
    """What the next pass is asked to do, by task."""
    looks: Mapping[int, Look] = field(default_factory=dict)
    """What was found of the open jobs, by task."""
    steps: Mapping[int, ComputedStep] = field(default_factory=dict)
    """What is computed now, by task."""
    now: float = 0.0
    """When it was read, by the clock of the leases."""


def is_workspace(where: Where) -> bool:
    """Whether an agent has made a workspace there."""
    return is_present(where, tables.TABLES)


def workspace_stamp(where: Where) -> tuple[int, ...]:
    """Another one after each change of what `look_into` reads; cheaper than that."""
    return stamps([where], tables.TABLES)[0]


def look_into(where: Where, server: str, now_here: float) -> Contents:
    """The enrolled tasks of a server. It makes no file, changes none and waits for no agent.

    `now_here`: seconds since 1970. `SessionError` where a newer hvsa-agent made the workspace.
    """
    if not is_workspace(where):
        return Contents()
    with read_only(where, tables.TABLES) as connection:
        version = connection.scalar(sa.text("SELECT version FROM version")) or 1
        if version > tables.VERSION:
            raise SessionError(
                tables.TABLES.newer(place_of(where).told(tables.TABLES.file), version)
            )
        now = shared_time(connection, lambda: now_here)
        tasks = sa.select(tables.tasks).where(tables.tasks.c.server == server)
        tasks = tasks.order_by(tables.tasks.c.task)
        leases = sa.select(tables.leases).where(tables.leases.c.server == server)
        pauses = sa.select(tables.pauses).where(tables.pauses.c.server == server)
        wishes = sa.select(tables.wishes).where(tables.wishes.c.server == server)
        looks = sa.select(tables.looks).where(tables.looks.c.server == server)
        steps = (
            connection.execute(sa.select(tables.steps).where(tables.steps.c.server == server))
            if version > 3
            else ()
        )
        young = version > 1
        return Contents(
            tuple(enrollment_of(row) for row in connection.execute(tasks)),
            {row.task: row.owner for row in connection.execute(leases) if runs(row.expires, now)},
            frozenset(row.task for row in connection.execute(pauses)) if young else frozenset(),
            {row.task: wish_of(row) for row in connection.execute(wishes)} if young else {},
            {row.task: look_of(row) for row in connection.execute(looks)} if version > 2 else {},
            {row.task: ComputedStep(row.step, row.since) for row in steps},
            now,
        )
