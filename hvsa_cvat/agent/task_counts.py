"""How many tasks stand where, counted in the workspace whenever somebody asks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hvsa_cvat.agent.looking import Contents, look_into
from hvsa_cvat.agent.workspace import enrollment_place
from hvsa_cvat.database import Place, Where
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.session.rounds import Phase
from hvsa_cvat.session.store import Store, session_stamps

_UNREADABLE = "unreadable"
"""In place of a phase."""


@dataclass(frozen=True)
class _Counts:
    phases: Counter[str]
    waiting: int
    """Jobs."""


class TaskCounts(Collector):
    """Tasks by phase, jobs that wait, and tasks that stopped or are paused, of all agents of the
    workspace together. Several threads may ask; only sessions that have changed are read."""

    def __init__(self, workspace: Where, server: str, clock: Callable[[], float]) -> None:
        """`server` is the key of the server; `clock` gives seconds since 1970."""
        self._workspace = workspace
        self._server = server
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[Place, tuple[tuple[int, ...], str]] = {}

    def describe(self) -> list[Metric]:
        """Nothing is read before somebody asks."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Nothing where the workspace cannot be read; the passes say why."""
        try:
            contents = look_into(self._workspace, self._server, self._clock())
            with self._lock:
                counts = self._count(contents)
        except HvsaError:
            return
        tasks = GaugeMetricFamily(
            "hvsa_tasks", "Enrolled tasks, by the phase that is next.", labels=["phase"]
        )
        for phase in (*Phase, _UNREADABLE):
            tasks.add_metric([str(phase)], counts.phases[str(phase)])
        yield tasks
        stopped = sum(one.error is not None for one in contents.enrollments)
        for name, text, value in (
            ("hvsa_jobs_waiting", "Jobs that people have still to finish.", counts.waiting),
            ("hvsa_tasks_stopped", "Tasks whose last pass stopped with an error.", stopped),
            ("hvsa_tasks_paused", "Tasks that people paused.", len(contents.paused)),
            ("hvsa_tasks_held", "Tasks that an agent works on now.", len(contents.owners)),
        ):
            yield GaugeMetricFamily(name, text, value)

    def _count(self, contents: Contents) -> _Counts:
        before, self._kept = self._kept, {}
        phases, waiting = Counter[str](), 0
        places = [
            enrollment_place(self._workspace, self._server, one) for one in contents.enrollments
        ]
        for one, place, stamp in zip(
            contents.enrollments, places, session_stamps(places), strict=True
        ):
            kept = before.get(place)
            if kept is None or kept[0] != stamp:
                kept = stamp, _phase_of(place)
            self._kept[place] = kept
            phase = kept[1]
            phases[phase] += 1
            look = contents.looks.get(one.task)
            if phase == Phase.ANNOTATE and look is not None and look.enrollment == one.key:
                waiting += len(look.jobs)
        return _Counts(phases, waiting)


def _phase_of(place: Place) -> str:
    try:
        session = Store.peek(place)
    except HvsaError:
        return _UNREADABLE
    return _UNREADABLE if session is None else session.current.phase.value
