"""Enrolling tasks and projects: everything is checked, and nothing on the server changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.orders import ChooseStart, ChosenStart
from hvsa_cvat.agent.reports import TaskReport, one_line, told
from hvsa_cvat.agent.start_file import START_FILE
from hvsa_cvat.agent.workspace import Enrollment, Workspace
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.frame_order import order_warning
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.keys import OURS
from hvsa_cvat.cvat.request.assign import find_person
from hvsa_cvat.cvat.request.companion_project import refuse_companion
from hvsa_cvat.cvat.request.find_task import child_tasks
from hvsa_cvat.cvat.state import State
from hvsa_cvat.cvat.task import WatchedTask, read_task
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store


@dataclass(frozen=True)
class Enrolled:
    """A task that was enrolled just now."""

    enrollment: Enrollment
    task: WatchedTask
    config: RunConfig
    start: ChosenStart


def enroll(
    agent: AgentContext, task: int, given: Mapping[str, Any], *, again: bool = False
) -> Enrolled:
    """Enroll a task and make its session.

    `given` are options by name, None where not given. `again`: even if another workspace has asked
    people about this task before.
    """
    if agent.workspace.enrollment(task) is not None:
        raise ConfigError(
            f"task {task} is enrolled already; `hvsa-agent status` shows how far it is, "
            f"`hvsa-agent withdraw {task}` ends its enrollment"
        )
    _check_not_ours(agent, task)
    watched, options = _read_task(agent, task, given)
    _check_classes(watched)
    if not again:
        _check_nobody_was_asked(agent, task)
    for name in options.annotators:
        find_person(agent.client, name)
    enrollment = _new_enrollment(agent, watched, options)
    place = agent.workspace.session_place(enrollment)
    order = ChooseStart(options, watched, place, agent.workspace.root)
    start = agent.compute.ask(order, agent.contact())
    agent.log(f"task {task}: {start.told}")
    agent.log(f"task {task}: takes {start.takes}")
    _make_session(agent.workspace, enrollment, watched, start)
    agent.workspace.add_task(task, enrollment.key, enrollment.classes, options)
    if warning := order_warning(task, watched.media.files):
        agent.log(warning)
    for label in watched.left_out:
        agent.log(f"task {task}: label {label!r} cannot carry masks and is left out")
    return Enrolled(enrollment, watched, start.config, start)


def enroll_project(
    agent: AgentContext, project: int, given: Mapping[str, Any]
) -> Iterator[TaskReport]:
    """Enroll all tasks of a project now, and in later passes those that come."""
    refuse_companion(agent.client.get(f"projects/{project}"))
    named = {name for name, value in given.items() if value is not None}
    checked = agent.settings.enroll_options(project, given)
    options = checked.model_dump(mode="json", include=named)
    agent.workspace.add_project(project, options)
    return enroll_new_tasks(agent, project, options)


def enroll_new_tasks(
    agent: AgentContext, project: int, options: Mapping[str, Any]
) -> Iterator[TaskReport]:
    """Enroll those tasks of an enrolled project that can be and are not yet."""
    try:
        rows = agent.client.rows("tasks", project_id=project)
    except HvsaError as error:
        yield TaskReport(0, f"project {project}", error=one_line(error))
        return
    withdrawn = agent.workspace.withdrawn(project)
    for row in rows:
        task, name = int(row["id"]), str(row["name"])
        if task in withdrawn or agent.workspace.enrollment(task) is not None:
            continue
        if not _is_ready(row) or _is_child_task(row):
            continue
        try:
            enroll(agent, task, options)
        except Exception as error:  # the other tasks go on, whatever it is
            yield TaskReport(task, name, error=told(error, agent.workspace.root))
        else:
            yield TaskReport(task, name, enrolled=True)


def _read_task(
    agent: AgentContext, task: int, given: Mapping[str, Any]
) -> tuple[WatchedTask, EnrollOptions]:
    """The task and its options, which depend on the project that the task is in."""
    background = agent.settings.enroll_options(None, given).background
    watched = read_task(agent.client, task, background)
    options = agent.settings.enroll_options(watched.project, given)
    if options.background != background:
        watched = read_task(agent.client, task, options.background)
    return watched, options


def _is_ready(row: Json) -> bool:
    """Whether a task is uploaded, and has pictures."""
    return bool(row.get("size")) and row.get("dimension") == "2d"


def _is_child_task(row: Json) -> bool:
    return str(row.get("bug_tracker") or "").startswith(OURS)


def _check_classes(task: WatchedTask) -> None:
    """Refuse a single class, which a network would show at every pixel."""
    names = task.labels.names
    if len(names) == 1:
        raise ConfigError(
            f"task {task.id} has only the class {names[0]!r}, so every pixel would be that; add a "
            "label for everything else, such as other, to it (or to its project) in CVAT, then: "
            f"hvsa-agent enroll {task.id} --background other"
        )


def _check_not_ours(agent: AgentContext, task: int) -> None:
    """Before its pictures are looked at: those of a child task differ in size."""
    with suppress(NotFound, Forbidden):  # told later, with what to do
        if _is_child_task(agent.client.get(f"tasks/{task}")):
            raise ConfigError(
                f"task {task} is one that an agent made to ask people; name the task that it asks "
                "about"
            )


def _check_nobody_was_asked(agent: AgentContext, task: int) -> None:
    """Two workspaces would ask people twice, and take each other's masks for a person's."""
    children = child_tasks(agent.client, task)
    if children:
        raise ConfigError(
            f"people have been asked about task {task} before (task {children[0]['id']}: "
            f"{children[0]['name']!r}); end that in the workspace that did, by hvsa-agent withdraw "
            f"{task} --children, or give --again to start anew beside it"
        )


def _new_enrollment(agent: AgentContext, task: WatchedTask, options: EnrollOptions) -> Enrollment:
    """An enrollment whose folder does not exist yet."""
    classes = tuple((label.id, label.name) for label in task.classes)
    for attempt in count():
        started = f"{task.id} {agent.clock()} {agent.workspace.owner} {attempt}"
        key = hashlib.sha256(started.encode()).hexdigest()[:8]
        enrollment = Enrollment(task.id, key, classes, options, None)
        if not agent.workspace.folder(enrollment).exists():
            return enrollment
    raise AssertionError


def _make_session(
    workspace: Workspace,
    enrollment: Enrollment,
    task: WatchedTask,
    start: ChosenStart,
) -> None:
    """In the folder in which the network that it starts from lies already."""
    config = start.config
    with Store(workspace.session_place(enrollment)) as store:
        if store.place.artefacts is not None:
            store.checksums.expect(store.root / START_FILE, start.checksum)
        store.create(
            Session(
                id=f"{workspace.server}/tasks/{task.id}/{enrollment.key}",
                video=task.name,
                labels=task.labels,
                config=config.model_dump(mode="json"),
                rounds_total=len(config.budgets),
            )
        )
        facts = State(store.place / "cvat").facts
        facts.set_frames_in_use(task.media.numbers)
        facts.set_class_colours([label.color for label in task.classes])
