"""Where the session of a task is, for whoever computes for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvsa_cvat.session.store import Store


@dataclass(frozen=True)
class Place:
    """Where the session of a task is. A worker on another machine gets nothing else to find it by,
    so all that it needs for that stands here."""

    folder: Path
    """Of the session and its files: a path that means the same to the agent and to the worker."""

    def open(self) -> Store:
        """Hold the session alone until it is closed."""
        return Store(self.folder)
