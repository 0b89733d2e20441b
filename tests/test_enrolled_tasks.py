"""The enrolled tasks as the pages read them: kept while the workspace does not change."""

from __future__ import annotations

from pathlib import Path

from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.workspace import LEASE_SECONDS, Workspace
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.enrolled.tasks import EnrolledTasks

URL = "https://cvat.example.com"


def test_a_change_is_seen_at_once_and_nothing_is_read_twice(tmp_path: Path) -> None:
    tasks = EnrolledTasks(tmp_path, URL, lambda: 1000.0)
    assert tasks.all() == {}
    workspace = Workspace(tmp_path, server_key(URL), "agent", lambda: 1000.0)
    workspace.add_task(7, "key", [(1, "car")], EnrollOptions())
    found = tasks.all()
    assert list(found) == [7]
    assert not found[7].paused
    assert tasks.all() is found
    workspace.pauses.pause(7)
    assert tasks.one(7).paused
    workspace.remove_task(7)
    assert tasks.all() == {}


def test_a_lease_that_is_not_renewed_ends_though_nothing_is_written(tmp_path: Path) -> None:
    now = 1000.0
    workspace = Workspace(tmp_path, server_key(URL), "agent", lambda: now)
    workspace.add_task(7, "key", [(1, "car")], EnrollOptions())
    tasks = EnrolledTasks(tmp_path, URL, lambda: now)
    with workspace.leased(7):
        assert tasks.one(7).owner == "agent"
        now += LEASE_SECONDS + 1
        assert tasks.one(7).owner is None
