"""The ground truth job of the watched task, on CVAT's side: found, read, or made from answers.

CVAT compares the other jobs with it on its quality page, and allows one a task. One that people
made is read as an audit and teaches nothing. One that we make holds what people answered in the
audits of the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from hvsa_cvat.cvat.answers.corrections import shapes_of_people
from hvsa_cvat.cvat.answers.finished import CollectPolicy, is_finished, read_unchanged
from hvsa_cvat.cvat.answers.remarks import Remark, remark_lines
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.job_frames import Holders
from hvsa_cvat.cvat.masks.job_shapes import read_shapes
from hvsa_cvat.cvat.masks.label_map_shapes import Proposer
from hvsa_cvat.cvat.masks.task_labels import read_labels
from hvsa_cvat.cvat.shapes import compose
from hvsa_cvat.cvat.state import TruthJob
from hvsa_cvat.types import IGNORE, LabelMap

_BEGUN = 0
"""In place of a job number: we are about to make one."""


def find_truth_job(connection: TaskConnection) -> Json | None:
    """The server's row of the ground truth job; None without."""
    rows = connection.client.rows("jobs", task_id=connection.task.id)
    found = [row for row in rows if row.get("type") == "ground_truth"]
    return found[0] if found else None


def is_ours(connection: TaskConnection, row: Json) -> bool:
    """Whether we made a ground truth job, or were about to when a process ended."""
    known = connection.state.truth_jobs.get(row["id"])
    if known is not None:
        return known.ours
    begun = connection.state.truth_jobs.get(_BEGUN)
    if begun is None or not begun.ours or row["state"] != "new":
        return False
    content = connection.client.get(f"jobs/{row['id']}/annotations")
    return not (content["shapes"] or content["tracks"] or content["tags"])


def make_truth_job(connection: TaskConnection, answers: Mapping[int, LabelMap]) -> int | None:
    """Make the ground truth job of the task from label maps by position; its number.

    Safe to repeat: it goes on with one that a process left half made. None where it is made
    already; what people have changed in it since stays.
    """
    client, known, task = connection.client, connection.state.truth_jobs, connection.task
    frames = {task.media.numbers[position]: one for position, one in answers.items()}
    row = find_truth_job(connection)
    if row is not None:
        mine = known.get(row["id"])
        if not is_ours(connection, row) or (mine is not None and mine.updated_date is not None):
            return None
    else:
        known.save(_BEGUN, TruthJob(ours=True))
        content = {
            "type": "ground_truth",
            "task_id": task.id,
            "frame_selection_method": "manual",
            "frames": sorted(frames),
        }
        row = client.create("jobs", content, partial(find_truth_job, connection))
    job = int(row["id"])
    known.save(job, TruthJob(ours=True))
    known.save(_BEGUN, TruthJob(ours=False))
    _fill(connection, job, frames)
    # reports of quality are made of jobs that are completed and accepted
    body = {"stage": "acceptance", "state": "completed"}
    row = client.change("PATCH", f"jobs/{job}", body)
    known.save(job, TruthJob(ours=True, updated_date=row["updated_date"]))
    return job


def read_truth_job(connection: TaskConnection, row: Json) -> dict[int, LabelMap] | None:
    """Label maps by position of what a ground truth job shows, `IGNORE` where it shows nothing.

    None, and a line, where it is not finished or changes while it is read.
    """
    client, state, task = connection.client, connection.state, connection.task
    policy = CollectPolicy()
    if not is_finished(row, policy):
        tell_once(
            connection,
            f"ground truth job {row['id']} is not finished; it counts as an audit when it is",
        )
        return None
    labels = read_labels(client, state, task.id, task.label_ids)
    read = read_unchanged(client, row, policy, partial(read_shapes, client, state, labels))
    if read is None:
        tell_once(
            connection,
            f"ground truth job {row['id']} is edited while it is read; it counts when nobody is at "
            "work in it",
        )
        return None
    remarks: list[Remark] = []
    shapes: dict[int, list[tuple[int, Json]]] = {}
    for label, shape in shapes_of_people(task, *read, remarks.append):
        shapes.setdefault(shape["frame"], []).append((label, shape))
    for line in remark_lines(remarks):
        connection.log(f"ground truth job {row['id']}: {line}")
    found: dict[int, LabelMap] = {}
    for number, drawn in sorted(shapes.items()):
        position = task.media.position(number)
        if position is not None:
            label_map = compose(drawn, task.size)
            if (label_map != IGNORE).any():
                found[position] = label_map
    state.truth_jobs.save(row["id"], TruthJob(ours=False, updated_date=read[0]["updated_date"]))
    return found


def tell_once(connection: TaskConnection, news: str) -> None:
    """Tell the log, unless it was the last that was told of the ground truth job."""
    requests, task = connection.state.requests, connection.task.id
    if news != requests.told(task):  # the others there are of child tasks
        requests.set_told(task, news)
        connection.log(news)


def _fill(connection: TaskConnection, job: int, frames: Mapping[int, LabelMap]) -> None:
    """Write the frames that the job does not show yet, each by one request."""
    client, task = connection.client, connection.task
    labels = read_labels(client, connection.state, task.id, task.label_ids)
    proposer = Proposer(task, labels, "masks")
    content = client.get(f"jobs/{job}/annotations")
    shown = {shape["frame"] for shape in content["shapes"]}
    nobody = np.zeros(task.size, np.bool_)
    for number, label_map in sorted(frames.items()):
        if number in shown:
            continue
        proposed = proposer.propose(number, label_map, nobody, Holders.ALONE)
        shapes = [{**one.to_json(), "source": "manual"} for one in proposed]
        if shapes:
            body = {"shapes": shapes, "tags": [], "tracks": []}
            client.send("PATCH", f"jobs/{job}/annotations", body, action="create")
