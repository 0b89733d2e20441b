"""What the workers of one agent have to do, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hvsa_cvat.agent.compute import Load


class LoadMetrics(Collector):
    """Tasks that are computed and that wait for it, and for how long workers were busy. The share
    of their time in which they are is the rate of `hvsa_compute_busy_seconds_total` through
    `hvsa_compute_places`."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load

    def describe(self) -> list[Metric]:
        """Nothing is asked before somebody asks."""
        return []

    def collect(self) -> Iterator[Metric]:
        load = self._load()
        for name, text, value in (
            ("hvsa_compute_places", "Tasks that workers compute at once.", load.places),
            ("hvsa_compute_running", "Tasks that workers compute now.", load.running),
            ("hvsa_compute_waiting", "Tasks that wait for a worker.", load.waiting),
        ):
            yield GaugeMetricFamily(name, text, value)
        yield CounterMetricFamily(
            "hvsa_compute_busy_seconds",
            "Seconds for which workers have computed for tasks, all of them together.",
            load.busy_seconds,
        )
