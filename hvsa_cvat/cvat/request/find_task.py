"""Child tasks that are on the server already: whole, half made, or those of another plan."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import NotFound
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.keys import OURS, is_request_about
from hvsa_cvat.cvat.request.child_task import ChildTask
from hvsa_cvat.cvat.request.make_masks import is_untouched
from hvsa_cvat.cvat.state import Request, State
from hvsa_cvat.errors import ServerError


def child_tasks(client: CvatClient, task: int) -> list[Json]:
    """All child tasks on the server that ask about a task, oldest first."""
    part = f"/tasks/{task}/"
    both = {"and": [{"in": [word, {"var": "tracker_link"}]} for word in (OURS, part)]}
    rows = client.rows("tasks", filter=both)
    return [row for row in rows if is_request_about(row["bug_tracker"], task)]


def find_by_key(client: CvatClient, key: str) -> list[Json]:
    """All tasks with a key, oldest first."""
    return client.rows("tasks", filter={"==": [{"var": "tracker_link"}, key]})


def find_whole(connection: TaskConnection, wanted: ChildTask) -> tuple[int, list[Json]] | None:
    """The number of the child task and its jobs in order, if it is as wanted.

    Others with its key, left by earlier attempts, are deleted, unless people have worked in them.
    """
    client = connection.client
    whole, remains = [], []
    for row in find_by_key(client, wanted.key):
        rows = client.rows("jobs", task_id=row["id"])
        jobs = [job for job in rows if job["type"] == "annotation"]
        jobs.sort(key=lambda job: job["start_frame"])
        if _is_as_wanted(client, wanted, row, jobs):
            whole.append((int(row["id"]), jobs))
        else:
            remains.append((int(row["id"]), rows))
    for task, jobs in remains:
        _remove(client, wanted, task, jobs, needed=not whole)
    if len(whole) > 1:
        others = ", ".join(str(task) for task, _ in whole[1:])
        connection.log(f"task {whole[0][0]} counts; {others} has the same key and is left alone")
    return whole[0] if whole else None


def remove_child(client: CvatClient, state: State, request: Request) -> bool:
    """Delete the child task of a request with all that people did in it, and forget the request.

    Returns whether it was there.
    """
    try:
        found = client.get(f"tasks/{request.task}")
    except NotFound:
        found = None
    if found is not None:
        if found["bug_tracker"] != request.key:
            raise ServerError(
                f"task {request.task} does not carry the key {request.key} any more; delete it in "
                "CVAT if it is not needed"
            )
        client.change("DELETE", f"tasks/{request.task}")
    state.requests.forget(request.key)
    return found is not None


def _is_as_wanted(client: CvatClient, wanted: ChildTask, row: Json, jobs: Sequence[Json]) -> bool:
    if row["project_id"] != wanted.project.id or row.get("size") != len(wanted.files):
        return False
    ranges = [(job["start_frame"], job["stop_frame"]) for job in jobs]
    if ranges != [(share.start, share.stop) for share in wanted.plan.shares]:
        return False
    meta = client.get(f"tasks/{row['id']}/data/meta")
    frames = [(frame["name"], (frame["height"], frame["width"])) for frame in meta["frames"]]
    return frames == list(zip(wanted.files, wanted.sizes, strict=True))


def _remove(
    client: CvatClient, wanted: ChildTask, task: int, jobs: Sequence[Json], *, needed: bool
) -> None:
    """Delete what is left of an earlier attempt; `needed`: `ServerError` where people have begun,
    because then there is no place for the wanted task."""
    if not jobs:
        _check_idle(client, task)
    if _is_untouched(client, wanted, jobs):
        client.change("DELETE", f"tasks/{task}")
    elif needed:
        raise ServerError(
            f"task {task} is the child task of {wanted.key}, but has other frames, jobs, samples "
            "or tags than are asked for now, and people have worked in it; set the annotators as "
            "they were, or delete it in CVAT"
        )


def _check_idle(client: CvatClient, task: int) -> None:
    """Refuse a task while the server makes its frames, because then it cannot be deleted."""
    try:
        request = f"action=create&target=task&target_id={task}"
        status = client.get(f"requests/{quote(request)}")["status"]
    except NotFound:
        return
    if status in ("queued", "started"):
        raise ServerError(
            f"{client.address.url} is still making the frames of child task {task}; the next pass "
            "goes on from there"
        )


def _is_untouched(client: CvatClient, wanted: ChildTask, jobs: Sequence[Json]) -> bool:
    """Whether jobs hold nothing but what we make, and nobody has begun."""
    for job in jobs:
        if job["type"] != "annotation" or job["state"] != "new":
            return False
        content = client.get(f"jobs/{job['id']}/annotations")
        if not is_untouched(content, job, wanted.project.tag):
            return False
    return True
