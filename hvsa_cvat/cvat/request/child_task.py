"""What the child task of one request is to be like."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hvsa_cvat.cvat.request.companion_project import CompanionProject, fit_name
from hvsa_cvat.cvat.request.plan import Plan
from hvsa_cvat.cvat.state import Card
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.types import Packed, Size


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
    """The file name of each card, in order."""

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(H, W) of the picture of each card."""
        return tuple(card.size for card in self.plan.cards)


def describe_child(task: WatchedTask, key: str, plan: Plan, project: CompanionProject) -> ChildTask:
    """The child task of the request `key` about `task`."""
    found = re.search(r"/rounds/(\d+)$", key)
    what = "HVSA audit" if plan.audit else "HVSA"
    head = f"{what} round {found[1]}: " if found else f"{what}: "
    name = fit_name(head, task.name, f"(task {task.id})")
    labels: list[list[int]] = [[] for _ in plan.cards]
    for part in plan.parts:
        labels[part.card].append(part.label)
    files = tuple(
        _file_name(task, card, _digest(card, content, shown, project.tag))
        for card, content, shown in zip(plan.cards, plan.contents, labels, strict=True)
    )
    return ChildTask(key, name, project, plan, files)


def _file_name(task: WatchedTask, card: Card, digest: str) -> str:
    """Says where the card lies: task and frame, its place there in pixels, how far enlarged."""
    number = task.media.numbers[card.sample.frame]
    place = f"x{card.left}_y{card.top}_z{card.factor}"
    return f"p{task.id}_f{number:06d}_{place}_{digest}.png"


def _digest(card: Card, content: Packed, labels: Sequence[int], tag: int) -> str:
    """Differs between cards that show something else: a session that began anew uses the keys of
    the one before, and may ask for other samples.

    It differs, too, where the label of the tag is another one: if somebody deleted the old one, the
    tags of an older child task are gone, and its cards would look as if people had checked them.
    """
    digest = hashlib.sha256(repr((card, labels, tag)).encode())
    digest.update(content.array.tobytes())
    return digest.hexdigest()[:8]
