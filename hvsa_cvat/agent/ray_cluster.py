"""The Ray cluster on which an agent computes: reached, and checked before it gets an order."""

from __future__ import annotations

import logging
import os
import platform
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import hvsa_cvat
from hvsa_cvat.agent.settings import SECRETS, ComputeSection
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.files import make_folder

_CALLS = 3
"""How often an address is called before it counts as dead."""
_CALL_SECONDS = 5.0
"""How long each call waits for an answer, and the pause between two."""
_PROBE_SECONDS = 120.0
"""How long the nodes may take to start a small task; a busy one first starts a process."""


@dataclass(frozen=True)
class Versions:
    """What has to be the same on all machines, because orders are pickled."""

    python: str
    """Such as 3.11: pickles of all its patches are alike."""
    ray: str
    hvsa_cvat: str | None
    """None where it is not installed."""

    def __str__(self) -> str:
        ours = "no hvsa-cvat" if self.hvsa_cvat is None else f"hvsa-cvat {self.hvsa_cvat}"
        return f"Python {self.python}, Ray {self.ray} and {ours}"


def versions_here() -> Versions:
    """Those of this process."""
    python = ".".join(platform.python_version_tuple()[:2])
    return Versions(python, ray.__version__, hvsa_cvat.__version__)


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    id: str
    name: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.name}: {self.cpus:g} CPUs, {self.gpus:g} GPUs"


@dataclass(frozen=True)
class Share:
    """What one task takes of the cluster."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.gpus:g} GPUs and {self.cpus:g} CPUs" if self.gpus else f"{self.cpus:g} CPUs"

    @property
    def processes(self) -> int:
        """How many train together: one for each GPU."""
        return max(1, int(self.gpus))

    def places(self, node: Node) -> int:
        """How many tasks a node computes at once."""
        found = int(node.cpus // self.cpus)
        return min(found, int(node.gpus / self.gpus + 1e-9)) if self.gpus else found


@dataclass(frozen=True)
class Cluster:
    """A cluster that is connected and was checked."""

    address: str
    share: Share
    retries: int

    def nodes(self) -> list[Node]:
        """Those that can compute a task now."""
        return [one for one in _nodes() if self.share.places(one)]

    def places(self) -> int:
        """How many tasks it computes at once now."""
        return sum(self.share.places(one) for one in _nodes())


@contextmanager
def connected(
    options: ComputeSection,
    workspace: Path | None,
    *,
    mine: Versions | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Cluster]:
    """Connect to the cluster, or start one on this machine; `ConfigError` where it is of no use,
    before anything was given to it. A connection that this process has already is used and stays.

    `workspace` is a folder that all nodes must see; None where files go another way. `mine` are
    the versions that the nodes must have, by default those of this process.
    """
    present = ray.is_initialized()
    if not present:
        _reach(options.address, sleep)
        _connect(options.address)
    try:
        share = _share(options)
        cluster = Cluster(options.address, share, options.retries)
        _check_nodes(cluster, mine or versions_here(), workspace)
        yield cluster
    finally:
        if not present:
            ray.shutdown()


def _reach(address: str, sleep: Callable[[float], None]) -> None:
    """Call the head, because Ray waits for minutes for one that is not there."""
    match = re.fullmatch(r"(?:ray://)?(\[[^]]+\]|[^:/]+):(\d+)", address)
    if match is None:
        if address in ("local", "auto"):
            return
        raise ConfigError(
            f"[compute] address = {address!r} is no address of a Ray cluster; write "
            '"ray://HOST:10001", "HOST:6379", "auto" for the one on this machine, or "local"'
        )
    for call in range(_CALLS):
        try:
            socket.create_connection((match[1].strip("[]"), int(match[2])), _CALL_SECONDS).close()
            return
        except (OSError, OverflowError) as error:
            reason = error
            if call + 1 < _CALLS:
                sleep(_CALL_SECONDS)
    raise ConfigError(
        f"no Ray cluster answers at {address} ({_CALLS} calls: {reason}); check [compute] address, "
        "and on its machine that `ray start --head` runs and a firewall lets the agent in"
    )


def _connect(address: str) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)  # our lines say the rest
    arguments: dict[str, Any] = {"address": address, "namespace": "hvsa"}
    arguments.update(log_to_driver=False, configure_logging=False)
    if address == "local":
        arguments.update(include_dashboard=False)
    # the cluster on this machine inherits the environment, which its tasks must not see
    with _without_secrets(), _same_signals():
        try:
            ray.init(**arguments)
        except Exception as error:  # Ray raises what it likes
            raise ConfigError(refusal(address, error)) from error


def refusal(address: str, error: Exception) -> str:
    """Why Ray did not connect, in one line with the fix."""
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        versions = re.findall(r"Ray: (\S+) Python: (\S+)", text)
        told = [f"Ray {one} with Python {python}" for one, python in versions]
        theirs, mine = told if len(told) == 2 else (text, "another one")
        return (
            f"the Ray cluster at {address} runs {theirs}, the agent {mine}; install the same "
            "versions of both on all machines"
        )
    causes = [error, error.__cause__, error.__context__]
    if any("AuthToken" in str(one) or "RAY_AUTH" in str(one) for one in causes):
        return (
            f"the Ray cluster at {address} refuses the agent; give both the same token: "
            "RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token"
        )
    if address == "auto":
        return (
            "no Ray cluster runs on this machine; start one by `ray start --head`, or write "
            f'address = "local" under [compute] ({text[:200]})'
        )
    return (
        f"cannot use the Ray cluster at {address}: {text[:300]}; see the logs of its head, and "
        "whether the agent has its token (RAY_AUTH_TOKEN_PATH)"
    )


@contextmanager
def _without_secrets() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in SECRETS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _same_signals() -> Iterator[None]:
    """Ray takes SIGTERM, which the agent has taken before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not the main thread, in which Ray takes none
            signal.signal(signal.SIGTERM, before)


