"""What the System page tells of this machine and workspace."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hvsa_cvat import __version__
from hvsa_cvat.agent.settings import LocalSettings
from hvsa_cvat.dashboard.site import size

_PACKAGES = ("cvat-sdk", "torch", "timm", "numpy", "starlette", "uvicorn")


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
    """Of the workspace's folder; None where that is not there yet."""
    storage: tuple[tuple[str, str], ...]
    """What is kept, and where."""
    folders: int
    """Of sessions, with those of tasks that were withdrawn."""
    load: tuple[float, ...]
    """Average number of processes that want to run, over 1, 5 and 15 minutes."""
    processors: int


def system_facts(settings: LocalSettings) -> SystemFacts:
    """The facts as they are now."""
    root = settings.workspace
    return SystemFacts(
        tuple(_versions()),
        _disk(root),
        tuple(_storage(settings)),
        sum(1 for _ in (root / "tasks").glob("*")),
        os.getloadavg(),
        os.cpu_count() or 1,
    )


def _versions() -> list[tuple[str, str]]:
    found = [("hvsa-cvat", __version__), ("Python", platform.python_version())]
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append((name, metadata.version(name)))
    return [*found, ("SQLite", sqlite3.sqlite_version), ("system", platform.platform(terse=True))]


def _storage(settings: LocalSettings) -> list[tuple[str, str]]:
    """Without secrets: the addresses hold none, see `checked_address` and `checked_artefacts`."""
    database = settings.database
    if database is None:
        found = _bytes(settings.workspace / "workspace.db")
        database = "not there yet" if found is None else f"SQLite in the workspace, {size(found)}"
    if settings.artefacts is None:
        return [("workspace", str(settings.workspace)), ("database", database)]
    return [
        ("workspace, a cache of the bucket", str(settings.workspace)),
        ("database", database),
        ("bucket for the files of sessions", settings.artefacts),
    ]


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
