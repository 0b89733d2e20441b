"""The sockets of `hvsa-agent sync --watch`: for webhooks, and for metrics and health checks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvsa_cvat.agent.context import AgentContext
    from hvsa_cvat.agent.listen import Pages
    from hvsa_cvat.agent.monitor import Monitor
    from hvsa_cvat.agent.watch import Watch


@contextmanager
def webhooks(agent: AgentContext, address: str, passes: Watch, monitor: Monitor) -> Iterator[None]:
    """Deliveries begin a pass at once. Whoever may deliver reads no metrics."""
    from hvsa_cvat.agent.listen import Page, Place, Seldom, listening
    from hvsa_cvat.agent.settings import WEBHOOK_SECRET, read_secret
    from hvsa_cvat.cvat.webhook import Listener

    def elsewhere() -> Page:
        return Page(404, "metrics are told at the address of --metrics\n")

    me = int(agent.client.me()["id"])
    odd = Seldom(agent.log, time.monotonic)
    listener = Listener(read_secret(WEBHOOK_SECRET) or "", me, passes.wake, odd, agent.saves.add)
    pages = {**_checks(monitor), "/metrics": elsewhere}
    with listening(Place("--listen", address, "webhooks"), pages, agent.log, listener) as gate:
        monitor.watch_gate("webhooks", gate)
        yield


@contextmanager
def metrics(agent: AgentContext, address: str, monitor: Monitor) -> Iterator[None]:
    """Metrics and health checks, and nothing else."""
    from hvsa_cvat.agent.listen import Place, listening
    from hvsa_cvat.agent.load_metrics import LoadMetrics
    from hvsa_cvat.agent.task_counts import TaskCounts

    workspace = agent.workspace
    monitor.add(LoadMetrics(agent.compute.load))
    monitor.add(TaskCounts(workspace.place, workspace.server, agent.clock))
    pages = {**_checks(monitor), "/metrics": monitor.metrics}
    with listening(Place("--metrics", address, "metrics"), pages, agent.log) as gate:
        monitor.watch_gate("metrics", gate)
        yield


def _checks(monitor: Monitor) -> Pages:
    return {"/healthz": monitor.health, "/readyz": monitor.readiness}
