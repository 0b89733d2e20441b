"""People who answer requests in the stand-in's web interface, from a truth that they know."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvsa_cvat.annotation.polygons import vectorise
from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.types import IGNORE, LabelMap
from tests.standin import Person, StandIn

Truth = Callable[[int], LabelMap]
"""The label map of a frame of the parent task, by its number there."""


def answer_job(cvat: StandIn, person: Person, job: int, truth: Truth, names: Sequence[str]) -> None:
    """Correct the masks of each picture, draw where there are none, and finish the job."""
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
    """Relabel the masks that are of one other class, draw the truth where it is none of these, and
    click the tag away."""
    labels = {label.name: label for label in cvat.job(job).task.labels}
    masks = [shape for shape in cvat.shapes(job) if shape["frame"] == frame]
    to_draw = not masks
    asked = np.full(shown.truth.shape, not masks)
    for shape in masks:
        filled = fill_shape(shape, shown.truth.shape)
        assert filled is not None
        window, inside = filled
        asked[window] |= inside
        classes = np.unique(shown.truth[window][inside])
        if len(classes) > 1:
            to_draw = True
        elif labels[names[classes[0]]].id != shape["label_id"]:
            person.relabel(job, shape["id"], labels[names[classes[0]]].id)
    if to_draw:
        wanted = np.where(asked, shown.truth, np.uint8(IGNORE))
        small = wanted[:: shown.factor, :: shown.factor]
        for polygon in vectorise(small):
            if polygon.label == IGNORE:
                continue
            person.draw(
                job,
                {
                    "frame": frame,
                    "label_id": labels[names[polygon.label]].id,
                    "points": (polygon.points * shown.factor).ravel().tolist(),
                    "z_order": polygon.z_order,
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
