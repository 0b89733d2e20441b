"""A stand-in server with a task, an agent and annotators, for tests of the agent's commands."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.monitor import Monitor
from hvsa_cvat.agent.reports import TaskReport
from hvsa_cvat.agent.settings import load_settings
from hvsa_cvat.agent.status import TaskStatus, read_status
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.ports import silent
from hvsa_cvat.types import IGNORE, LabelMap
from tests import tiny
from tests.people import answer_job, open_jobs
from tests.standin import StandIn

LENGTH = 6
NAMES = tuple(tiny.LABELS)


class Team:
    """A server with one task, an agent's account and two annotators, and an agent's workspace."""

    def __init__(self, cvat: StandIn, root: Path, checkpoint: Path) -> None:
        self.cvat = cvat
        self.root = root
        self.checkpoint = checkpoint
        self.now = 1_000_000.0
        self.lines: list[str] = []
        for name in ("ann", "bob"):
            cvat.add_user(name, groups=["worker"])
        self.task = self.add_task("clip")

    def add_task(self, name: str, **settings: Any) -> int:
        texture = np.random.default_rng(0).integers(0, 40, (*tiny.SIZE, 1), np.uint8)
        frames = [tiny.COLOURS[tiny.truth(t)] + texture for t in range(LENGTH)]
        labels = [] if "project" in settings else list(NAMES)
        task: int = self.cvat.add_task(name, labels, frames=frames, **settings).id
        return task

    def agent(
        self,
        owner: str = "agent",
        workspace: str = "workspace",
        organization: str | None = None,
        monitor: Monitor | None = None,
    ) -> AgentContext:
        environment = {"CVAT_ACCESS_TOKEN": self.cvat.admin.token, "CVAT_HOST": self.cvat.url}
        settings = load_settings(
            None, environment, organization=organization, workspace=self.root / workspace
        )
        client = CvatClient(
            settings.address,
            settings.credentials,
            sleep=lambda seconds: None,
            rng=random.Random(0),
            log=self.lines.append,
            count=monitor.request if monitor is not None else lambda outcome: None,
        )
        agent = AgentContext(
            settings,
            Workspace(settings.workspace, server_key(self.cvat.url), owner, lambda: self.now),
            client,
            clock=lambda: self.now,
            log=self.lines.append,
            progress=silent,
        )
        return agent if monitor is None else replace(agent, finished=monitor.phase)

    @property
    def options(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "granularity": "rectangle:16",
            "method": "label-propagation",
            "budget": "30%,60%",
            "annotators": ["ann", "bob"],
            "device": "cpu",
            "size": "48x64",
            "picture_side": 64,  # fast; tests of cards have large ones
        }

    def answer(self) -> int:
        """Everybody finishes the jobs that are assigned to them; how many jobs that were."""
        jobs = open_jobs(self.cvat)
        for job in jobs:
            assignee = self.cvat.job(job).assignee
            person = self.cvat.person(assignee.username if assignee else "admin")
            answer_job(self.cvat, person, job, tiny.truth, NAMES)
        return len(jobs)

    def status(self) -> list[TaskStatus]:
        """What the workspace tells of the tasks."""
        return list(read_status(self.root / "workspace", self.cvat.url, self.now))

    def shown(self, task: int | None = None) -> list[LabelMap]:
        """What the masks of the parent task show, frame by frame; each pixel at most once."""
        maps = [np.full(tiny.SIZE, IGNORE, np.uint8) for _ in range(LENGTH)]
        row = self.cvat.task(task or self.task)
        index = {label.id: NAMES.index(label.name) for label in row.labels if label.name in NAMES}
        for job in (job for job in row.jobs if job.type == "annotation"):
            for shape in self.cvat.shapes(job):
                filled = fill_shape(shape, tiny.SIZE) if shape["type"] == "mask" else None
                if filled is not None:
                    window, mask = filled
                    inside = maps[shape["frame"]][window]
                    assert (inside[mask] == IGNORE).all(), "two masks on one pixel"
                    inside[mask] = index[shape["label_id"]]
        return maps


class Kept:
    """A team as it is now, to begin from several times."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._world = team.cvat.snapshot()
        self._folder = team.root / "kept"
        shutil.copytree(team.root / "workspace", self._folder)

    def again(self) -> Team:
        """The team as it was."""
        team = self._team
        team.cvat.restore(self._world)
        shutil.rmtree(team.root / "workspace")
        shutil.copytree(self._folder, team.root / "workspace")
        team.lines.clear()
        return team


def only(reports: Iterator[TaskReport]) -> TaskReport:
    (report,) = reports
    return report


def only_folder(team: Team, task: int | str = "*") -> Path:
    (folder,) = (team.root / "workspace" / "tasks").glob(f"*-{task}-*")
    return folder
