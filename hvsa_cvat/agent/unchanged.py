"""Tasks that a pass need not look at, because nothing has changed since the pass before."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.reports import TaskReport
from hvsa_cvat.agent.workspace import Enrollment
from hvsa_cvat.cvat.state import read_requests
from hvsa_cvat.errors import HvsaError, ServerError
from hvsa_cvat.session.store import session_stamps

_LOOK_AGAIN = 900.0
"""Seconds after which a task is looked at in any case: deleted tasks, for one, are in no list."""

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
"""In UTC, as the server writes times."""

_MARGIN = timedelta(seconds=10)
"""The server's clock tells whole seconds, and what changes becomes visible a moment later."""


@dataclass(frozen=True)
class _Seen:
    """What the last look at a task has found."""

    enrollment: Enrollment
    session: tuple[int, ...]
    """The stamp of the session's database."""
    report: TaskReport
    tasks: frozenset[int]
    """On the server: the task itself, and those that ask about it."""
    at: float
    """Seconds of the agent's clock."""


class Unchanged:
    """The tasks that wait for people, over the passes of one process.

    Each pass asks the server once which tasks and jobs were written since the pass before. A task
    of ours that waits is looked at again when it, its children or any of their jobs is among them,
    when its session or its options were changed here, and every 15 minutes.
    """

    def __init__(self, agent: AgentContext) -> None:
        self._agent = agent
        self._since: datetime | None = None
        self._seen: dict[int, _Seen] = {}
        self._sessions: dict[int, tuple[int, ...]] = {}
        """The stamps of the sessions of those at the beginning of the pass."""

    def begin(self, now: datetime) -> None:
        """Begin a pass; `now` is the server's time."""
        since, self._since = self._since, now - _MARGIN
        self._sessions = {}
        if since is None or not self._seen:
            return
        try:
            written = self._written_since(since)
        except ServerError as error:
            # the next look at each task tells in its own words what is wrong
            self._seen.clear()
            self._agent.log(f"cannot ask what has changed, so every task is looked at: {error}")
        else:
            # for good, because this pass may end before it comes to the task
            self._seen = {k: one for k, one in self._seen.items() if one.tasks.isdisjoint(written)}
            workspace = self._agent.workspace
            with suppress(HvsaError):  # such as a full disk, which the tasks meet too
                workspace.looks.confirm(self._seen)
            with suppress(HvsaError):
                places = [workspace.session_place(one.enrollment) for one in self._seen.values()]
                self._sessions = dict(zip(self._seen, session_stamps(places), strict=True))

    def report(self, enrollment: Enrollment) -> TaskReport | None:
        """What was reported of a task that waits; None where it has to be looked at."""
        seen = self._seen.get(enrollment.task)
        if (
            seen is None
            or seen.enrollment != enrollment
            or self._agent.clock() - seen.at >= _LOOK_AGAIN
            or seen.session != self._sessions.get(enrollment.task)
        ):
            return None
        return seen.report

    def forget(self, task: int) -> None:
        """Look at a task again in the next pass."""
        self._seen.pop(task, None)

    def keep(self, task: int, report: TaskReport) -> None:
        """Keep what a look at a task has found. A task that moved, failed, computes, is paused,
        is held by another agent or has masks to write is looked at again in the next pass."""
        self.forget(task)
        enrollment = self._agent.workspace.enrollment(task)
        active = report.moved or report.paused or report.held_by or report.unpublished
        if enrollment is None or report.error or report.computing or active:
            return
        try:
            asked = read_requests(self._agent.workspace.session_place(enrollment) / "cvat")
        except HvsaError:
            return  # the next look says what is wrong
        self._seen[enrollment.task] = _Seen(
            enrollment,
            self._stamp(enrollment),
            report,
            frozenset({enrollment.task, *(one.task for one in asked)}),
            self._agent.clock(),
        )

    def _stamp(self, enrollment: Enrollment) -> tuple[int, ...]:
        return session_stamps([self._agent.workspace.session_place(enrollment)])[0]

    def _written_since(self, since: datetime) -> frozenset[int]:
        """The ids of tasks that were written, or of which a job was."""
        since = since.astimezone(UTC)
        rule = json.dumps({"and": [{">=": [{"var": "updated_date"}, f"{since:{_TIME}}"]}]})
        tasks = self._agent.client.rows("tasks", filter=rule)
        jobs = self._agent.client.rows("jobs", filter=rule)
        return frozenset({int(one["id"]) for one in tasks} | {int(one["task_id"]) for one in jobs})
