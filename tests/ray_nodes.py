"""A Ray cluster on this machine, for tests and benchmarks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from ray.cluster_utils import Cluster as Nodes

_TRIES = 3
"""Ray gives a machine 30 s to start, which a busy one may need more than once."""
_AS_OTHERS = {"RAY_worker_niceness": "0"}
"""By itself Ray has its workers wait for all else that this machine does."""


@contextmanager
def started(cpus: int, gpus: int = 0) -> Iterator[Nodes]:
    """A cluster of one machine, whose address is `.address`. Ray counts `gpus` that nobody has."""
    for attempt in range(1, _TRIES + 1):
        nodes = Nodes()
        try:
            with patch.dict(os.environ, _AS_OTHERS):
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
