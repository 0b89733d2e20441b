"""Which job shows which frames: each frame is shown by the first job that holds it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from hvsa_cvat.cvat.http.client import CvatClient, Json
from hvsa_cvat.cvat.task import WatchedTask


@dataclass(frozen=True)
class JobFrames:
    """A job, and the frames that are written to it."""

    row: Json
    """The job as the server described it."""
    frames: Sequence[int]
    """Numbers, ascending; without deleted frames and frames that an earlier job holds."""
    overlapping: Sequence[int]
    """Other jobs that hold some of them."""

    @property
    def job(self) -> int:
        return int(self.row["id"])


def read_job_frames(client: CvatClient, task: WatchedTask) -> list[JobFrames]:
    """The jobs with frames to be written, in order of frames.

    Ground truth jobs and replicas are left out: we never write to them.
    """
    rows = [
        row
        for row in client.rows("jobs", task_id=task.id)
        if row["task_id"] == task.id and row.get("type", "annotation") == "annotation"
    ]
    rows.sort(key=lambda row: (row["start_frame"], row["id"]))
    starts = [row["start_frame"] for row in rows]
    numbers, found, first_free = task.media.numbers, [], 0
    for place, row in enumerate(rows):
        begin = bisect_left(numbers, max(row["start_frame"], first_free))
        frames = numbers[begin : bisect_right(numbers, row["stop_frame"])]
        first_free = max(first_free, row["stop_frame"] + 1)
        if frames:
            overlapping = rows[place + 1 : bisect_right(starts, frames[-1])]
            found.append(JobFrames(row, frames, [other["id"] for other in overlapping]))
    return found
