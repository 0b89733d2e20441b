"""`withdraw` while the server loses answers and people delete tasks: it ends all the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.withdraw import withdraw
from hvsa_cvat.cvat.http.errors import NotFound
from tests.standin import Fault, Request, StandIn
from tests.standin.model import World
from tests.team import Team, only

Gone = Literal["task", "child task"]


class Scene:
    """A task whose masks are shown and whose people are asked, as often as it is needed."""

    def __init__(self, team: Team) -> None:
        self.team = team
        agent = team.agent(workspace="asked")
        enroll(agent, team.task, {**team.options, "quiet_minutes": 0.0})
        assert only(sync(agent)).open_jobs
        self._server: World = team.cvat.snapshot()
        self._told = 0

    def begin_again(self) -> None:
        self._told += 1
        root = self.team.root
        shutil.copytree(root / "asked", root / f"workspace-{self._told}")
        self.team.cvat.restore(self._server)
        self.team.cvat.requests.clear()

    def withdraw(self, children: bool, organization: str | None = None) -> None:
        agent = self.team.agent(workspace=f"workspace-{self._told}", organization=organization)
        with agent.client:
            withdraw(agent, self.team.task, children=children)
            assert agent.workspace.enrollment(self.team.task) is None

    def requests(self, children: bool) -> list[Request]:
        """Those of a withdrawal that nobody disturbs."""
        self.begin_again()
        self.withdraw(children)
        return list(self.team.cvat.requests)

    def drop(self, gone: Gone) -> None:
        """Somebody deletes a task, if it is still there."""
        world = self.team.cvat.world
        number = self.team.task + (gone == "child task")
        if number in world.tasks:
            world.drop(world.tasks[number])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Scene]:
    with StandIn() as cvat:
        yield Scene(Team(cvat, tmp_path_factory.mktemp("withdraw"), checkpoint))


def aborted(
    scene: Scene, gone: Gone, children: bool, fault: Fault | None, moments: list[int]
) -> list[str]:
    """The requests before which the deletion of a task aborts `withdraw`; the request before each
    of them has no answer where `fault` says so."""
    cvat, found = scene.team.cvat, []

    def hook(request: Request) -> None:
        if request.number == moment:
            scene.drop(gone)

    for moment in moments:
        scene.begin_again()
        cvat.before_request = hook
        cvat.faults = {} if fault is None else {moment - 1: fault}
        try:
            scene.withdraw(children)
        except NotFound as error:
            found.append(f"{moment} {cvat.requests[-1]}: {error}")
        finally:
            cvat.before_request, cvat.faults = None, {}
    return found


@pytest.mark.parametrize("children", [False, True])
@pytest.mark.parametrize("gone", ["task", "child task"])
def test_a_task_may_be_deleted_at_any_moment(scene: Scene, gone: Gone, children: bool) -> None:
    requests = scene.requests(children)
    assert len(requests) > 10
    assert aborted(scene, gone, children, None, [one.number for one in requests]) == []


def test_a_task_may_be_deleted_while_somebody_is_at_work_in_it(scene: Scene) -> None:
    """Between the reading that finds a job at work and the one that asks how it stands now."""
    cvat, team = scene.team.cvat, scene.team
    scene.begin_again()
    first = cvat.task(team.task).jobs[0].id

    def hook(request: Request) -> None:
        if request.path.endswith(f"/jobs/{first}/annotations/") and request.method == "GET":
            person = cvat.person(cvat.admin)
            label = cvat.label(cvat.task(team.task), "box")
            person.draw(first, {"frame": 0, "label_id": label, "points": [1, 1, 9, 1, 9, 9]})
            saved.append(request.number)
        # after it: the look before anything is deleted, and then how the job stands
        elif saved and request.number == saved[0] + 2:
            scene.drop("task")

    saved: list[int] = []
    cvat.before_request = hook
    try:
        scene.withdraw(children=False)
    finally:
        cvat.before_request = None
    assert saved
    assert f"job {first} is gone, and our shapes with it" in team.lines


@pytest.mark.parametrize("children", [False, True])
def test_a_wrong_organisation_is_no_deleted_task(scene: Scene, children: bool) -> None:
    team = scene.team
    scene.begin_again()
    shown = team.shown()
    with pytest.raises(NotFound, match="nobody organization does not exist"):
        scene.withdraw(children, organization="nobody")
    assert len(team.cvat.world.tasks) == 2
    scene.withdraw(children)
    assert all((now != before).any() for now, before in zip(team.shown(), shown, strict=True))
    assert len(team.cvat.world.tasks) == 2 - children
    if not children:
        with pytest.raises(NotFound, match="nobody organization does not exist"):
            scene.withdraw(children=True, organization="nobody")
        scene.withdraw(children=True)
        assert len(team.cvat.world.tasks) == 1


@pytest.mark.parametrize("fault", [Fault.LATE, Fault.RESET])
@pytest.mark.parametrize("children", [False, True])
@pytest.mark.parametrize("gone", ["task", "child task"])
def test_a_task_may_be_deleted_while_a_write_without_an_answer_is_looked_up(
    scene: Scene, gone: Gone, children: bool, fault: Fault
) -> None:
    """Whether the write was carried out or not."""
    writes = [one.number for one in scene.requests(children) if one.method != "GET"]
    assert len(writes) > 1
    assert aborted(scene, gone, children, fault, [number + 1 for number in writes]) == []
