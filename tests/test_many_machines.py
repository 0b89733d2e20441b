"""A task that goes on in another folder at each pass: one set of databases, one bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.extend import Extension, extend
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.enrolled.asked import asked_pixels
from hvsa_cvat.enrolled.pictures import frame_masks
from hvsa_cvat.enrolled.runs import read_run
from hvsa_cvat.export.masks import RoundMasks
from hvsa_cvat.objects import forget_buckets
from tests.buckets import another_machine, without_files
from tests.standin import StandIn
from tests.team import Team, only, only_folder


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    forget_buckets()
    with StandIn() as cvat:
        yield Team(cvat, tmp_path, checkpoint)


def on_machine(team: Team, folder: str, artefacts: str) -> AgentContext:
    agent = team.agent(workspace="elsewhere")
    settings = replace(agent.settings, workspace=team.root / folder, artefacts=artefacts)
    key = server_key(team.cvat.url)
    workspace = Workspace(settings.place, key, folder, lambda: team.now)
    return replace(agent, settings=settings, workspace=workspace)


def masks(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.glob("rounds/*/label_maps/*.png"))
    }


def test_the_phases_of_a_task_run_on_two_machines_in_turn(team: Team) -> None:
    """Each pass begins without any file of those before, and ends in the same masks."""
    address = f"file://{team.root}/bucket"
    options = {**team.options, "granularity": "superpixel-merged:12,frame", "method": "hvsa"}
    other, alone = team.add_task("clip"), team.agent()
    enroll(alone, other, options)
    enroll(on_machine(team, "one", address), team.task, options)
    machines = ["two", "one"] * 6
    for _ in range(8):
        folder = machines.pop(0)
        another_machine(team.root / "one", team.root / folder) if folder == "two" else None
        without_files(team.root / folder)
        reports = [
            only(sync(on_machine(team, folder, address), team.task)),
            only(sync(alone, other)),
        ]
        assert [report.error for report in reports] == [None, None]
        if reports[0].done:
            break
        team.answer()
    assert [report.done for report in reports] == [True, True]
    shown = [[one.tolist() for one in team.shown(task)] for task in (team.task, other)]
    assert shown[0] == shown[1]

    # a third one that only looks
    another_machine(team.root / "one", team.root / "three")
    agent = on_machine(team, "three", address)
    enrollment = agent.workspace.enrollment(team.task)
    assert enrollment is not None
    run = read_run(agent.workspace.session_place(enrollment))
    expected = read_run(only_folder(team, other))
    assert [bool(one.shown) for one in run.rounds] == [bool(one.shown) for one in expected.rounds]
    assert (frame_masks(run, 2, 3) == frame_masks(expected, 2, 3)).all()
    assert [one.agreement for one in run.rounds] == [one.agreement for one in expected.rounds]
    for number in range(3):
        list(RoundMasks(run, number))
    assert masks(run.root) == masks(expected.root)
    assert list((team.root / "bucket").rglob("segments/*/*"))
    asked = [asked_pixels(one, 1, 3, (48, 64), (48, 64)) for one in (run, expected)]
    assert (asked[0] == asked[1]).all()
    extend(agent, team.task, Extension("80%", 1, None, None))
    assert only(sync(agent, team.task)).error is None
