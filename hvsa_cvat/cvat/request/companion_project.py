"""The companion project: the project of the child tasks, with their labels and the guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvsa_cvat.cvat.connection import Log, TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Uncertain
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.keys import OURS, companion_key, is_request_about
from hvsa_cvat.cvat.request.guide import guide_text, tag_name, tells_of_planted
from hvsa_cvat.cvat.request.write_guide import write_guide
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import ConfigError, ServerError

_ATTEMPTS = 3
"""How often labels are sent again if nobody knows whether they were added."""
_HEAD = "HVSA check: "
"""Version 0.1 called its projects `HVSA: `; their labels are of another type."""
_TAG_COLOUR = "#ff0000"
_LONGEST_NAME = 256
"""Characters that CVAT allows in the name of a project or a task."""


@dataclass(frozen=True)
class CompanionProject:
    """Ids on the server."""

    id: int
    labels: dict[int, int]
    """Label id by class index."""
    tag: int
    """The label of the tag that a card has until somebody has checked it."""


def open_companion_project(
    connection: TaskConnection, class_order: Sequence[int], *, planted: bool = False
) -> CompanionProject:
    """Find or make the companion project, and add the labels and the guide that it lacks.

    All tasks of one parent project share it; a task outside projects has its own. `class_order`
    are class indices, the most frequent first. `planted`: some masks of this task are wrong on
    purpose.
    """
    client, task = connection.client, connection.task
    wanted = _labels(task, class_order)
    project = _find_or_make(client, task, wanted)
    present = _complete_labels(client, project["id"], wanted, connection.log)
    names = task.labels.names
    order = [label["name"] for label in present if label["name"] in names]
    shared = _asks_about_others(client, project["id"], task.id)

    def words(picture: str, guide: str) -> str:
        # of which tasks it was said is not known; it may be true of another one
        told = planted or (shared and tells_of_planted(guide))
        organization = client.address.organization
        return guide_text(order, tag_name(names), organization, picture, planted=told)

    write_guide(client, project["id"], words, connection.log)
    ids = {label["name"]: int(label["id"]) for label in present}
    labels = {index: ids[name] for index, name in enumerate(names)}
    return CompanionProject(project["id"], labels, ids[tag_name(names)])


def _asks_about_others(client: CvatClient, project: int, task: int) -> bool:
    """Whether people are asked about other tasks in the project, too."""
    rows = client.rows("tasks", project_id=project)
    return any(not is_request_about(row.get("bug_tracker") or "", task) for row in rows)


def refuse_companion(project: Json) -> None:
    """`ConfigError` for a project that an agent made: its tasks only ask about other ones."""
    if str(project.get("bug_tracker") or "").startswith(OURS):
        raise ConfigError(
            f"project {project['id']} ({project['name']!r}) is one that an agent made to ask "
            "people; name the project that it asks about"
        )


def _labels(task: WatchedTask, class_order: Sequence[int]) -> list[Json]:
    """The labels of the project; the tag is the last, so that the classes have the first keys.

    A mask whose label takes masks only can be relabelled by key, and `N` begins with the brush.
    """
    order = dict.fromkeys([*class_order, *range(len(task.classes))])
    classes: list[Json] = [
        {
            "name": task.classes[index].name,
            "color": task.classes[index].color,
            "type": "mask",
            "attributes": [],
        }
        for index in order
    ]
    name = tag_name(task.labels.names)
    return [*classes, {"name": name, "color": _TAG_COLOUR, "type": "tag", "attributes": []}]


def _find_or_make(client: CvatClient, task: WatchedTask, labels: Sequence[Json]) -> Json:
    """The project, found by its key or its name; it is renamed when its parent was renamed."""
    key = companion_key(client.address.url, task.id, task.project)
    if task.project is None:
        title, tail = task.name, f"(task {task.id})"
    else:
        # an account that may see a task may still not see its project, nor the name
        title, tail = task.project_name or "", f"(project {task.project})"
    name = fit_name(_HEAD, title, tail)

    def find() -> Json | None:
        rows = client.rows("projects", filter={"in": [_HEAD, {"var": "name"}]})
        ours = [row for row in rows if row["bug_tracker"] == key or row["name"] == name]
        return next(iter(ours), None)

    content = {"name": name, "bug_tracker": key, "labels": labels}
    project = client.create("projects", content, find)
    if title and project["name"] != name and project["name"].endswith(tail):
        client.change("PATCH", f"projects/{project['id']}", {"name": name})
    return project


def _complete_labels(
    client: CvatClient, project: int, wanted: Sequence[Json], log: Log
) -> list[Json]:
    """Add the labels that a project lacks; all its labels, in order of their keys.

    Labels that are there keep their places: annotators have learned the keys.
    """
    doubt: Uncertain | None = None
    for _ in range(_ATTEMPTS + 1):
        present = client.rows("labels", project_id=project)
        names = {label["name"] for label in present}
        missing = [label for label in wanted if label["name"] not in names]
        if not missing:
            return present
        try:
            client.send("PATCH", f"projects/{project}", {"labels": missing})
        except Uncertain as error:
            log(f"{error}; looking whether it was")
            doubt = error
    raise doubt or ServerError(
        f"{client.address.url} does not keep the labels of project {project}; check the server's "
        "version with `hvsa-agent doctor`"
    )


def fit_name(head: str, title: str, tail: str) -> str:
    """A name that is short enough for CVAT: the title is cut where it is too long."""
    room = _LONGEST_NAME - len(head) - len(tail) - 1
    title = title if len(title) <= room else f"{title[: room - 3]}..."
    return f"{head}{title} {tail}" if title else f"{head}{tail}"
