"""A Ray cluster on this machine, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.cluster_utils import Cluster as Nodes

_TRIES = 3
"""Ray gives a machine 30 s to start, which a busy one may need more than once."""


@contextmanager
def started(cpus: int, gpus: int = 0) -> Iterator[Nodes]:
    """A cluster of one machine, whose address is `.address`. Ray counts `gpus` that nobody has."""
    for attempt in range(1, _TRIES + 1):
        nodes = Nodes()
        try:
            nodes.add_node(num_cpus=cpus, num_gpus=gpus, include_dashboard=False)
        except Exception:
            nodes.shutdown()
            if attempt == _TRIES:
                raise
        else:
            break
    try:
        yield nodes
    finally:
        nodes.shutdown()
