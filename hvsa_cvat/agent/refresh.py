"""Asking the server for the open jobs of all tasks now, between passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvsa_cvat.agent.reports import one_line
from hvsa_cvat.agent.task_pass import collect_policy
from hvsa_cvat.agent.workspace import Enrollment, Workspace
from hvsa_cvat.cvat.answers.unfinished import unfinished_jobs
from hvsa_cvat.cvat.answers.unfinished_job import UnfinishedJob
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Unreachable
from hvsa_cvat.cvat.state import Request, read_requests
from hvsa_cvat.database import Place
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.session.rounds import Phase
from hvsa_cvat.session.store import Store


def refresh_open_jobs(workspace: Workspace, client: CvatClient) -> Mapping[int, str]:
    """Ask for the open jobs of every task, and keep them in the workspace. Returns by task, in one
    line, why that failed. A server that failed to answer once is not asked again.
    """
    failures: dict[int, str] = {}
    down: str | None = None
    for enrollment in workspace.enrollments():
        task = enrollment.task
        try:
            request = _open_request(workspace.session_place(enrollment))
            if request is not None and down is not None:
                failures[task] = down
                continue
            jobs = () if request is None else _jobs(client, request, enrollment)
            workspace.looks.keep(task, enrollment.key, jobs)
        except HvsaError as error:
            failures[task] = one_line(error)
            down = failures[task] if isinstance(error, Unreachable) else down
    return failures


def _open_request(place: Place) -> Request | None:
    """What people are asked now."""
    session = Store.peek(place)
    if session is None or session.current.phase is not Phase.ANNOTATE:
        return None
    return next(
        (one for one in read_requests(place / "cvat") if one.key == session.current.request), None
    )


def _jobs(client: CvatClient, request: Request, enrollment: Enrollment) -> Sequence[UnfinishedJob]:
    return unfinished_jobs(client, request, collect_policy(enrollment.options))
