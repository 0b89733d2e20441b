"""Which pixels of a frame people labelled; our masks leave these pixels free."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress

import numpy as np

from hvsa_cvat.annotation.polygons import Window
from hvsa_cvat.cvat.connection import Log
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.job_shapes import JobShapes
from hvsa_cvat.cvat.masks.task_labels import TaskLabels
from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.cvat.tracks import expand_tracks
from hvsa_cvat.errors import AnnotationError
from hvsa_cvat.types import Mask, Size


def people_pixels(
    readings: Sequence[JobShapes],
    frame: int,
    size: Size,
    labels: TaskLabels,
    deleted: Collection[int],
    log: Log,
) -> Mask:
    """The pixels of a frame that people labelled in any of the jobs: bool (H, W).

    A mask that cannot be read counts with its whole box; other shapes that cannot be read are left
    out. The log is told of both.
    """
    claimed = np.zeros(size, dtype=np.bool_)
    for one in readings:
        shapes = [json.loads(text) for text in one.people.get(frame, ())]
        shapes += expand_tracks(one.tracks, [frame], deleted) if one.tracks else []
        for shape in shapes:
            if shape["label_id"] not in labels.beside:
                filled = _fill(shape, size, one.job, log)
                if filled is not None:
                    window, inside = filled
                    claimed[window] |= inside
    return claimed


def _fill(shape: Json, size: Size, job: int, log: Log) -> tuple[Window, Mask] | None:
    try:
        return fill_shape(shape, size)
    except AnnotationError as error:
        log(f"job {job}: {error}")
    if shape["type"] == "mask":
        box = (shape.get("points") or [])[-4:]
        around = [*box[:2], *(value + 1 for value in box[2:])]
        with suppress(AnnotationError):
            return fill_shape({**shape, "type": "rectangle", "points": around}, size)
    return None
