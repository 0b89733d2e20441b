"""Links to the web pages of child jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from hvsa_cvat.cvat.http.client import CvatClient
    from hvsa_cvat.cvat.state import Request

_LOGIC = {
    "and": [
        {"in": [{"var": "state"}, ["new", "in progress", "rejected"]]},
        {"in": ["HVSA", {"var": "task_name"}]},
    ]
}
JOBS_PAGE = f"/jobs?filter={quote(json.dumps(_LOGIC, separators=(',', ':')), safe='')}"
"""The page of the unfinished child jobs that the reader may see. It has no server address, because
people may reach the server under another address than we do."""


def stage_link(url: str, task: int, stage: str) -> str:
    """The web page of the jobs of a task that are in a stage; `url` is the server's address."""
    rules = [{"==": [{"var": "task_id"}, task]}, {"==": [{"var": "stage"}, stage]}]
    return f"{url}/jobs?filter={quote(json.dumps({'and': rules}, separators=(',', ':')), safe='')}"


def frame_link(url: str, task: int, job: int, frame: int) -> str:
    """The web page of a job of the watched task, at a frame by its number."""
    return f"{url}/tasks/{task}/jobs/{job}?frame={frame}"


def job_link(client: CvatClient, request: Request, job_id: int, card: int | None = None) -> str:
    """The web page of a child job: at one of its cards, or at its beginning with the guide open.

    `card` is a frame of the child task.
    """
    query = "openGuide" if card is None else f"frame={card}"
    return f"{client.address.url}/tasks/{request.task}/jobs/{job_id}?{query}"


def list_link(client: CvatClient) -> str:
    """The web page of all unfinished child jobs that the reader may see."""
    return f"{client.address.url}{JOBS_PAGE}"
