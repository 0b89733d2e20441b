"""What one agent tells Prometheus and health checks about itself.

No label holds the name or number of a task or the name of a person: each would be a series of its
own, and a metrics server keeps them for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.registry import Collector

from hvsa_cvat.agent.listen import Gate, Page
from hvsa_cvat.cvat.http.outcome import Outcome
from hvsa_cvat.session.rounds import Phase

SILENT_INTERVALS = 60
"""Intervals between two passes without a sign of life after which an agent is ill."""
SILENT_SECONDS = 1800.0
"""The least of that: a step of work gives a sign with every frame and training step."""

_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of what Prometheus reads."""

_PHASE_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600)
_PASS_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)


class Monitor:
    """Counts of one agent. Safe to use from several threads."""

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        """`interval`: seconds between two passes. `clock` gives seconds since any start."""
        self._clock = clock
        self._silent = max(SILENT_SECONDS, SILENT_INTERVALS * interval)
        self._beat = clock()
        self._ended: float | None = None
        self._failed = False
        self._answered = False
        self._exchanges, self._unanswered = 0, 0
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "hvsa_requests",
            "Requests to CVAT, by what came of them.",
            ["outcome"],
            registry=registry,
        )
        for outcome in Outcome:
            self._requests.labels(outcome.value)
        self._passes = Histogram(
            "hvsa_pass_seconds", "Seconds of each pass.", registry=registry, buckets=_PASS_SECONDS
        )
        self._phases = Histogram(
            "hvsa_phase_seconds",
            "Seconds of each phase that this agent has finished.",
            ["phase"],
            registry=registry,
            buckets=_PHASE_SECONDS,
        )
        for phase in Phase:
            if phase is not Phase.DONE:
                self._phases.labels(phase.value)
        self._rounds = Counter(
            "hvsa_rounds_done",
            "Rounds that asked people and whose masks this agent published.",
            registry=registry,
        )
        self._open = Gauge(
            "hvsa_connections",
            "Open connections, by the address that they came to.",
            ["address"],
            registry=registry,
        )
        age = Gauge(
            "hvsa_last_pass_age_seconds",
            "Seconds since a pass ended; NaN before the first one.",
            registry=registry,
        )
        age.set_function(self._age)

    # -- what happens

    def beat(self) -> None:
        """The agent gives a sign of life."""
        self._beat = self._clock()

    def request(self, outcome: Outcome) -> None:
        """An exchange with the server has ended."""
        self._requests.labels(outcome.value).inc()
        if outcome is not Outcome.RETRIED:
            self._exchanges += 1
            self._unanswered += outcome in (Outcome.BROKEN, Outcome.UNREACHABLE)
            self._answered = outcome not in (Outcome.BROKEN, Outcome.UNREACHABLE)

    def phase(self, phase: Phase, round_number: int, seconds: float) -> None:
        """A phase of a task is finished."""
        self._phases.labels(phase.value).observe(seconds)
        if phase is Phase.PUBLISH and round_number > 0:
            self._rounds.inc()

    @contextmanager
    def passing(self) -> Iterator[None]:
        """One pass over the tasks."""
        begun, failed = self._clock(), True
        try:
            yield
            failed = False
        finally:
            self._ended, self._failed = self._clock(), failed
            self._passes.observe(self._ended - begun)

    def watch_gate(self, address: str, gate: Gate) -> None:
        """Tell how many connections are open. `address`: `webhooks` or `metrics`."""
        self._open.labels(address).set_function(lambda: gate.open)

    def add(self, collector: Collector) -> None:
        """Tell what a collector finds whenever it is asked."""
        self._registry.register(collector)

    def exchanges(self) -> tuple[int, int]:
        """How many exchanges with the server have ended, and how many of them without an answer."""
        return self._exchanges, self._unanswered

    # -- what is told

    def metrics(self) -> Page:
        """Everything, in the text format of Prometheus."""
        return Page(200, generate_latest(self._registry).decode(), _TEXT_FORMAT)

    def health(self) -> Page:
        """Whether the agent waits or works. A server that is down makes no agent ill."""
        silent = self._clock() - self._beat
        if silent > self._silent:
            return Page(503, f"no sign of life for {silent:.0f} s\n")
        return Page(200, "passes go on\n")

    def readiness(self) -> Page:
        """Whether the last pass ended as it should, and the server answered in it."""
        if self._ended is None:
            return Page(503, "no pass has ended yet\n")
        if self._failed:
            return Page(503, "the last pass failed; the log says why\n")
        if not self._answered:
            return Page(503, "the server does not answer; the log says why\n")
        return Page(200, "the last pass ended and the server answered\n")

    def _age(self) -> float:
        return float("nan") if self._ended is None else self._clock() - self._ended
