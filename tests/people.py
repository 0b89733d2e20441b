"""People who answer requests in the stand-in's web interface, from a truth that they know."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from hvsa_cvat.annotation.polygons import fill, vectorise
from hvsa_cvat.types import LabelMap
from tests.standin import Person, StandIn

Truth = Callable[[int], LabelMap]
"""The label map of a frame of the parent task, by its number there."""

REGION = "hvsa:region"


def answer_job(cvat: StandIn, person: Person, job: int, truth: Truth, names: Sequence[str]) -> None:
    """Key the class of each outlined region that has one, draw the frames of the others as a
    whole, finish the job."""
    row = cvat.job(job)
    labels = {label.name: label for label in row.task.labels}
    admin = cvat.person(cvat.admin)
    frames = admin.call("GET", f"tasks/{row.task.id}/data/meta")["frames"]
    outlines = [s for s in cvat.shapes(job) if s["label_id"] == labels[REGION].id]
    to_draw = set(range(row.start, row.stop + 1)) - {shape["frame"] for shape in outlines}
    for shape in outlines:
        label_map = truth(parent_number(frames[shape["frame"]]["name"]))
        points = np.array(shape["points"]).reshape(-1, 2)[:-1]
        window, inside = fill(points, label_map.shape)
        classes = np.unique(label_map[window][inside])
        value = names[classes[0]] if len(classes) == 1 else "mixed"
        person.set_class(job, shape["id"], labels[REGION].attributes[0]["id"], value)
        if value == "mixed":
            to_draw.add(shape["frame"])
    for frame in sorted(to_draw):
        for polygon in vectorise(truth(parent_number(frames[frame]["name"]))):
            person.draw(
                job,
                {
                    "frame": frame,
                    "label_id": labels[names[polygon.label]].id,
                    "points": polygon.points.ravel().tolist(),
                    "z_order": polygon.z_order,
                },
            )
    person.finish(job)


def parent_number(name: str) -> int:
    """The parent's frame number in the name of a child frame."""
    found = re.search(r"_f(\d+)", name)
    assert found is not None, name
    return int(found[1])


def open_jobs(cvat: StandIn, prefix: str = "HVSA") -> list[int]:
    """Unfinished jobs of child tasks."""
    return [
        job.id
        for task in cvat.world.tasks.values()
        if task.name.startswith(prefix)
        for job in task.jobs
        if job.state != "completed"
    ]
