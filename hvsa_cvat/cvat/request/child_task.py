"""What the child task of one request is to be like."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hvsa_cvat.cvat.request.companion_project import CompanionProject, fit_name
from hvsa_cvat.cvat.request.plan import Plan
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.types import Size


@dataclass(frozen=True)
class ChildTask:
    """A child task as it is wanted, whether it is there already or not."""

    key: str
    """Its issue tracker link."""
    name: str
    """Annotators search the job list by it."""
    project: CompanionProject
    plan: Plan
    files: tuple[str, ...]
    """The file name of each frame, in order."""
    size: Size
    """Of the frames, (H, W)."""


def describe_child(task: WatchedTask, key: str, plan: Plan, project: CompanionProject) -> ChildTask:
    """The child task of the request `key` about `task`."""
    found = re.search(r"/rounds/(\d+)$", key)
    head = f"HVSA round {found[1]}: " if found else "HVSA: "
    name = fit_name(head, task.name, f"(task {task.id})")
    numbers = [task.media.numbers[position] for position in plan.frames]
    files = tuple(f"p{task.id}_f{number:06d}.png" for number in numbers)
    return ChildTask(key, name, project, plan, files, task.size)
