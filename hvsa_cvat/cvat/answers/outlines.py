"""Which class people gave each region: the outlines of a child task, read back.

An outline only carries a class. People move, copy, relabel, delete and restore outlines, on purpose
and by accident, so the pixels of a region come from our own record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hvsa_cvat.annotation.polygons import fill
from hvsa_cvat.cvat.request.guide import CLASS_ATTRIBUTE, REGION_LABEL, UNSET, mixed_value
from hvsa_cvat.cvat.shapes import Json
from hvsa_cvat.cvat.state import Region
from hvsa_cvat.types import Mask, Size

MIXED: Final = -1
"""Stands for several classes, in place of a class index: only what is drawn counts then."""

_SAME_PLACE = 0.5
"""An outline without id and group is a region's when their areas overlap by more than this share:
intersection over union, which only one region can exceed."""


@dataclass(frozen=True)
class ChildLabels:
    """The labels of a child task, by the server's ids."""

    classes: dict[int, int]
    """Label id -> class index of the parent task."""
    names: dict[int, str]
    """Label id -> name, of all labels."""
    region: int | None
    """The label of outlines; None where somebody has deleted it."""
    choice: int | None
    """The attribute of outlines that holds the class."""
    values: dict[str, int]
    """Value of that attribute -> class index or `MIXED`."""

    @classmethod
    def of(cls, labels: Iterable[Json], names: Sequence[str]) -> ChildLabels:
        """`labels` are the server's, `names` the classes of the parent task."""
        rows = [label for label in labels if not label.get("has_parent")]
        index = {name: i for i, name in enumerate(names)}
        region = next((label for label in rows if label["name"] == REGION_LABEL), None)
        attributes = region["attributes"] if region else []
        return cls(
            {row["id"]: index[row["name"]] for row in rows if row["name"] in index},
            {row["id"]: row["name"] for row in rows},
            region["id"] if region else None,
            next((a["id"] for a in attributes if a["name"] == CLASS_ATTRIBUTE), None),
            index | {mixed_value(names): MIXED},
        )

    def name(self, label_id: int) -> str:
        return self.names.get(label_id, f"number {label_id}")


@dataclass(frozen=True)
class Outlines:
    """What the outlines of one job say."""

    classes: dict[int, int]
    """Number of a region -> class index, for regions that a person gave a class."""
    lost: tuple[Region, ...]
    """Regions whose outlines are gone."""
    rest: tuple[Json, ...]
    """The shapes that are no region's outline."""
    remarks: tuple[str, ...]
    """What was left out, or decided, and why."""


def read_outlines(
    regions: Sequence[Region], shapes: Sequence[Json], labels: ChildLabels, size: Size
) -> Outlines:
    """Find each region's outline by id, else by group, else by place, and read its class.

    An outline that was relabelled as a class says the same as one whose attribute was set. If a
    region has several outlines, those without a class are passed over. Of the others the one with
    the region's own id holds, else the newest.
    """
    claims, rest = _match(regions, shapes, labels, size)
    classes: dict[int, int] = {}
    remarks: list[str] = []
    for region in regions:
        claimed = sorted(
            claims.get(region.number, ()),
            key=lambda shape: (shape["id"] != region.shape, -shape["id"]),
        )
        said = []
        for shape in claimed:
            choice = _choice(shape, labels)
            if isinstance(choice, str):
                remarks.append(f"region {region.number} on frame {region.child_frame} {choice}")
            elif choice is not None:
                said.append((shape, choice))
        if len({choice for _, choice in said}) > 1:
            ids = ", ".join(str(shape["id"]) for shape, _ in said)
            remarks.append(
                f"region {region.number} on frame {region.child_frame} has several outlines that "
                f"disagree ({ids}); {said[0][0]['id']} is taken"
            )
        if said and said[0][1] != MIXED:
            classes[region.number] = said[0][1]
    lost = tuple(one for one in regions if one.points and one.number not in claims)
    return Outlines(classes, lost, tuple(rest), tuple(remarks))


def _match(
    regions: Sequence[Region], shapes: Sequence[Json], labels: ChildLabels, size: Size
) -> tuple[dict[int, list[Json]], list[Json]]:
    """The outlines of each region by its number, and the shapes that are no outlines."""
    by_id = {region.shape: region for region in regions if region.shape is not None}
    by_group = {(region.child_frame, region.number): region for region in regions if region.points}
    claims: dict[int, list[Json]] = {}
    unmatched: list[Json] = []
    for shape in shapes:
        region = by_id.get(shape["id"])
        if region is None and shape["type"] == "polyline":
            region = by_group.get((shape["frame"], shape.get("group") or 0))
        if region is None:
            unmatched.append(shape)
        else:
            claims.setdefault(region.number, []).append(shape)
    lost = [region for region in regions if region.points and region.number not in claims]
    rest = []
    for shape in unmatched:
        region = _region_at(shape, lost, size) if _may_be_outline(shape, labels) else None
        if region is None:
            rest.append(shape)
        else:
            claims.setdefault(region.number, []).append(shape)
    return claims, rest


def _may_be_outline(shape: Json, labels: ChildLabels) -> bool:
    """A line of a class is an outline only if it is not manual: all lines of people are manual."""
    if shape["type"] != "polyline":
        return False
    ours = (shape.get("source") or "manual") != "manual"
    return shape["label_id"] == labels.region or (ours and shape["label_id"] in labels.classes)


def _region_at(shape: Json, regions: Sequence[Region], size: Size) -> Region | None:
    """The region of `regions` whose outline encloses nearly the same pixels."""
    here = [region for region in regions if region.child_frame == shape["frame"]]
    if not here:
        return None
    area = _enclosed(shape["points"], size)
    for region in here:
        own = _enclosed(region.points, size)
        if (area & own).sum() > _SAME_PLACE * (area | own).sum():
            return region
    return None


def _enclosed(points: Sequence[float], size: Size) -> Mask:
    inside = np.zeros(size, dtype=np.bool_)
    even = len(points) - len(points) % 2
    window, mask = fill(np.asarray(points[:even], dtype=np.float64).reshape(-1, 2), size)
    inside[window] = mask
    return inside


def _choice(shape: Json, labels: ChildLabels) -> int | str | None:
    """Class index or `MIXED`; None if nobody has chosen; a sentence if the choice is no class."""
    label = shape["label_id"]
    if label in labels.classes:
        return labels.classes[label]
    if label != labels.region:
        return f"has the label {labels.name(label)!r}, which is no class, and counts as unset"
    for attribute in shape.get("attributes") or ():
        if attribute["spec_id"] == labels.choice:
            value = attribute["value"]
            if value in ("", UNSET):
                return None
            return labels.values.get(
                value, f"has the value {value!r}, which is no class, and counts as unset"
            )
    return None
