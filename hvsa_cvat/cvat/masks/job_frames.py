"""Which job holds which frames, and which of them other jobs hold as well."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.task import WatchedTask


class Holders(Enum):
    """Whether a frame of a job is in other jobs, too."""

    ALONE = "in no other job"
    FIRST = "in later jobs, too"
    FURTHER = "in an earlier job, too"


@dataclass(frozen=True)
class JobFrames:
    """A job, and the frames that it shows."""

    row: Json
    """The job as the server described it."""
    frames: Sequence[int]
    """Numbers, ascending; without deleted frames."""
    shared: Collection[int]
    """Those that other jobs hold, too."""
    repeated: Collection[int]
    """Those of `shared` that an earlier job holds."""
    overlapping: Sequence[int]
    """The other jobs that hold some of them."""

    @property
    def job(self) -> int:
        return int(self.row["id"])

    def holders(self, frame: int) -> Holders:
        if frame not in self.shared:
            return Holders.ALONE
        return Holders.FURTHER if frame in self.repeated else Holders.FIRST


def read_job_frames(client: CvatClient, task: WatchedTask) -> list[JobFrames]:
    """The jobs that hold frames in use, in order of their first frames.

    Ground truth jobs and replicas are left out: we never write to them.
    """
    rows = [
        row
        for row in client.rows("jobs", task_id=task.id)
        if row["task_id"] == task.id and row.get("type", "annotation") == "annotation"
    ]
    rows.sort(key=lambda row: (row["start_frame"], row["id"]))
    held = [(row, _frames(row, task.media.numbers)) for row in rows]
    jobs_of: dict[int, list[int]] = {}
    for row, frames in held:
        for frame in frames:
            jobs_of.setdefault(frame, []).append(int(row["id"]))
    return [_job_frames(row, frames, jobs_of) for row, frames in held if frames]


def _frames(row: Json, numbers: Sequence[int]) -> Sequence[int]:
    begin, end = bisect_left(numbers, row["start_frame"]), bisect_right(numbers, row["stop_frame"])
    return numbers[begin:end]


def _job_frames(row: Json, frames: Sequence[int], jobs_of: dict[int, list[int]]) -> JobFrames:
    job = int(row["id"])
    shared = [frame for frame in frames if len(jobs_of[frame]) > 1]
    others = dict.fromkeys(other for frame in shared for other in jobs_of[frame] if other != job)
    repeated = frozenset(frame for frame in shared if jobs_of[frame][0] != job)
    return JobFrames(row, frames, frozenset(shared), repeated, list(others))
