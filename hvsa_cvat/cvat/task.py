"""A watched task: its classes and its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.media import TaskMedia, missing_task, read_media
from hvsa_cvat.errors import AnnotationError, ConfigError
from hvsa_cvat.lookalikes import twin_hint
from hvsa_cvat.name_lists import join_names
from hvsa_cvat.types import LabelSet, Size

_CARRIES_MASKS = ("any", "mask", "polygon")
"""The types of labels with which people can draw and correct dense masks in the web page."""

_RESERVED = "hvsa:"
"""Labels in the companion projects of earlier versions; people copy the labels of a project."""


@dataclass(frozen=True)
class ClassLabel:
    """A label of the task that dense masks can have; its class index is its position."""

    id: int
    name: str
    """Its name when the task was enrolled, even if people have renamed it since."""
    color: str
    """As the server has it: `#rrggbb`."""
    type: str
    """`any`, `mask` or `polygon`."""


@dataclass(frozen=True)
class WatchedTask:
    """A task as the server describes it now."""

    id: int
    name: str
    project: int | None
    project_name: str | None
    classes: tuple[ClassLabel, ...]
    left_out: tuple[str, ...]
    """Names of the labels that masks cannot have (skeletons, points, tags, ...)."""
    new_labels: tuple[str, ...]
    """Names of labels that masks can have, but that were added after the task was enrolled."""
    background: frozenset[int]
    """Class indices that are learned but not published."""
    media: TaskMedia

    @cached_property
    def labels(self) -> LabelSet:
        return LabelSet(tuple(label.name for label in self.classes))

    @property
    def size(self) -> Size:
        return self.media.size

    @property
    def label_ids(self) -> list[int]:
        """The ids of the classes' labels, in class order."""
        return [label.id for label in self.classes]

    def index_of(self, label_id: int) -> int | None:
        """The class index of a label; None for a label that is not a class."""
        return self._indices.get(label_id)

    @cached_property
    def _indices(self) -> dict[int, int]:
        return {label.id: index for index, label in enumerate(self.classes)}


def read_task(
    client: CvatClient,
    task: int,
    background: Sequence[str] = (),
    known: Sequence[tuple[int, str]] | None = None,
    in_use: Sequence[int] | None = None,
) -> WatchedTask:
    """A task, its classes by ascending id of their labels.

    `background` names the classes that are not published. `known` are the (label id, name) of the
    classes when the task was enrolled; their order stays. A renamed label is found by its id, a
    label with a new id (the task moved into a project) by its name. `in_use` are the numbers of
    the frames that were in use then; they stay in use when people delete them.

    Raises `AnnotationError` for labels, `ConfigError` for `background`, `MediaError` for frames
    that cannot be used, `NotFound` and `Forbidden` for the task itself.
    """
    row = _read_row(client, task)
    media = read_media(client, row, in_use)
    found = _read_labels(client, task)
    if known is not None:
        classes = follow_labels(task, known, found)
    else:
        classes = tuple(label for label in found if label.type in _CARRIES_MASKS)
        for label in classes:
            if label.name.startswith(_RESERVED):
                raise AnnotationError(
                    f"label {label.name!r} of task {task} is no class: names that begin with "
                    f"{_RESERVED!r} are those of tasks in which hvsa-agent asks people; delete or "
                    "rename it in CVAT"
                )
    if not classes:
        raise AnnotationError(
            f"task {task} has no label that masks can carry; add labels of type any, mask or "
            "polygon to it in CVAT"
        )
    names = [label.name for label in classes]
    background = join_names(background, names)
    if unknown := sorted(set(background) - set(names)):
        raise ConfigError(
            f"task {task} has no class {unknown[0]!r} that could be background; its classes are "
            f"{', '.join(names)}{twin_hint(unknown[0], names)}"
        )
    ours = {label.id for label in classes}
    others = [label for label in found if label.id not in ours]
    return WatchedTask(
        id=task,
        name=row["name"],
        project=row["project_id"],
        project_name=_project_name(client, row),
        classes=classes,
        left_out=tuple(o.name for o in others if o.type not in _CARRIES_MASKS),
        new_labels=tuple(o.name for o in others if o.type in _CARRIES_MASKS),
        background=frozenset(names.index(name) for name in background),
        media=media,
    )


def read_label_ids(
    client: CvatClient, task: int, known: Sequence[tuple[int, str]]
) -> list[int | None]:
    """The ids that the labels of the `known` classes have now; None for labels that are gone."""
    found = _follow(known, _read_labels(client, task))
    return [None if label is None else label.id for label in found]


def _read_labels(client: CvatClient, task: int) -> list[ClassLabel]:
    return [
        ClassLabel(label["id"], label["name"], label["color"], label["type"])
        for label in client.rows("labels", task_id=task)
        if not label.get("has_parent")
    ]


def _read_row(client: CvatClient, task: int) -> Json:
    try:
        row: Json = client.get(f"tasks/{task}")
    except NotFound as error:
        raise missing_task(client.address, task) from error
    except Forbidden as error:
        raise Forbidden(
            f"this account may not read task {task} of {client.address.url}; make it the assignee "
            "of the task, or a maintainer of its organisation"
        ) from error
    return row


def follow_labels(
    task: int, known: Sequence[tuple[int, str]], found: Sequence[ClassLabel]
) -> tuple[ClassLabel, ...]:
    """The labels of the `known` classes as they are now, under the names that they had then."""
    classes = []
    for (_, name), label in zip(known, _follow(known, found), strict=True):
        if label is None:
            raise AnnotationError(
                f"label {name!r} of task {task} is gone; add a label of that name to it in CVAT, "
                "or withdraw the task and enroll it anew"
            )
        if label.type not in _CARRIES_MASKS:
            raise AnnotationError(
                f"label {label.name!r} of task {task} is now of type {label.type}, which carries "
                "no masks; make it any, mask or polygon in CVAT"
            )
        classes.append(replace(label, name=name))
    return tuple(classes)


def _follow(
    known: Sequence[tuple[int, str]], found: Sequence[ClassLabel]
) -> list[ClassLabel | None]:
    by_id = {label.id: label for label in found}
    ids = {label_id for label_id, _ in known}
    # A class keeps a label that was renamed, so another class must not get that label by its name.
    by_name = {label.name: label for label in found if label.id not in ids}
    return [by_id.get(label_id) or by_name.get(name) for label_id, name in known]


def _project_name(client: CvatClient, row: Json) -> str | None:
    if row["project_id"] is None:
        return None
    # Only newer servers send it with the task; an account may see a task and not its project.
    name: str | None = row.get("project_name")
    if name is None:
        try:
            name = client.get(f"projects/{row['project_id']}")["name"]
        except (NotFound, Forbidden):
            return None
    return name