def _nodes() -> list[Node]:
    found = []
    alive: Callable[[], list[dict[str, Any]]] = ray.nodes
    for one in alive():
        resources: Mapping[str, float] = one["Resources"]
        if one["Alive"]:
            name = one["NodeManagerHostname"]
            cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
            found.append(Node(one["NodeID"], f"{name} ({one['NodeManagerAddress']})", cpus, gpus))
    return found


def _share(options: ComputeSection) -> Share:
    """What a task takes, and whether there is a node for it."""
    nodes = _nodes()
    gpus = options.gpus_per_task
    if gpus is None:
        gpus = 1.0 if any(one.gpus >= 1 for one in nodes) else 0.0
    share = Share(options.cpus_per_task, gpus)
    if not any(share.places(one) for one in nodes):
        what = "gpus_per_task" if not any(one.gpus >= gpus for one in nodes) else "cpus_per_task"
        raise ConfigError(
            f"no machine of the Ray cluster at {options.address} has {share} for a task (it has "
            f"{'; '.join(map(str, nodes)) or 'none'}); add such a one, or lower [compute] {what}"
        )
    return share


def _check_nodes(cluster: Cluster, mine: Versions, workspace: Path | None) -> None:
    """Each node that can compute has our versions and sees our folder."""
    with _marked(workspace) as marker:
        found = _probe(cluster, marker)
    for node, (versions, seen) in found:
        if versions != mine:
            raise ConfigError(
                f"{node.name} of the Ray cluster at {cluster.address} has {versions}, the agent "
                f"has {mine}; install the same versions of all three on all machines"
            )
        if not seen:
            raise ConfigError(
                f"{node.name} of the Ray cluster at {cluster.address} cannot write in {workspace}; "
                "mount the folder there under the same path, for the same user"
            )


@contextmanager
def _marked(workspace: Path | None) -> Iterator[Path | None]:
    """A file in the folder, whose content is its name."""
    if workspace is None:
        yield None
        return
    make_folder(workspace)
    marker = workspace / f".ray-{secrets.token_hex(8)}"
    try:
        marker.write_text(marker.name)
        yield marker
    except OSError as error:
        raise ConfigError(
            f"cannot write in {workspace}: {error.strerror}; choose another workspace"
        ) from error
    finally:
        marker.unlink(missing_ok=True)


def _probe(cluster: Cluster, marker: Path | None) -> Sequence[tuple[Node, tuple[Versions, bool]]]:
    """What a small task on each node finds."""

    # inside, so that Ray sends it whole: a node may lack this package
    def look(path: str | None) -> tuple[str, str, str | None, bool]:
        import os
        import platform

        import ray

        try:
            import hvsa_cvat

            ours: str | None = hvsa_cvat.__version__
        except ModuleNotFoundError:
            ours = None
        seen = True
        if path is not None:
            folder, name = os.path.split(path)
            try:
                with open(path) as file:
                    seen = file.read() == name and os.access(folder, os.W_OK)
            except OSError:
                seen = False
        python = ".".join(platform.python_version_tuple()[:2])
        return python, ray.__version__, ours, seen

    nodes = cluster.nodes()
    remote: Any = ray.remote(look)
    tasks = [
        remote.options(
            num_cpus=0,
            max_retries=2,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        ).remote(None if marker is None else str(marker))
        for node in nodes
    ]
    try:
        found = ray.get(tasks, timeout=_PROBE_SECONDS)
    except ray.exceptions.RayError as error:
        raise ConfigError(
            f"the Ray cluster at {cluster.address} did not run a small task on each machine within "
            f"{_PROBE_SECONDS:.0f} s ({' '.join(str(error).split())[:200]}); see `ray status` there"
        ) from error
    return [
        (node, (Versions(*versions), seen))
        for node, (*versions, seen) in zip(nodes, found, strict=True)
    ]
