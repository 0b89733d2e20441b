"""The tasks that are enrolled in a workspace, and where their folders are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hvsa_cvat.agent.looking import look_into, workspace_stamp
from hvsa_cvat.agent.looks import Look
from hvsa_cvat.agent.wishes import Wish
from hvsa_cvat.agent.workspace import Enrollment, enrollment_place
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.database import Place, Where, place_of
from hvsa_cvat.errors import ConfigError

_FRESH = 2.0
"""Seconds for which what was read holds while the workspace does not change: leases end by time."""


@dataclass(frozen=True)
class EnrolledTask:
    """One enrolled task."""

    enrollment: Enrollment
    place: Place
    """Of its session."""
    owner: str | None
    """The agent that works on it now."""
    paused: bool = False
    """Whether passes leave it out, because people said so."""
    wish: Wish | None = None
    """What the next pass is asked to do."""
    look: Look | None = None
    """What the last look at the server found of its open jobs."""

    @property
    def folder(self) -> Path:
        return self.place.folder

    @property
    def number(self) -> int:
        return self.enrollment.task


class EnrolledTasks:
    """The enrolled tasks of one server, as the workspace has them when they are asked for. Several
    threads may ask."""

    def __init__(self, workspace: Where, url: str, clock: Callable[[], float]) -> None:
        """`url` is the address of the server; `clock` gives seconds since 1970."""
        self.workspace = place_of(workspace)
        self.url = url
        self._server = server_key(url)
        self._clock = clock
        self._kept: tuple[tuple[int, ...], float, Mapping[int, EnrolledTask]] | None = None

    def all(self) -> Mapping[int, EnrolledTask]:
        """By the number of the task, ascending."""
        # before the rows: a change in between is read the next time
        stamp, now = workspace_stamp(self.workspace), self._clock()
        kept = self._kept
        if kept is not None and kept[0] == stamp and 0 <= now - kept[1] < _FRESH:
            return kept[2]
        found = self._read(now)
        self._kept = stamp, now, found
        return found

    def _read(self, now: float) -> Mapping[int, EnrolledTask]:
        found = look_into(self.workspace, self._server, now)
        return {
            one.task: EnrolledTask(
                one,
                enrollment_place(self.workspace, self._server, one),
                found.owners.get(one.task),
                one.task in found.paused,
                found.wishes.get(one.task),
                found.looks.get(one.task),
            )
            for one in found.enrollments
        }

    def one(self, task: int) -> EnrolledTask:
        """`ConfigError` for a task that is not enrolled."""
        found = self.all().get(task)
        if found is None:
            raise ConfigError(
                f"task {task} of {self.url} is not enrolled in "
                f"{self.workspace.folder}; see `hvsa-agent status`"
            )
        return found
