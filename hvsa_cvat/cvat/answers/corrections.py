"""What people drew or corrected, without being asked, in the jobs of the watched task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

from hvsa_cvat.cvat.answers.finished import CollectPolicy, is_finished, read_unchanged
from hvsa_cvat.cvat.answers.read_shape import read_shape
from hvsa_cvat.cvat.answers.remarks import Remark, TakeRemark, remark_lines
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.job_shapes import JobShapes, read_shapes
from hvsa_cvat.cvat.masks.task_labels import read_labels
from hvsa_cvat.cvat.shapes import compose
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.cvat.tracks import expand_tracks
from hvsa_cvat.types import IGNORE, FrameAnnotation


def corrections(connection: TaskConnection, policy: CollectPolicy) -> tuple[FrameAnnotation, ...]:
    """What people drew or corrected in the finished jobs of the watched task.

    That is every shape that is not as we pushed it. Ground truth jobs are not read: they measure
    quality. Where jobs overlap, the shapes of both count.
    """
    task = connection.task
    corrected = []
    for number, shapes in sorted(_shapes_of_people(connection, policy).items()):
        position = task.media.position(number)
        if position is None:
            continue
        label_map = compose(shapes, task.size)
        if (label_map != IGNORE).any():
            corrected.append(FrameAnnotation(position, (), label_map))
    return tuple(corrected)


def _shapes_of_people(
    connection: TaskConnection, policy: CollectPolicy
) -> dict[int, list[tuple[int, Json]]]:
    """(class index, shape) by frame number, of all finished jobs."""
    client, state, task = connection.client, connection.state, connection.task
    labels = read_labels(client, state, task.id, task.label_ids)
    found: dict[int, list[tuple[int, Json]]] = {}
    for row in client.rows("jobs", task_id=task.id):
        if row.get("type", "annotation") != "annotation" or not is_finished(row, policy):
            continue
        read = read_unchanged(client, row, policy, partial(read_shapes, client, state, labels))
        if read is None:
            connection.log(
                f"job {row['id']} changes while it is read; its corrections are left for later"
            )
            continue
        remarks: list[Remark] = []
        for label, shape in shapes_of_people(task, *read, remarks.append):
            found.setdefault(shape["frame"], []).append((label, shape))
        for line in remark_lines(remarks):
            connection.log(f"job {row['id']}: {line}")
    return found


def shapes_of_people(
    task: WatchedTask, row: Json, shapes: JobShapes, remark: TakeRemark
) -> Iterator[tuple[int, Json]]:
    """Class index and shape of what people drew in a job of the watched task."""
    frames = range(row["start_frame"], row["stop_frame"] + 1)
    theirs = [json.loads(text) for texts in shapes.people.values() for text in texts]
    theirs += expand_tracks(shapes.tracks, frames, task.media.deleted)
    for shape in theirs:
        label = task.index_of(shape["label_id"])
        if label is None or shape["frame"] not in frames:
            continue
        if read_shape(label, shape, task.size, remark) is not None:
            yield label, shape
