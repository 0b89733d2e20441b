"""Asking people: a child task in a companion project, with the samples as its frames.

Each sample is a picture of its own, a card, with our masks on it and a red tag that says that
nobody has checked it. The child task is a task of its own, because CVAT adds neither frames nor
jobs to a task that exists, and because the watched task belongs to its team. Whatever we make has a
key by which it is looked up first, so that every step may be repeated by a process that knows
nothing of the one before.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.request.assign import assign_jobs, find_person
from hvsa_cvat.cvat.request.child_task import describe_child
from hvsa_cvat.cvat.request.companion_project import open_companion_project
from hvsa_cvat.cvat.request.links import job_link, list_link
from hvsa_cvat.cvat.request.make_masks import make_masks
from hvsa_cvat.cvat.request.make_task import find_or_make
from hvsa_cvat.cvat.request.plan import AskOptions, Question, plan_request
from hvsa_cvat.cvat.state import Request
from hvsa_cvat.errors import SessionError
from hvsa_cvat.plain_text import plural
from hvsa_cvat.ports import FrameSource


def ask(
    connection: TaskConnection, frames: FrameSource, question: Question, options: AskOptions
) -> Request:
    """Ask people a question. Safe to repeat.

    The frames are divided so that each person has about the same expected time, whatever the
    number of frames. What one person has is one job or several, each of one sitting; within a job
    frames are in order of time.
    """
    client, state, task = connection.client, connection.state, connection.task
    known = _known(connection, question)
    if known is not None:
        return known
    _check(question, frames)
    people = [find_person(client, name) for name in options.people]
    plan = plan_request(question, options, connection.progress)
    planted = options.planted and question.shown is not None
    project = open_companion_project(connection, question.class_order, planted=planted)
    wanted = describe_child(task, question.key, plan, project)
    number, jobs = find_or_make(connection, wanted, frames)
    shapes: dict[int, int] = {}
    for job in jobs:
        shapes |= make_masks(connection, wanted, job)
    # before anybody has a job: where the disk is full, nobody works in vain
    state.requests.save_contents(question.key, (one.array for one in plan.contents))
    assigned = assign_jobs(connection, wanted, jobs, people)
    parts = tuple(replace(part, shape=shapes.get(part.number)) for part in plan.parts)
    request = Request(question.key, project.id, number, plan.cards, parts, assigned, project.tag)
    state.requests.save(request)
    _tell(connection, request)
    return request


def _known(connection: TaskConnection, question: Question) -> Request | None:
    """The request of this key, if it is wholly made."""
    known = connection.state.requests.get(question.key)
    if known is not None and {card.sample for card in known.cards} != set(question.samples):
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
    client = connection.client
    # jobs of one person lie side by side
    for person, group in groupby(request.jobs, key=lambda job: job.assignee):
        jobs = list(group)
        pictures = plural(sum(job.pictures for job in jobs), "picture")
        minutes = sum(job.expected_minutes for job in jobs)
        link = job_link(client, request, jobs[0].id) if len(jobs) == 1 else list_link(client)
        connection.log(
            f"{person or 'nobody'} has {pictures} in {plural(len(jobs), 'job')} of task "
            f"{request.task}, about {minutes:.0f} min: {link}"
        )
