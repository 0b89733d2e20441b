"""Saves of jobs as webhooks deliver them, until a pass over their task takes them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

_MOST = 20_000
"""Saves that are kept; the oldest are left out, which undercounts."""


@dataclass(frozen=True)
class Save:
    """A job after somebody has saved it or changed its state."""

    job: int
    state: str
    updated_date: str
    """Both as the server writes them."""


class Saves:
    """Any thread may add to them, or take from them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Save] = deque(maxlen=_MOST)

    def add(self, save: Save) -> None:
        with self._lock:
            self._kept.append(save)

    def take(self, jobs: Collection[int]) -> list[Save]:
        """Those of these jobs, once, by their dates."""
        with self._lock:
            found = [one for one in self._kept if one.job in jobs]
            if found:
                others = [one for one in self._kept if one.job not in jobs]
                self._kept = deque(others, maxlen=_MOST)
        return sorted(found, key=lambda one: one.updated_date)
