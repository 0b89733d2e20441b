"""Addresses of CVAT's own pages."""

from __future__ import annotations

from hvsa_cvat.cvat.state import Request
from hvsa_cvat.enrolled.runs import Run


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


def asked_in(url: str, run: Run, frame: int) -> list[tuple[int, list[str]]]:
    """Each round that asked people about a frame, and the pictures on which it did.

    `frame` is the position in the video.
    """
    found = []
    for one in run.rounds:
        request = run.request_of(one.number)
        if request is not None and (pictures := _asked_links(url, request, frame)):
            found.append((one.number, pictures))
    return found


def _asked_links(url: str, request: Request, frame: int) -> list[str]:
    places = [place for place, card in enumerate(request.cards) if card.sample.frame == frame]
    return [
        f"{job_link(url, request.task, job.id)}?frame={place}"
        for place in places
        for job in request.jobs
        if job.start <= place <= job.stop
    ]
