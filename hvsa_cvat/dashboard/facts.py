"""What the System page tells of this machine and workspace."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hvsa_cvat import __version__
from hvsa_cvat.agent.settings import LocalSettings
from hvsa_cvat.cvat.doctor import Finding

_PACKAGES = ("cvat-sdk", "torch", "timm", "numpy", "starlette", "uvicorn")
_CHECKED_SECONDS = 60.0
"""For which the findings hold; they load the start network."""


@dataclass(frozen=True)
class Disk:
    total: int
    free: int
    """Bytes."""


@dataclass(frozen=True)
class SystemFacts:
    versions: tuple[tuple[str, str], ...]
    """Name and version."""
    disk: Disk | None
    """Of the workspace; None where there is no workspace yet."""
    database: int | None
    """Bytes of the workspace's database."""
    folders: int
    """Of sessions, with those of tasks that were withdrawn."""
    load: tuple[float, ...]
    """Average number of processes that want to run, over 1, 5 and 15 minutes."""
    processors: int
    findings: tuple[Finding, ...]


def system_facts(settings: LocalSettings, findings: tuple[Finding, ...]) -> SystemFacts:
    """The facts as they are now; `findings` are those of `Findings`."""
    root = settings.workspace
    return SystemFacts(
        tuple(_versions()),
        _disk(root),
        _bytes(root / "workspace.db"),
        sum(1 for _ in (root / "tasks").glob("*")),
        os.getloadavg(),
        os.cpu_count() or 1,
        findings,
    )


def _versions() -> list[tuple[str, str]]:
    found = [("hvsa-cvat", __version__), ("Python", platform.python_version())]
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append((name, metadata.version(name)))
    return [*found, ("SQLite", sqlite3.sqlite_version), ("system", platform.platform(terse=True))]


def _disk(root: Path) -> Disk | None:
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return None
    return Disk(usage.total, usage.free)


def _bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


class Findings:
    """What `doctor` finds on this machine, at most a minute old. Several threads may ask."""

    def __init__(self, settings: LocalSettings, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since any start."""
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[float, tuple[Finding, ...]] | None = None

    def __call__(self) -> tuple[Finding, ...]:
        """Empty where there is no workspace: a check of the disk would make it."""
        # timm takes seconds to import, and only this page needs it
        from hvsa_cvat.agent.doctor import examine_machine

        if not self._settings.workspace.exists():
            return ()
        with self._lock:
            now = self._clock()
            if self._kept is None or not 0 <= now - self._kept[0] < _CHECKED_SECONDS:
                self._kept = now, tuple(examine_machine(self._settings))
            return self._kept[1]
