"""One life of an agent with a worker, as a program that tests start and kill.

python -m tests.agent_life WORKSPACE LIFE [LEASE_SECONDS]

In a workspace of files each life, counted 1, 2, ..., is a minute later than the one before, so that
the lease of the one before has ended. In PostgreSQL a life has a name, and its leases are short.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hvsa_cvat.agent.compute import Compute
from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.settings import AgentSettings, load_settings
from hvsa_cvat.agent.workers import WorkerPool
from hvsa_cvat.agent.workspace import LEASE_SECONDS, Workspace
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.ports import silent


@contextmanager
def opened(settings: AgentSettings) -> Iterator[Compute]:
    """Where `hvsa.toml` says; by default in one worker process."""
    if settings.compute.engine == "workers":
        with WorkerPool(1) as pool:
            yield pool
        return

    from hvsa_cvat.agent.ray_environment import prepare_ray

    prepare_ray(settings.compute.address)
    from hvsa_cvat.agent.ray_cluster import connected
    from hvsa_cvat.agent.ray_pool import RayPool

    apart = settings.artefacts is not None and settings.database is not None
    shared = None if apart else settings.workspace
    with connected(settings.compute, shared) as cluster, RayPool(cluster) as pool:
        yield pool


def main(workspace: Path, life: str, lease_seconds: float = LEASE_SECONDS) -> None:
    def clock() -> float:
        return time.time() + (61 * int(life) if life.isdigit() else 0)

    def log(line: str) -> None:
        print(line, flush=True)

    settings = load_settings(None, workspace=workspace)
    with (
        CvatClient(
            settings.address,
            settings.credentials,
            sleep=time.sleep,
            rng=random.Random(0),
            log=log,
        ) as client,
        opened(settings) as pool,
    ):
        key = server_key(settings.address.url)
        known = Workspace(settings.place, key, f"{life}: life", clock, lease_seconds)
        agent = AgentContext(settings, known, client, clock, log, silent, pool)
        done = False
        while not done:
            reports = list(sync(agent))
            for report in reports:
                if report.error is not None:
                    log(f"error: {report.error}")
            done = all(report.done for report in reports)
            time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:]))
