"""The jobs of a request that are assigned and not finished: listed, or taken back."""

from __future__ import annotations

from contextlib import suppress

from hvsa_cvat.cvat.answers.finished import (
    CollectPolicy,
    assignee_of,
    child_job_rows,
    is_finished,
)
from hvsa_cvat.cvat.answers.unfinished_job import UnfinishedJob
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import NotFound
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.links import job_link
from hvsa_cvat.cvat.state import Request


def unfinished_jobs(
    client: CvatClient, request: Request, policy: CollectPolicy
) -> list[UnfinishedJob]:
    """The jobs of a request that are not finished, and who has them."""
    rows = child_job_rows(client, request)
    jobs = []
    for job in request.jobs:
        row = rows.get(job.id, {"state": "deleted", "stage": ""})
        if is_finished(row, policy):
            continue
        jobs.append(
            UnfinishedJob(
                job=job.id,
                assignee=assignee_of(row),
                state=row["state"],
                stage=row["stage"],
                pictures=job.pictures,
                expected_clicks=job.expected_clicks,
                expected_minutes=job.expected_minutes,
                link=job_link(client, request, job.id, _first_note(client, row)),
            )
        )
    return jobs


def _first_note(client: CvatClient, row: Json) -> int | None:
    """The first card with an open issue in a job that went back."""
    if row["state"] != "rejected":
        return None
    issues = client.rows("issues", job_id=row["id"])
    open_ = [issue["frame"] for issue in issues if not issue.get("resolved")]
    return min(open_, default=None)


def unassign(client: CvatClient, request: Request) -> list[int]:
    """Take the unfinished jobs of a request, whose answers nobody will collect, from their
    annotators. Safe to repeat; returns the jobs that somebody had.

    What people have drawn in them stays.
    """
    taken = []
    for job, row in child_job_rows(client, request).items():
        if row["state"] != "completed" and assignee_of(row) is not None:
            with suppress(NotFound):  # deleted since the jobs were listed
                client.change("PATCH", f"jobs/{job}", {"assignee": None})
                taken.append(job)
    return taken
