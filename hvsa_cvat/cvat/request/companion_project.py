"""The companion project: the project of the child tasks, with their labels and the guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvsa_cvat.cvat.connection import Log, TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Refused, Uncertain
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.keys import (
    OURS,
    companion_key,
    earlier_companion_key,
    is_request_about,
    label_digest,
)
from hvsa_cvat.cvat.request.guide import guide_text, people_s_words, tag_name, tells_of_planted
from hvsa_cvat.cvat.request.write_guide import write_guide
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import ConfigError, ServerError
from hvsa_cvat.plain_text import plural

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

    All tasks whose classes have the same names share it, within an organisation or personal space;
    a task that has its own, or that of its project, from an earlier version, goes on with that.
    `class_order` are class indices, the most frequent first. `planted`: some masks of this task
    are wrong on purpose.
    """
    client, task = connection.client, connection.task
    wanted = _labels(task, class_order)
    project = _find_or_make(client, task, wanted, connection.log)
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


def remove_if_empty(client: CvatClient, project: int) -> str | None:
    """Delete a companion project in which nothing is left; why it stays, or None where it is gone.

    What people wrote into its guide keeps it.
    """
    try:
        row = client.get(f"projects/{project}")
    except NotFound:
        return None
    if not str(row.get("bug_tracker") or "").startswith(OURS):
        return "it does not carry our key any more"
    if tasks := client.rows("tasks", project_id=project):
        return f"it holds {plural(len(tasks), 'task')}"
    number = row.get("guide_id")
    if number is not None and people_s_words(client.get(f"guides/{number}")["markdown"]):
        return "people have written into its guide"
    try:
        client.change("DELETE", f"projects/{project}")
    except (Forbidden, Refused) as error:
        return str(error)
    return None


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


def _find_or_make(client: CvatClient, task: WatchedTask, labels: Sequence[Json], log: Log) -> Json:
    """The project, found by its key or its name."""
    names, url = task.labels.names, client.address.url
    key = companion_key(url, names)
    earlier = earlier_companion_key(url, task.id, task.project)
    name = fit_name(_HEAD, ", ".join(names), f"(labels {label_digest(names)})")

    def find() -> Json | None:
        rows = client.rows("projects", filter={"in": [_HEAD, {"var": "name"}]})
        ours = [row for row in rows if row["bug_tracker"] == key or row["name"] == name]
        before = [row for row in rows if row["bug_tracker"] == earlier]
        return next(iter([*before, *ours]), None)

    if (known := find()) is not None:
        return known
    made = client.create("projects", {"name": name, "bug_tracker": key, "labels": labels}, find)
    # two agents that found none make two; both take the older one
    oldest = find() or made
    if oldest["id"] != made["id"] and not client.rows("tasks", project_id=made["id"]):
        client.change("DELETE", f"projects/{made['id']}")
        log(f"project {oldest['id']} was made by another agent just now; project {made['id']} goes")
    return oldest


def _complete_labels(
    client: CvatClient, project: int, wanted: Sequence[Json], log: Log
) -> list[Json]:
    """Add the labels that a project lacks; all its labels, in order of their keys.

    Labels that are there keep their places: annotators have learned the keys. Where people have
    renamed, deleted or changed some, the log is told.
    """
    doubt: Uncertain | None = None
    types = {label["name"]: label["type"] for label in wanted}
    for attempt in range(_ATTEMPTS + 1):
        present = client.rows("labels", project_id=project)
        names = {label["name"] for label in present}
        missing = [label for label in wanted if label["name"] not in names]
        if not missing:
            _tell_of_types(project, present, types, log)
            return present
        if attempt == 0 and present:
            lost = ", ".join(repr(label["name"]) for label in missing)
            log(
                f"project {project} lacks the label {lost}: it is added, as the last; a "
                "renamed one keeps what people drew with it, but does not count as a class"
            )
        try:
            client.send("PATCH", f"projects/{project}", {"labels": missing})
        except Uncertain as error:
            log(f"{error}; looking whether it was")
            doubt = error
    raise doubt or ServerError(
        f"{client.address.url} does not keep the labels of project {project}; check the server's "
        "version with `hvsa-agent doctor`"
    )


def _tell_of_types(project: int, present: Sequence[Json], types: dict[str, str], log: Log) -> None:
    for label in present:
        wanted = types.get(label["name"], label["type"])
        if label["type"] != wanted:
            log(
                f"the label {label['name']!r} of project {project} is of type {label['type']} now; "
                f"make it {wanted} again in CVAT, or its keys do other things than the guide says"
            )


def fit_name(head: str, title: str, tail: str) -> str:
    """A name that is short enough for CVAT: the title is cut where it is too long."""
    room = _LONGEST_NAME - len(head) - len(tail) - 1
    title = title if len(title) <= room else f"{title[: room - 3]}..."
    return f"{head}{title} {tail}" if title else f"{head}{tail}"
