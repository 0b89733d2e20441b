"""Asking people: a child task in a companion project, with the samples shown on its frames.

The child task is a task of its own, because CVAT adds neither frames nor jobs to a task that
exists, and because the watched task belongs to its team. Whatever we make has a key by which it is
looked up first, so that every step may be repeated by a process that knows nothing of the one
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.request.assign import assign_jobs, find_person
from hvsa_cvat.cvat.request.child_task import describe_child
from hvsa_cvat.cvat.request.companion_project import open_companion_project
from hvsa_cvat.cvat.request.guide import check_names
from hvsa_cvat.cvat.request.links import job_link
from hvsa_cvat.cvat.request.make_outlines import make_outlines
from hvsa_cvat.cvat.request.make_task import find_or_make
from hvsa_cvat.cvat.request.plan import plan_request
from hvsa_cvat.cvat.state import Request
from hvsa_cvat.errors import ConfigError, SessionError
from hvsa_cvat.ports import FrameSource, SegmentMaps
from hvsa_cvat.types import Sample


@dataclass(frozen=True)
class Question:
    """What people are asked."""

    key: str
    """Becomes the child task's issue tracker link."""
    samples: Sequence[Sample]
    segments: SegmentMaps
    expected_clicks: Sequence[float]
    """Of each sample."""
    class_order: Sequence[int]
    """Class indices, the most frequent class first."""


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
    connection: TaskConnection, frames: FrameSource, question: Question, options: AskOptions
) -> Request:
    """Ask people a question. Safe to repeat.

    The frames are divided so that each person has about the same number of clicks, whatever the
    number of frames; within a job they are in order of time.
    """
    client, state, task = connection.client, connection.state, connection.task
    known = _known(connection, question)
    if known is not None:
        return known
    _check(question, frames)
    check_names(task.labels.names, task.id)
    people = [find_person(client, name) for name in dict.fromkeys(options.annotators)]
    plan = plan_request(
        question.samples,
        question.expected_clicks,
        question.segments,
        len(people),
        connection.progress,
    )
    project = open_companion_project(connection, question.class_order)
    wanted = describe_child(task, question.key, plan, project)
    number, jobs = find_or_make(connection, wanted, frames, options.darkness)
    outlines: dict[int, int] = {}
    for job in jobs:
        outlines |= make_outlines(connection, wanted, job)
    assigned = assign_jobs(connection, wanted, jobs, people)
    state.requests.save_numbers(question.key, (one.array for one in plan.numbers))
    regions = tuple(replace(region, shape=outlines.get(region.number)) for region in plan.regions)
    request = Request(question.key, project.id, number, plan.frames, regions, assigned)
    state.requests.save(request)
    _tell(connection, request)
    return request


def _known(connection: TaskConnection, question: Question) -> Request | None:
    """The request of this key, if it is wholly made."""
    known = connection.state.requests.get(question.key)
    if known is not None and {region.sample for region in known.regions} != set(question.samples):
        raise SessionError(
            f"request {question.key} in {connection.state.path} asked for other samples; choose "
            "another workspace"
        )
    return known


def _check(question: Question, frames: FrameSource) -> None:
    samples = question.samples
    if not samples or len(set(samples)) != len(samples):
        raise ValueError("no samples, or one twice")
    for sample in samples:
        if not 0 <= sample.frame < len(frames):
            raise ValueError(f"{sample} lies outside the video")
        if not 0 <= sample.segment < question.segments.count(sample.frame):
            raise ValueError(f"{sample} lies outside its frame")


def _tell(connection: TaskConnection, request: Request) -> None:
    for job in request.jobs:
        frames = range(job.start, job.stop + 1)
        many = "1 frame" if len(frames) == 1 else f"{len(frames)} frames"
        outlined = any(r.points for r in request.regions if r.child_frame in frames)
        connection.log(
            f"{job.assignee or 'nobody'} has {many} of task {request.task}, about "
            f"{job.expected_clicks:.0f} clicks: "
            f"{job_link(connection.client, request, job.id, outlined)}"
        )
