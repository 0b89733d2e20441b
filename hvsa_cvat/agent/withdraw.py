"""Withdrawing a task: our masks are removed, or kept, and everything that people drew stays."""

from __future__ import annotations

from collections.abc import Sequence

from hvsa_cvat.agent.companions import companion_projects
from hvsa_cvat.agent.context import AgentContext, alone_with, server_clock
from hvsa_cvat.agent.task_pass import publish_options
from hvsa_cvat.agent.workspace import Enrollment, HeldLease
from hvsa_cvat.cvat.answers.unfinished import unassign
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import NotFound
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.accept import take_back
from hvsa_cvat.cvat.masks.retract import Retracted, retract
from hvsa_cvat.cvat.media import missing_task
from hvsa_cvat.cvat.request.companion_project import remove_if_empty
from hvsa_cvat.cvat.request.find_task import remove_child
from hvsa_cvat.cvat.state import Request, State, read_requests
from hvsa_cvat.cvat.task import read_label_ids
from hvsa_cvat.errors import ConfigError, ServerError
from hvsa_cvat.session.store import Store


def withdraw(
    agent: AgentContext,
    task: int,
    *,
    children: bool,
    keep_masks: bool = False,
    keep_projects: bool = False,
    who: str | None = None,
) -> Retracted | None:
    """Remove the shapes that we pushed and still own, and with `children` our child tasks.

    Everything that people drew stays, and so does the folder of the session. A task in which
    people are at work beside our shapes stays enrolled. `children` works for a task that was
    withdrawn without it, too. `keep_masks`: our shapes stay, as a result that is good enough; from
    then on they are people's. `keep_projects`: projects in which people were asked stay, even where
    nothing is left in them. `who` asked for it, for the log. None where nothing was to be
    removed: the server has no such task, it was withdrawn before, or the masks are kept.
    """
    enrollment = agent.workspace.enrollment(task)
    if enrollment is None:
        _check_was_asked(agent, task, children=children)
        with alone_with(agent, task) as lease:
            _find_task(agent.client, task)  # refuses a wrong organisation
            projects = _delete_earlier_children(agent, task, lease)
        _leave_projects(agent, projects, keep=keep_projects)
        return None
    with (
        alone_with(agent, task) as lease,
        Store(agent.workspace.session_place(enrollment, lease)) as store,
        agent.client.guarded(store.check_held),
    ):
        state = State(store.place / "cvat")
        row = _find_task(agent.client, task)
        keep = keep_masks and row is not None
        if row is not None and not keep:
            take_back(agent.client, state, agent.log)
        retracted = None if keep or row is None else _retract(agent, state, enrollment)
        if keep:
            agent.log(f"{sum(state.ledger.counts().values())} shapes of ours stay, as people's now")
        elif retracted is None:
            agent.log(f"task {task} is gone from the server: nothing to remove there")
        if retracted is not None and retracted.waits:
            return retracted
        projects = {request.project for request in state.requests.all()}
        _leave_requests(agent, state, state.requests.all(), children=children)
        if children:
            projects |= _delete_earlier_children(agent, task, lease)
        agent.workspace.remove_task(
            task,
            who=who,
            masks="kept" if keep else "removed",
            child_tasks="deleted" if children else "kept",
        )
        if row is not None and row["project_id"] is not None:
            agent.workspace.set_withdrawn(row["project_id"], task)
    _leave_projects(agent, projects, keep=keep_projects)
    return retracted


def _retract(agent: AgentContext, state: State, enrollment: Enrollment) -> Retracted | None:
    """None where the task was deleted just now."""
    task = enrollment.task
    try:
        return retract(
            agent.client,
            state,
            task,
            read_label_ids(agent.client, task, enrollment.classes),
            publish_options(enrollment.options),
            now=server_clock(agent.client),
            log=agent.log,
        )
    except NotFound:
        if _find_task(agent.client, task) is not None:
            raise
        return None


def _check_was_asked(agent: AgentContext, task: int, *, children: bool) -> None:
    """`ConfigError` where a task that is not enrolled leaves nothing to be done."""
    places = agent.workspace.earlier_places(task)
    if not any(read_requests(place / "cvat") for place in places):
        raise ConfigError(f"task {task} is not enrolled; see `hvsa-agent status`")
    if not children:
        raise ConfigError(
            f"task {task} is withdrawn already; to delete its child tasks as well: "
            f"hvsa-agent withdraw {task} --children"
        )


def _delete_earlier_children(agent: AgentContext, task: int, lease: HeldLease) -> set[int]:
    """Delete the child tasks that stayed when the task was withdrawn before; their projects."""
    projects: set[int] = set()
    for place in agent.workspace.earlier_places(task, lease):
        with Store(place) as store:
            state = State(store.place / "cvat")
            requests = state.requests.all()
            projects |= {request.project for request in requests}
            _leave_requests(agent, state, requests, children=True)
    return projects


def _leave_projects(agent: AgentContext, projects: set[int], *, keep: bool) -> None:
    """Delete the projects in which nobody is asked any more and nothing is left, and say so."""
    in_use = set(companion_projects(agent))
    for project in sorted(projects):
        if keep:
            reason: str | None = "as was asked"
        elif project in in_use:
            reason = "people are asked about other tasks in it"
        else:
            try:
                reason = remove_if_empty(agent.client, project)
            except ServerError as error:  # the task is withdrawn all the same
                reason = str(error)
        if reason is None:
            agent.log(f"project {project}, in which people were asked, is empty and deleted")
        else:
            agent.log(f"project {project}, in which people were asked, stays: {reason}")


def _leave_requests(
    agent: AgentContext, state: State, requests: Sequence[Request], *, children: bool
) -> None:
    """Delete the child tasks if asked, and say what stays on the server."""
    for request in requests:
        if children:
            was_there = remove_child(agent.client, state, request)
            done = "is deleted" if was_there else "is gone already"
            agent.log(f"child task {request.task} {done}")
        else:
            agent.log(f"child task {request.task} stays, with the answers in it")
            for job in unassign(agent.client, request):
                agent.log(f"job {job}, which is not finished, is taken from its annotator")


def _find_task(client: CvatClient, task: int) -> Json | None:
    """The server's row of a task; None where the task is deleted.

    `NotFound` where our organisation does not exist, or the task belongs to another one.
    """
    row = _read_row(client, task)
    # fails where the organisation does not exist
    jobs = client.rows("jobs", task_id=task)
    if row is None or jobs or not (row.get("jobs") or {}).get("count"):
        return row
    # a task can be read from other organisations, but its labels and jobs are not listed there
    if _read_row(client, task) is not None:
        raise missing_task(client.address, task)
    return None


def _read_row(client: CvatClient, task: int) -> Json | None:
    try:
        row: Json = client.get(f"tasks/{task}")
    except NotFound:
        return None
    return row
