"""People who answer requests in the stand-in's web interface, from a truth that they know."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvsa_cvat.annotation.polygons import encode_polygons
from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.types import IGNORE, LabelMap
from tests.standin import Person, StandIn

Truth = Callable[[int], LabelMap]
"""The label map of a frame of the parent task, by its number there."""


def answer_job(cvat: StandIn, person: Person, job: int, truth: Truth, names: Sequence[str]) -> None:
    """Answer each picture, and finish the job."""
    row = cvat.job(job)
    meta = cvat.person(cvat.admin).call("GET", f"tasks/{row.task.id}/data/meta")
    for frame in range(row.start, row.stop + 1):
        shown = meta["frames"][frame]
        answer_picture(cvat, person, job, frame, Shown.of(shown, truth), names)
    person.finish(job)


@dataclass(frozen=True)
class Shown:
    """What is to be seen on a picture, if one knows."""

    truth: LabelMap
    """In pixels of the picture."""
    factor: int

    @classmethod
    def of(cls, row: dict[str, Any], truth: Truth) -> Shown:
        """`row` is what the server says of the picture."""
        found = re.search(r"_f(\d+)_x(\d+)_y(\d+)_z(\d+)_", row["name"])
        assert found is not None, row["name"]
        number, left, top, factor = map(int, found.groups())
        height, width = row["height"] // factor, row["width"] // factor
        crop = truth(number)[top : top + height, left : left + width]
        return cls(crop.repeat(factor, axis=0).repeat(factor, axis=1), factor)


def answer_picture(
    cvat: StandIn, person: Person, job: int, frame: int, shown: Shown, names: Sequence[str]
) -> None:
    """Give each mask the class that most of it has, draw over what is wrong then, or all of a
    picture without masks, and click the tag away."""
    labels = {label.name: label for label in cvat.job(job).task.labels}
    masks = [shape for shape in cvat.shapes(job) if shape["frame"] == frame]
    left = shown.truth.copy() if not masks else np.full_like(shown.truth, IGNORE)
    for shape in masks:
        filled = fill_shape(shape, shown.truth.shape)
        assert filled is not None
        window, inside = filled
        truth = shown.truth[window]
        most = int(np.bincount(truth[inside]).argmax())
        if labels[names[most]].id != shape["label_id"]:
            person.relabel(job, shape["id"], labels[names[most]].id)
        wrong = inside & (truth != most)
        left[window][wrong] = truth[wrong]
    for label, points in encode_polygons(left[:: shown.factor, :: shown.factor]):
        person.draw(
            job,
            {
                "frame": frame,
                "label_id": labels[names[label]].id,
                "points": [shown.factor * one for one in points],
                "z_order": 0,
            },
        )
    person.remove_tag(job, frame)


def open_jobs(cvat: StandIn, prefix: str = "HVSA") -> list[int]:
    """Unfinished jobs of child tasks."""
    return [
        job.id
        for task in cvat.world.tasks.values()
        if task.name.startswith(prefix)
        for job in task.jobs
        if job.state != "completed"
    ]
