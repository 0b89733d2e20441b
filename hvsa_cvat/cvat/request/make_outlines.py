"""The outlines of regions in a child job: how they look on the server, and making them."""

from __future__ import annotations

from collections.abc import Sequence

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.errors import Uncertain
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.child_task import ChildTask
from hvsa_cvat.cvat.request.companion_project import CompanionProject
from hvsa_cvat.cvat.request.guide import UNSET
from hvsa_cvat.cvat.request.outline_shape import outline_shape
from hvsa_cvat.cvat.state import Region
from hvsa_cvat.errors import ServerError

_ATTEMPTS = 4
"""How often the outlines are looked up, and those that are missing made."""
_BATCH = 200
"""Outlines in one request."""


def make_outlines(connection: TaskConnection, wanted: ChildTask, job: Json) -> dict[int, int]:
    """Make the outlines that a job lacks; region number -> id of its outline."""
    frames = range(job["start_frame"], job["stop_frame"] + 1)
    regions = [r for r in wanted.plan.regions if r.points and r.child_frame in frames]
    if not regions:
        return {}
    path = f"jobs/{job['id']}/annotations"
    doubt: Uncertain | None = None
    for _ in range(_ATTEMPTS):
        present = match_outlines(regions, connection.client.get(path)["shapes"])
        lacking = [region for region in regions if region.number not in present]
        label, attribute = wanted.project.region_label, wanted.project.class_attribute
        missing = [outline_shape(region, label, attribute) for region in lacking]
        if not missing:
            return present
        try:
            for first in range(0, len(missing), _BATCH):
                content = {"shapes": missing[first : first + _BATCH], "tags": [], "tracks": []}
                connection.client.send("PATCH", path, content, action="create")
        except Uncertain as error:
            connection.log(f"{error}; looking whether it was")
            doubt = error
    raise doubt or ServerError(
        f"{connection.client.address.url} does not keep the outlines of job {job['id']}; check the "
        "server's version with `hvsa-agent doctor`"
    )


def match_outlines(regions: Sequence[Region], shapes: Sequence[Json]) -> dict[int, int]:
    """Region number -> id of its outline, found by its group, or else by its points.

    People may have begun already: an outline whose label, class or points they changed is still
    the outline of its region, and is not made a second time.
    """
    numbers = {region.number for region in regions}
    by_points = {(region.child_frame, region.points): region.number for region in regions}
    found: dict[int, int] = {}
    for shape in sorted(shapes, key=lambda shape: shape["id"]):
        if shape["type"] != "polyline":
            continue
        number = shape.get("group")
        if number not in numbers:
            number = by_points.get((shape["frame"], points_of(shape)))
        if number is not None:
            found.setdefault(number, shape["id"])
    return found


def is_outline(project: CompanionProject, shape: Json) -> bool:
    """Whether a shape is an outline of ours whose label and points nobody has changed."""
    kind = (shape["type"], shape["label_id"], shape.get("source"))
    return kind == ("polyline", project.region_label, "auto")


def is_unanswered(shape: Json) -> bool:
    """Whether nobody has given an outline its class."""
    return all(attribute["value"] == UNSET for attribute in shape.get("attributes") or ())


def points_of(shape: Json) -> tuple[float, ...]:
    """Empty where they are no numbers, which no outline of ours has."""
    try:
        return tuple(map(float, shape["points"]))
    except (TypeError, ValueError, KeyError):
        return ()
