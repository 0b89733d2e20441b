"""What a pass says about each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from hvsa_cvat.agent.subject import about
from hvsa_cvat.cli.console import say
from hvsa_cvat.plain_text import plural

if TYPE_CHECKING:
    from hvsa_cvat.agent.reports import TaskReport
    from hvsa_cvat.cvat.answers.unfinished_job import UnfinishedJob

NOBODY_PICKS = (
    "nobody has picked one of these jobs yet: give people the links, or assign the jobs in CVAT"
)
NOTHING_ENROLLED = "no task is enrolled; begin with: hvsa-agent enroll TASK"


class ReportPrinter:
    """Prints the reports of passes, and each task's only where it differs from the pass before."""

    def __init__(
        self,
        url: str,
        log: Callable[[str], None] = say,
        log_error: Callable[[str], None] = say,
    ) -> None:
        """`url` is the address of the server; `log_error` gets the lines of tasks that stopped."""
        self._url = url
        self._log = log
        self._log_error = log_error
        self._printed: dict[int, list[str]] = {}

    def print(self, reports: Iterable[TaskReport]) -> int:
        """Print the reports; returns how many tasks could not go on."""
        failed = 0
        for report in reports:
            failed += report.error is not None
            lines = list(report_lines(report, self._url))
            if self._printed.get(report.task) != lines:
                with about(task=report.task):
                    for line in lines:
                        (self._log if report.error is None else self._log_error)(line)
            self._printed[report.task] = lines
        return failed


def report_lines(report: TaskReport, url: str) -> Iterator[str]:
    """What a task waits for, or why it stopped."""
    name = f"task {report.task}" + (f" ({report.name})" if report.name else "")
    if report.error is not None:
        yield f"{name}: {report.error}"
    elif report.paused:
        yield f"{name}: is paused; to go on: hvsa-agent resume {report.task}"
    elif report.computing is not None:
        yield (
            f"{name}: "
            + ("waits for a worker: " if report.queued else "computes ")
            + report.computing
        )
    elif report.held_by is not None:
        yield f"{name}: {report.held_by} works on it"
    elif report.open_jobs:
        yield f"{name}: waits for people"
        for job in report.open_jobs:
            yield f"  {job_line(job)}"
        if nobody_picks(report.open_jobs):
            yield f"  {NOBODY_PICKS}"
    elif report.enrolled:
        yield f"{name}: is enrolled"
    elif report.done:
        yield f"{name}: all rounds are done; the masks are at {url}/tasks/{report.task}"
        if report.next_command is not None:
            yield f"  to go on: {report.next_command}"
    if report.unpublished:
        yield f"{name}: masks wait for jobs that somebody is at work on"


def nobody_picks(jobs: Sequence[UnfinishedJob]) -> bool:
    """Whether all jobs wait for somebody to pick them."""
    return bool(jobs) and all(job.assignee is None and job.state == "new" for job in jobs)


def span(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h` or `2 days`; a clock that was set back makes it 0 s."""
    for unit, length, least in (("days", 86400, 2), ("h", 3600, 1), ("min", 60, 1)):
        if seconds >= least * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def job_line(job: UnfinishedJob, open_for: str | None = None) -> str:
    """A job that is not finished, who has it, and its link."""
    if job.state == "deleted":
        return f"job {job.job} is gone from the server"
    assigned = f"assigned to {job.assignee}" if job.assignee else "assigned to nobody"
    known = "" if open_for is None else f", open for {open_for}"
    return (
        f"job {job.job}: {assigned}, not finished ({job.state}, {plural(job.pictures, 'picture')}, "
        f"about {job.expected_minutes:.0f} min{known}): {job.link}"
    )
