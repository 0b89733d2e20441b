"""When a job counts as finished, and reading it while nobody changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.state import Request

Content = TypeVar("Content")

_READINGS = 3
"""A job that changes during each of this many readings is left for the next pass."""


@dataclass(frozen=True)
class CollectPolicy:
    """When an answer is an answer."""

    accepted_only: bool = False
    """Whether a job must have reached the stage acceptance, in addition to being completed."""
    gap_threshold: float = 0.05
    """Share of a sample's pixels that may lack a class before the job goes back, once."""


def is_finished(row: Json, policy: CollectPolicy) -> bool:
    """Whether a job counts; `row` is what the server says of it."""
    accepted = row["stage"] == "acceptance" or not policy.accepted_only
    return bool(row["state"] == "completed" and accepted)


def assignee_of(row: Json) -> str | None:
    """User name of whoever has the job."""
    assignee = row.get("assignee")
    return assignee["username"] if assignee else None


def child_job_rows(client: CvatClient, request: Request) -> dict[int, Json]:
    """What the server says of the jobs of a request, by id; jobs that are deleted are missing."""
    if not request.jobs:
        return {}
    rows = {row["id"]: row for row in client.rows("jobs", task_id=request.task)}
    return {job.id: rows[job.id] for job in request.jobs if job.id in rows}


def read_unchanged(
    client: CvatClient, row: Json, policy: CollectPolicy, read: Callable[[Json], Content]
) -> tuple[Json, Content] | None:
    """A finished job and what `read` finds in it, both of the same moment.

    None if the job is at work again, or changes during each reading.
    """
    for _ in range(_READINGS):
        content = read(row)
        after = client.get(f"jobs/{row['id']}")
        if not is_finished(after, policy):
            return None
        if after["updated_date"] == row["updated_date"]:
            return after, content
        row = after
    return None
