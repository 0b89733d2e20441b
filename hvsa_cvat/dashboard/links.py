"""Addresses of CVAT's own pages."""

from __future__ import annotations

from hvsa_cvat.cvat.state import Request
from hvsa_cvat.dashboard.runs import Run


def task_link(url: str, task: int) -> str:
    """The page of a task; `url` is the address of the server."""
    return f"{url}/tasks/{task}"


def frame_link(url: str, task: int, run: Run, frame: int) -> str:
    """The very frame in the job of the task that shows it.

    Which job that is, is known of the jobs that hold masks of ours; else it is the page of the
    task.
    """
    number = run.number_of(frame)
    shows = [job.job for job in run.memory.jobs if job.first <= number <= job.last]
    begun = [job.job for job in run.memory.jobs if job.first <= number]
    job = next(iter(shows), None) or next(reversed(begun), None)
    return task_link(url, task) if job is None else f"{job_link(url, task, job)}?frame={number}"


def job_link(url: str, task: int, job: int) -> str:
    """The page of a job."""
    return f"{task_link(url, task)}/jobs/{job}"


def asked_link(url: str, request: Request, frame: int) -> str | None:
    """The very frame in the job in which people were asked about it; None where they were not.

    `frame` is the position in the video.
    """
    if frame not in request.frames:
        return None
    child = request.frames.index(frame)
    for job in request.jobs:
        if job.start <= child <= job.stop:
            return f"{job_link(url, request.task, job.id)}?frame={child}"
    return None
