"""What the agent remembers of the enrolled tasks, and which agent works on which."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.workspace import LEASE_SECONDS, Workspace
from hvsa_cvat.database import Where, place_of
from hvsa_cvat.errors import ConfigError, SessionError

CLASSES = [(5, "road"), (9, "car")]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(root: Where, owner: str = "a", clock: Callable[[], float] | None = None) -> Workspace:
    return Workspace(root, "cvat.example.com:8080", owner, clock or Clock())


def test_tasks_are_added_and_removed(where: Where) -> None:
    options = EnrollOptions(annotators=("ann",), background=("car",), checkpoint=Path("x.pth"))
    taken = opened(where).add_task(12, "c0ffee", CLASSES, options)
    again = opened(where)
    assert again.enrollments() == [taken]
    assert again.enrollment(12) == taken
    assert taken.options == options
    assert taken.classes == ((5, "road"), (9, "car"))
    with pytest.raises(ConfigError, match=r"task 12 .* withdraw"):
        again.add_task(12, "other", CLASSES, options)
    again.set_error(12, "the server is down")
    kept = again.enrollment(12)
    assert kept is not None
    assert kept.error == "the server is down"
    again.remove_task(12)
    assert again.enrollments() == []
    assert again.enrollment(12) is None


def test_each_enrollment_has_its_own_folder(where: Where) -> None:
    workspace = opened(where)
    first = workspace.add_task(12, "one", CLASSES, EnrollOptions())
    workspace.remove_task(12)
    second = workspace.add_task(12, "two", CLASSES, EnrollOptions())
    assert workspace.folder(first) != workspace.folder(second)
    assert workspace.folder(first).parent == place_of(where).folder / "tasks"


def test_servers_are_kept_apart(where: Where) -> None:
    opened(where).add_task(12, "one", CLASSES, EnrollOptions())
    elsewhere = Workspace(where, "other.example.com", "a", Clock())
    assert elsewhere.enrollments() == []
    elsewhere.add_task(12, "two", CLASSES, EnrollOptions())
    assert len(opened(where).enrollments()) == 1


def test_projects_remember_what_was_withdrawn(where: Where) -> None:
    workspace = opened(where)
    assert workspace.projects() == {}
    workspace.set_withdrawn(7, 12)  # not enrolled: nothing to remember
    workspace.add_project(7, {"budget": "4%"})
    assert workspace.projects() == {7: {"budget": "4%"}}
    assert workspace.withdrawn(7) == set()
    workspace.set_withdrawn(7, 12)
    workspace.set_withdrawn(7, 3)
    assert workspace.withdrawn(7) == {3, 12}
    assert workspace.remove_project(7)
    assert not workspace.remove_project(7)
    assert workspace.withdrawn(7) == set()


def test_a_task_is_held_by_one_agent(tmp_path: Path) -> None:
    clock = Clock()
    one, two = opened(tmp_path, "one", clock), opened(tmp_path, "two", clock)
    with one.leased(12) as held:
        assert held
        holder = two.lease(12)
        assert holder is not None
        assert holder.owner == "one"
        with two.leased(12) as also:
            assert not also
        with two.leased(13) as other:
            assert other
    assert two.lease(12) is None
    with two.leased(12) as held:
        assert held


def test_a_dead_agents_task_is_free_after_a_while(tmp_path: Path) -> None:
    clock = Clock()
    one, two = opened(tmp_path, "one", clock), opened(tmp_path, "two", clock)
    assert one._acquire(12)  # and dies
    clock.now += LEASE_SECONDS - 1
    with two.leased(12) as held:
        assert not held
    clock.now += 2
    with two.leased(12) as held:
        assert held
        one._renew(12)  # a ghost's renewal takes nothing back
        holder = two.lease(12)
        assert holder is not None
        assert holder.owner == "two"


def test_a_lease_that_is_renewed_stays(tmp_path: Path) -> None:
    clock = Clock()
    one, two = opened(tmp_path, "one", clock), opened(tmp_path, "two", clock)
    assert one._acquire(12)
    clock.now += LEASE_SECONDS - 1
    one._renew(12)
    clock.now += LEASE_SECONDS - 1
    with two.leased(12) as held:
        assert not held


def test_what_is_no_workspace_is_named(tmp_path: Path) -> None:
    (tmp_path / "workspace.db").write_text("something else altogether" * 100)
    with pytest.raises(SessionError, match=r"workspace\.db is not a workspace"):
        opened(tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SessionError, match="choose another folder"):
        opened(blocked / "below")
