"""One watched task together with all that is needed to work on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.saves import Saves
from hvsa_cvat.cvat.state import State
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.ports import Progress

Log = Callable[[str], None]
"""Takes one line for people, without a line break."""


@dataclass(frozen=True)
class TaskConnection:
    """What asking, collecting and publishing need, made once for one pass over one task.

    Whoever makes it holds the lease of the task and closes the client.
    """

    client: CvatClient
    state: State
    """What we remember of the task."""
    task: WatchedTask
    """The task as the server described it at the beginning of the pass."""
    log: Log
    progress: Progress
    now: Callable[[], datetime]
    """The time of the server, with a time zone: the dates of jobs are compared with it."""
    saves: Saves = field(default_factory=Saves)
    """What webhooks have told of jobs since the pass before."""
