"""The companion project: the project of the child tasks, with their labels and the guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvsa_cvat.cvat.connection import Log, TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Uncertain
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.keys import OURS, companion_keys
from hvsa_cvat.cvat.request.guide import (
    CLASS_ATTRIBUTE,
    REGION_LABEL,
    UNSET,
    attribute_values,
    guide_text,
    merge,
)
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import ConfigError, ServerError

_ATTEMPTS = 3
"""How often labels are sent again if nobody knows whether they were added."""
_LONGEST_NAME = 256
"""Characters that CVAT allows in the name of a project or a task."""


@dataclass(frozen=True)
class CompanionProject:
    """Ids on the server."""

    id: int
    region_label: int
    """The label of the outlines."""
    class_attribute: int
    """The attribute of that label that holds a region's class."""


def open_companion_project(
    connection: TaskConnection, class_order: Sequence[int]
) -> CompanionProject:
    """Find or make the companion project, and add the labels, values and guide that it lacks.

    All tasks of one parent project share it; a task outside projects has its own. `class_order`
    are class indices, the most frequent first.
    """
    client, task = connection.client, connection.task
    wanted = _labels(task, class_order)
    project = _find_or_make(client, task, wanted)
    label = _complete_labels(client, project["id"], wanted, connection.log)[REGION_LABEL]
    attribute = _class_attribute(label)
    assert attribute is not None
    text = guide_text(attribute["values"], task.labels.names, client.address.organization)
    _put_guide(client, project["id"], text)
    return CompanionProject(project["id"], label["id"], attribute["id"])


def refuse_companion(project: Json) -> None:
    """`ConfigError` for a project that an agent made: its tasks only ask about other ones."""
    if str(project.get("bug_tracker") or "").startswith(OURS):
        raise ConfigError(
            f"project {project['id']} ({project['name']!r}) is one that an agent made to ask "
            "people; name the project that it asks about"
        )


def _labels(task: WatchedTask, class_order: Sequence[int]) -> list[Json]:
    """The labels of the project; the label of the outlines is the last."""
    region: Json = {
        "name": REGION_LABEL,
        "color": "#ffffff",
        "type": "polyline",
        "attributes": [
            {
                "name": CLASS_ATTRIBUTE,
                "input_type": "select",
                "mutable": False,
                "default_value": UNSET,
                "values": attribute_values(task.labels.names, class_order),
            }
        ],
    }
    classes: list[Json] = [
        {"name": label.name, "color": label.color, "type": "any", "attributes": []}
        for label in task.classes
    ]
    return [*classes, region]


def _find_or_make(client: CvatClient, task: WatchedTask, labels: Sequence[Json]) -> Json:
    """The project, found by its key or its name; it is renamed when its parent was renamed."""
    keys = companion_keys(client.address.url, task.id, task.project)
    if task.project is None:
        title, tail = task.name, f"(task {task.id})"
    else:
        # an account that may see a task may still not see its project, nor the name
        title, tail = task.project_name or "", f"(project {task.project})"
    name = fit_name("HVSA: ", title, tail)

    def find() -> Json | None:
        rows = client.rows("projects", filter={"in": ["HVSA: ", {"var": "name"}]})
        ours = [row for row in rows if row["bug_tracker"] in keys or row["name"] == name]
        return next(iter(ours), None)

    content = {"name": name, "bug_tracker": keys[0], "labels": labels}
    project = client.create("projects", content, find)
    if title and project["name"] != name and project["name"].endswith(tail):
        client.change("PATCH", f"projects/{project['id']}", {"name": name})
    return project


def _complete_labels(
    client: CvatClient, project: int, wanted: Sequence[Json], log: Log
) -> dict[str, Json]:
    """Add the labels, and values of the attribute, that a project lacks; labels by name.

    Labels and values that are there keep their places: annotators have learned the keys.
    """
    doubt: Uncertain | None = None
    for _ in range(_ATTEMPTS + 1):
        present = {label["name"]: label for label in client.rows("labels", project_id=project)}
        edits = [label for label in wanted if label["name"] not in present]
        if REGION_LABEL in present:
            edits += _missing_values(present[REGION_LABEL], wanted[-1])
        if not edits:
            return present
        try:
            client.send("PATCH", f"projects/{project}", {"labels": edits})
        except Uncertain as error:
            log(f"{error}; looking whether it was")
            doubt = error
    raise doubt or ServerError(
        f"{client.address.url} does not keep the labels of project {project}; check the server's "
        "version with `hvsa-agent doctor`"
    )


def _missing_values(present: Json, wanted: Json) -> list[Json]:
    """The edit that gives the label of the outlines all its values; empty if it has them."""
    target = _class_attribute(wanted)
    attribute = _class_attribute(present)
    assert target is not None
    if attribute is not None:
        values = list(dict.fromkeys([*attribute["values"], *target["values"]]))
        if values == attribute["values"]:
            return []
        target = {**attribute, "values": values}
    known = {field: present[field] for field in ("id", "name", "color", "type")}
    return [{**known, "attributes": [target]}]


def _class_attribute(label: Json) -> Json | None:
    return next((a for a in label["attributes"] if a["name"] == CLASS_ATTRIBUTE), None)


def _put_guide(client: CvatClient, project: int, text: str) -> None:
    """Write `text` into the guide of a project, beside what people wrote there."""

    def find() -> Json | None:
        number = client.get(f"projects/{project}")["guide_id"]
        guide: Json | None = None if number is None else client.get(f"guides/{number}")
        return guide

    content = {"project_id": project, "markdown": merge("", text)}
    # a second guide of one project is a server error, so it is looked for first
    guide = find() or client.create("guides", content, find)
    merged = merge(guide["markdown"], text)
    if merged != guide["markdown"]:
        client.change("PATCH", f"guides/{guide['id']}", {"markdown": merged})


def fit_name(head: str, title: str, tail: str) -> str:
    """A name that is short enough for CVAT: the title is cut where it is too long."""
    room = _LONGEST_NAME - len(head) - len(tail) - 1
    title = title if len(title) <= room else f"{title[: room - 3]}..."
    return f"{head}{title} {tail}" if title else f"{head}{tail}"
