"""Whom the tasks wait for. People are in order of their names: it is no ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from hvsa_cvat.dashboard.site import Site
from hvsa_cvat.dashboard.summaries import Job, TaskSummary
from hvsa_cvat.enrolled import links

ANYONE = "anyone"
"""Who has the jobs that nobody is assigned to."""


@dataclass(frozen=True)
class WaitingJob:
    """A job that is not answered."""

    job: Job
    row: TaskSummary


@dataclass(frozen=True)
class Person:
    """Somebody for whom tasks wait."""

    name: str
    waiting: tuple[WaitingJob, ...]

    @property
    def minutes(self) -> float:
        return sum(one.job.minutes for one in self.waiting)

    @property
    def pictures(self) -> int:
        return sum(one.job.pictures for one in self.waiting)

    @property
    def since(self) -> datetime | None:
        """When the job that waits longest was asked for."""
        return min((one.row.since for one in self.waiting if one.row.since), default=None)


def by_person(rows: Sequence[TaskSummary]) -> tuple[Person, ...]:
    """By name; each one's jobs by task."""
    found: dict[str, list[WaitingJob]] = {}
    for row in sorted(rows, key=lambda row: row.task):
        for job in row.jobs:
            if job.state != "answered":
                found.setdefault(job.assignee or ANYONE, []).append(WaitingJob(job, row))
    names = sorted(found, key=lambda name: (name == ANYONE, name.casefold(), name))
    return tuple(Person(name, tuple(found[name])) for name in names)


def people(site: Site, request: Request) -> Response:
    rows = site.overview.rows()
    found = by_person(rows.summaries)
    return site.page(
        request,
        "people.html.j2",
        "People",
        people=found,
        jobs=sum(len(one.waiting) for one in found),
        minutes=sum(one.minutes for one in found),
        unread=rows.unread,
        every=len(rows.summaries),
        job_link=lambda job: links.job_link(site.url, job.task, job.id),
    )
