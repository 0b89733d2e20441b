"""Annotations as the server keeps them: what it checks, what it lets pass, what it answers.

Kept sloppy on purpose. Checked are labels, attribute specs and how many numbers a shape has.
Not checked are frames, image borders, masks, and the shape type that a label asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .model import Job, Json, Label, Refusal, Row, Task, World

KINDS = ("tags", "shapes", "tracks")
TABLES = {"tags": "tag", "shapes": "shape", "tracks": "track"}
LEAST_POINTS = {
    "rectangle": 4,
    "ellipse": 4,
    "polygon": 6,
    "polyline": 4,
    "points": 2,
    "mask": 5,
    "cuboid": 16,
    "skeleton": 0,
}
REQUIRED = {"tags": ("frame", "label_id"), "tracks": ("frame", "label_id", "shapes")}


def show(jobs: Sequence[Job]) -> Json:
    """All rows; shapes by frame, and within one in no promised order: an updated one is last.

    Attributes that a row was stored without are read with their defaults.
    """
    answer: Json = {"version": 0}
    for kind in KINDS:
        rows = [complete(row, job) for job in jobs for row in getattr(job, kind).values()]
        answer[kind] = sorted(rows, key=lambda row: row["frame"])
    return answer


def complete(row: Row, job: Job) -> Json:
    """Of a track only what does not change from frame to frame belongs to the row itself."""
    label = next((one for one in job.task.labels if one.id == row["label_id"]), None)
    known = {one["spec_id"] for one in row["attributes"]}
    missing = [
        {"spec_id": spec["id"], "value": spec["default_value"]}
        for spec in (label.attributes if label else [])
        if spec["id"] not in known and not ("shapes" in row and spec["mutable"])
    ]
    return {**row, "attributes": [*row["attributes"], *missing]} if missing else row


def show_task(task: Task) -> Json:
    """The jobs together; what overlapping jobs both hold appears once, but masks never match."""
    answer = show([job for job in task.jobs if job.type == "annotation"])
    seen: set[Any] = set()
    shapes = []
    for row in answer["shapes"]:
        key = (row["frame"], row["type"], row["label_id"], tuple(row["points"]))
        if row["type"] == "mask" or key not in seen:
            shapes.append(row)
        seen.add(key)
    return {**answer, "shapes": shapes}


def change_task(world: World, task: Task, action: str, body: Json) -> Json:
    """Every row goes to each job that holds its frame; a row outside all jobs vanishes."""
    validate(body, action)
    answer: Json = {"version": 0, "tags": [], "shapes": [], "tracks": []}
    for job in (job for job in task.jobs if job.type == "annotation"):
        part = {
            kind: [row for row in body.get(kind) or [] if job.start <= row["frame"] <= job.stop]
            for kind in KINDS
        }
        if action == "put" or any(part.values()):
            done = change(world, job, action, part)
            for kind in KINDS:
                answer[kind] += done[kind]
    return answer


def change(world: World, job: Job, action: str, body: Json) -> Json:
    """create, update, delete or put. All or nothing; answers the rows with their ids."""
    validate(body, action)
    labels = {label.id: label for label in job.task.labels}
    if action != "delete":
        for kind in KINDS:
            for row in body.get(kind) or []:
                check_label(row, labels)
    if action == "put":
        for kind in KINDS:
            getattr(job, kind).clear()
    answer: Json = {"version": 0}
    for kind in KINDS:
        table: dict[int, Row] = getattr(job, kind)
        answer[kind] = []
        for row in body.get(kind) or []:
            number = row.get("id")
            if action == "delete":
                table.pop(number, None)
                answer[kind].append(echo(kind, row, number, stored=False))
                continue
            if number is None:
                number = world.new_id(TABLES[kind])
            else:
                # An id that is gone comes back: to the server an update is a delete and a create.
                world.next_ids[TABLES[kind]] = max(world.next_ids.get(TABLES[kind], 1), number + 1)
            table.pop(number, None)
            table[number] = store(world, kind, row, number)
            answer[kind].append(echo(kind, row, number, stored=True))
    return answer


def clear(job: Job) -> None:
    for kind in KINDS:
        getattr(job, kind).clear()


def validate(body: Json, action: str) -> None:
    """The checks of form; the answer to a bad row stands at its place in its list."""
    if not isinstance(body, dict):
        raise Refusal(400, {"non_field_errors": ["Invalid data. Expected a dictionary."]})
    faults: Json = {}
    for kind in KINDS:
        found = [check(kind, row, action) for row in body.get(kind) or []]
        if any(found):
            faults[kind] = found
    if faults:
        raise Refusal(400, faults)


def check(kind: str, row: Json, action: str) -> Json:
    for name in REQUIRED.get(kind, ("frame", "label_id", "type", "points")):
        if name not in row and (name, row.get("type")) != ("points", "skeleton"):
            return {name: ["This field is required."]}
    if action in ("create", "put") and row.get("id") is not None:
        return {"id": ["must be absent"]}
    if action == "delete" and row.get("id") is None:
        return {"id": ["This field is required."]}
    if not isinstance(row["frame"], int) or row["frame"] < 0:
        return {"frame": ["Ensure this value is greater than or equal to 0."]}
    if any(len(str(a.get("value", ""))) > 4096 for a in row.get("attributes") or []):
        return {"attributes": [{"value": ["Ensure this field has no more than 4096 characters."]}]}
    shapes = row["shapes"] if kind == "tracks" else [row] if kind == "shapes" else []
    for shape in shapes:
        points, form = shape.get("points") or [], shape.get("type")
        if form not in LEAST_POINTS:
            return {"type": [f'"{form}" is not a valid choice.']}
        if len(points) < LEAST_POINTS[form] or (form != "mask" and len(points) % 2):
            return {"non_field_errors": [f"Invalid points for the {form}"]}
        if form in ("rectangle", "ellipse") and len(points) != 4:
            return {"non_field_errors": [f"Expected 4 points for the {form}"]}
        if not -(2**31) <= shape.get("z_order", 0) < 2**31:
            raise Refusal(500, "integer out of range")
    if len(row.get("source") or "") > 16:
        raise Refusal(500, "value too long for type character varying(16)")
    return {}


def check_label(row: Json, labels: dict[int, Label]) -> None:
    label = labels.get(row["label_id"])
    if label is None:
        raise Refusal(400, [f"label_id `{row['label_id']}` is invalid"])
    specs = {attribute["id"] for attribute in label.attributes}
    shapes = row.get("shapes") or []
    for attribute in [a for part in (row, *shapes) for a in part.get("attributes") or []]:
        if attribute["spec_id"] not in specs:
            raise Refusal(400, [f"spec_id `{attribute['spec_id']}` is invalid"])


def values(row: Json) -> list[Json]:
    return [
        {"spec_id": a["spec_id"], "value": str(a["value"])} for a in row.get("attributes") or []
    ]


def geometry(row: Json) -> Json:
    return {
        "type": row["type"],
        "occluded": row.get("occluded", False),
        "outside": row.get("outside", False),
        "z_order": row.get("z_order", 0),
        "rotation": float(row.get("rotation", 0)),
        "points": list(map(float, row.get("points") or [])),
    }


def head(row: Json, number: int) -> Json:
    return {
        "id": number,
        "label_id": row["label_id"],
        "frame": row["frame"],
        "group": row.get("group"),
        "source": row.get("source", "manual"),
    }


def store(world: World, kind: str, row: Json, number: int) -> Row:
    """Fields that the server does not know are left behind; numbers of points become floats."""
    if kind == "tags":
        return Row(head(row, number), attributes=values(row))
    if kind == "shapes":
        return Row(head(row, number), **geometry(row), attributes=values(row), elements=[])
    shapes = [
        {
            **geometry(shape),
            "id": world.new_id("tracked shape"),
            "frame": shape["frame"],
            "attributes": values(shape),
        }
        for shape in row["shapes"]
    ]
    return Row(head(row, number), shapes=shapes, attributes=values(row), elements=[])


def echo(kind: str, row: Json, number: int, stored: bool) -> Json:
    """The answer repeats what was sent, defaults filled in; a deleted row only what was checked."""
    if kind == "tags":
        return {**head(row, number), "attributes": values(row)}
    rest: Json = {"attributes": values(row)} | ({"elements": []} if stored else {})
    if kind == "tracks":
        return {**head(row, number), "shapes": row["shapes"], **rest}
    form = {**geometry(row), "points": row.get("points") or []}
    if not stored:
        form["rotation"] = row.get("rotation", 0)
    return {**form, **head(row, number), **rest}
