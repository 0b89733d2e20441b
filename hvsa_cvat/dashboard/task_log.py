"""The log of a task: as a file, and on its page beside what can be done."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from hvsa_cvat.dashboard.action_pages import about_actions
from hvsa_cvat.dashboard.site import Site
from hvsa_cvat.enrolled.tasks import EnrolledTask
from hvsa_cvat.enrolled.timeline import FORMS, Entry, read_timeline

_LATEST = 40
"""Entries that the page of a task shows."""
_KINDS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


def log(site: Site, request: Request) -> Response:
    form, task = request.path_params["form"], request.path_params["task"]
    if form not in FORMS:
        raise HTTPException(404, f"There is no log of the form {form}.")
    name = f"task_{task}_log.{form}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(FORMS[form](_timeline(site, task)), media_type=_KINDS[form], headers=headers)


def done_and_to_do(site: Site, enrolled: EnrolledTask) -> dict[str, Any]:
    """What the page of a task shows of what was done, the newest first, and of what can be done."""
    latest = _timeline(site, enrolled.number)[::-1][:_LATEST]
    return {"timeline": latest, **about_actions(site, enrolled)}


def _timeline(site: Site, task: int) -> list[Entry]:
    """Everything that was done with a task, the oldest first."""
    return read_timeline(site.settings.place, site.url, task, site.runs.read)
