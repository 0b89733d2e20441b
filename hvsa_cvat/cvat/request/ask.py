"""Asking people: a child task in a companion project, with the samples shown on its frames.

A task of its own, because a task that exists takes neither new frames nor new jobs, and because
the parent is not ours to fill. Everything is found again by a key before it is made, so that each
step may be repeated by a process that knows nothing of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hvsa_cvat.cvat.http.client import CvatClient, Json, NotFound
from hvsa_cvat.cvat.request.child_task import Child, Person
from hvsa_cvat.cvat.request.companion_project import host, open_home, where
from hvsa_cvat.cvat.request.guide import JOBS_PAGE, check_names
from hvsa_cvat.cvat.request.plan import plan_request
from hvsa_cvat.cvat.state import Request, State
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import ConfigError, ServerError, SessionError
from hvsa_cvat.ports import FrameSource, Progress, SegmentMaps
from hvsa_cvat.types import Sample


@dataclass(frozen=True)
class AskOptions:
    """Whom to ask, and what they see."""

    annotators: tuple[str, ...] = ()
    """User names; without any the request is one job that nobody has."""
    darkness: float = 0.65
    """Share of its brightness that the surroundings of the samples lose. A third of it is left:
    enough to understand the scene by, too little to be taken for a part that counts."""

    def __post_init__(self) -> None:
        if not 0 <= self.darkness <= 1:
            raise ConfigError(f"darkness must lie between 0 and 1, not {self.darkness}")


def ask(
    client: CvatClient,
    state: State,
    task: WatchedTask,
    frames: FrameSource,
    key: str,
    samples: Sequence[Sample],
    segments: SegmentMaps,
    expected_clicks: Sequence[float],
    class_order: Sequence[int],
    options: AskOptions,
    *,
    log: Callable[[str], None],
    progress: Progress,
) -> Request:
    """Ask people for `samples`, expected to cost so many clicks each. Safe to repeat.

    `key` becomes the child task's issue tracker link. The frames are divided so that each person
    has about the same number of clicks, whatever the number of frames; within a job they are in
    order of time. `class_order` are class indices, the most frequent class first.
    """
    known = state.requests.get(key)
    if known is not None:
        if {region.sample for region in known.regions} != set(samples):
            raise SessionError(
                f"request {key} in {state.path} asked for other samples; choose another workspace"
            )
        return known
    _check(samples, frames, segments)
    check_names(task.labels.names, task.id)
    people = [find_person(client, name) for name in dict.fromkeys(options.annotators)]
    plan = plan_request(samples, expected_clicks, segments, len(people), progress)
    home = open_home(client, task, class_order, log)
    child = Child(client, task, key, plan, home, log)
    number, jobs = child.stand(frames, options.darkness, state.folder / "upload", progress)
    shapes = [child.outline(job) for job in jobs]
    made = child.hand_out(jobs, people)
    state.requests.save_numbers(key, (one.array for one in plan.numbers))
    ids = {region: shape for found in shapes for region, shape in found.items()}
    regions = tuple(replace(region, shape=ids.get(region.number)) for region in plan.regions)
    request = Request(key, home.project, number, plan.frames, regions, made)
    state.requests.save(request)
    for job in made:
        outlined = any(r.points for r in regions if job.start <= r.child_frame <= job.stop)
        log(
            f"{job.assignee or 'nobody'} has {job.stop - job.start + 1} frames of task {number}, "
            f"about {job.expected_clicks:.0f} clicks: {job_link(client, request, job.id, outlined)}"
        )
    return request


def job_link(client: CvatClient, request: Request, job_id: int, regions: bool) -> str:
    """The web page of a child job. `regions`: whether it has outlines to go through by key."""
    workspace = "defaultWorkspace=ATTRIBUTES&" if regions else ""
    return f"{client.address.url}/tasks/{request.task}/jobs/{job_id}?{workspace}openGuide"


def list_link(client: CvatClient) -> str:
    """The web page of all unfinished child jobs that the reader may see."""
    return f"{client.address.url}{JOBS_PAGE}"


def key_prefix(client: CvatClient, task_id: int) -> str:
    """How the keys of all requests of a parent task begin."""
    return f"hvsa://{host(client)}/tasks/{task_id}/"


def child_tasks(client: CvatClient, task_id: int) -> list[Json]:
    """All child tasks of a parent task on the server, oldest first."""
    prefix = key_prefix(client, task_id)
    rows = client.rows("tasks", filter={"in": [prefix, {"var": "tracker_link"}]})
    return [row for row in rows if row["bug_tracker"].startswith(prefix)]


def remove_child(client: CvatClient, state: State, request: Request) -> None:
    """Delete the child task of a request with all that people did in it, and forget the request."""
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


def _check(samples: Sequence[Sample], frames: FrameSource, segments: SegmentMaps) -> None:
    if not samples or len(set(samples)) != len(samples):
        raise ValueError("no samples, or one twice")
    for sample in samples:
        if not 0 <= sample.frame < len(frames):
            raise ValueError(f"{sample} lies outside the video")
        if not 0 <= sample.segment < segments.count(sample.frame):
            raise ValueError(f"{sample} lies outside its frame")


def find_person(client: CvatClient, name: str) -> Person:
    """The user of this name whom this account may see where it works, or itself."""
    me = client.me()
    if me["username"] == name:  # not listed in the personal space if in an organisation as well
        return Person(me["id"], name)
    for row in client.rows("users", search=name):
        if row["username"] == name:
            return Person(row["id"], name)
    raise ServerError(
        f"no user {name!r} in {where(client)}; add this person there, or change the annotators"
    )
