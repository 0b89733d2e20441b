"""Passes over all tasks in care: whatever can move moves, and says what it waits for."""

from __future__ import annotations

import errno
import hashlib
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import torch

from hvsa_cvat.agent.settings import AgentSettings, CareOptions
from hvsa_cvat.agent.workspace import Care, Workspace
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.answers.unfinished import UnfinishedJob, unassign, unfinished_jobs
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.frame_order import order_warning
from hvsa_cvat.cvat.frames import open_task_frames
from hvsa_cvat.cvat.http.client import CvatClient, Json, NotFound, Unreachable
from hvsa_cvat.cvat.keys import OURS
from hvsa_cvat.cvat.masks.options import PublishOptions
from hvsa_cvat.cvat.masks.retract import Retracted, retract
from hvsa_cvat.cvat.media import missing_task
from hvsa_cvat.cvat.request.ask import AskOptions
from hvsa_cvat.cvat.request.assign import find_person
from hvsa_cvat.cvat.request.companion_project import refuse_companion
from hvsa_cvat.cvat.request.find_task import child_tasks, remove_child
from hvsa_cvat.cvat.request.guide import check_names
from hvsa_cvat.cvat.server import CvatServer, ServerOptions
from hvsa_cvat.cvat.state import State, read_requests
from hvsa_cvat.cvat.task import WatchedTask, read_label_ids, read_task
from hvsa_cvat.errors import ConfigError, HvsaError, ServerError, SessionError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import FlowEstimator, FrameSource, Progress
from hvsa_cvat.segmentation.checkpoint import known_classes, load_checkpoint, read_info
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.session.advance import advance
from hvsa_cvat.session.context import RunContext, RunInputs
from hvsa_cvat.session.memory import Demand, check_fits, demand_of, this_machine
from hvsa_cvat.session.prepare import prepare
from hvsa_cvat.session.publish import published_maps
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.video.flow import choose_flow

Log = Callable[[str], None]

_CHUNK_PIXEL = {"video": 0.1, "images": 1.0}
"""Bytes a pixel of the frames as the server sends them, about."""


@dataclass(frozen=True)
class TaskReport:
    """What a pass did with one task."""

    task: int
    name: str
    moved: tuple[str, ...] = ()
    """Phases that were finished, such as `round 2: finetune`."""
    owed: tuple[UnfinishedJob, ...] = ()
    """Jobs that people have not finished."""
    done: bool = False
    """All rounds are over."""
    enrolled: bool = False
    """It came into care, with its project."""
    unpublished: bool = False
    """Masks wait for jobs that somebody is at work on."""
    held_by: str | None = None
    """Another agent that has the task."""
    error: str | None = None
    silence: bool = False
    """Whether the error is that the server did not answer."""


class Agent:
    """Cares for tasks of one server. One thread."""

    def __init__(
        self,
        settings: AgentSettings,
        workspace: Workspace,
        client: CvatClient,
        *,
        clock: Callable[[], float],
        log: Log,
        progress: Progress,
    ) -> None:
        """`clock` gives seconds since 1970."""
        self._settings = settings
        self._workspace = workspace
        self.client = self._client = client
        self._clock = clock
        self.log = self._log = log
        self._progress = progress
        self._ahead = timedelta()
        """Of our clock the server's."""

    # -- into care and out of it

    def enroll(
        self, task: int, options: Mapping[str, Any], *, again: bool = False
    ) -> tuple[Care, WatchedTask]:
        """Take a task into care and make its session; nothing on the server changes.

        `again`: even if another workspace has asked people about this task before.
        """
        known = self._workspace.task(task)
        if known is not None:
            raise ConfigError(
                f"task {task} is in care already; `hvsa-agent status` shows how it stands, "
                f"`hvsa-agent withdraw {task}` lets go of it"
            )
        background = self._settings.care(None, options).background
        watched = read_task(self._client, task, background)
        care_options = self._settings.care(watched.project, options)
        if care_options.background != background:
            watched = read_task(self._client, task, care_options.background)
        self._refuse_ours(task)
        check_names(watched.labels.names, task)
        if not again:
            self._refuse_foreign(task)
        device = choose_device(care_options.device)
        config = care_options.run_config(watched.size, device.type)
        flow, _ = choose_flow(config.flow, device.type, care_options.flow_weights)
        checkpoint = _start_network(care_options, watched, self._log)
        self._check_annotators(care_options)
        demand = _demand(watched, config, checkpoint, flow, device, care_options.align_corners)
        found = check_fits(demand, this_machine(self._workspace.root, device))
        self._log(f"task {task}: takes {found}")

        classes = [(label.id, label.name) for label in watched.classes]
        care = self._new_care(task, classes, care_options)
        folder = self._workspace.folder(care)
        with Store(folder) as store:
            store.create(
                Session(
                    id=f"{self._workspace.server}/tasks/{task}/{care.care}",
                    video=watched.name,
                    labels=watched.labels,
                    config=config.model_dump(mode="json"),
                    rounds_total=len(config.budgets),
                )
            )
            State(store.path("cvat")).facts.set_frames_in_use(watched.media.numbers)
            with atomic_write(_network_file(folder, checkpoint.suffix)) as path:
                shutil.copyfile(checkpoint, path)
        self._workspace.take(task, care.care, classes, care_options)
        if warning := order_warning(task, watched.media.files):
            self._log(warning)
        for label in watched.left_out:
            self._log(f"task {task}: label {label!r} cannot carry masks and is left out")
        return care, watched

    def enroll_project(self, project: int, options: Mapping[str, Any]) -> Iterator[TaskReport]:
        """Take all tasks of a project into care, now and, in later passes, those that come."""
        refuse_companion(self._client.get(f"projects/{project}"))
        self._settings.care(project, options)
        given = {name: value for name, value in options.items() if value is not None}
        self._workspace.take_project(project, given)
        return self._enroll_new(project, given)

    def withdraw(self, task: int, *, children: bool) -> Retracted | None:
        """Remove what we pushed and still own, and `children`, our child tasks, if asked.

        Everything that people drew stays, and so does the folder of the session. A task in which
        people are at work beside our shapes stays in care, too. None where the task is gone from
        the server.
        """
        care = self._workspace.task(task)
        if care is None:
            raise ConfigError(f"task {task} is not in care; see `hvsa-agent status`")
        with ExitStack() as stack:
            held = stack.enter_context(self._workspace.leased(task))
            if not held:
                raise self._held(task)
            store = stack.enter_context(Store(self._workspace.folder(care)))
            state = State(store.path("cvat"))
            retracted = project = None
            row = self._find_task(task)
            self._read_clock()
            if row is None:
                self._log(f"task {task} is gone from the server: nothing to remove there")
            else:
                project = row["project_id"]
                retracted = retract(
                    self._client,
                    state,
                    task,
                    read_label_ids(self._client, task, care.classes),
                    _publish_options(care.options),
                    now=self._now,
                    log=self._log,
                )
            if retracted is not None and retracted.waits:
                return retracted
            asked = list(state.requests.all())
            for request in asked:
                if children:
                    remove_child(self._client, state, request)
                    self._log(f"child task {request.task} is deleted")
                else:
                    self._log(f"child task {request.task} stays, with what people answered in it")
                    for job in unassign(self._client, request):
                        self._log(f"job {job}, which is not finished, is taken from its annotator")
            for companion_project in sorted({request.project for request in asked}):
                self._log(
                    f"project {companion_project}, in which people were asked, stays; delete it in "
                    "CVAT when nothing in it is needed any more"
                )
            self._workspace.drop(task)
            if project is not None:
                self._workspace.set_withdrawn(project, task)
        return retracted

    def has_work(self) -> bool:
        """Whether any task or project is in care."""
        return bool(self._workspace.tasks() or self._workspace.projects())

    def companion_projects(self) -> list[int]:
        """Projects in which the tasks in care ask people."""
        found: set[int] = set()
        for care in self._workspace.tasks():
            requests = read_requests(self._workspace.folder(care) / "cvat")
            found.update(request.project for request in requests)
        return sorted(found)

    # -- passes

    def sync(
        self,
        only: int | None = None,
        *,
        ask_again: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Iterator[TaskReport]:
        """One pass over every task in care, or over one; `stopping` is asked before each step.

        What goes wrong with a task is in its report; the others go on.
        """
        if only is not None and self._workspace.task(only) is None:
            raise ConfigError(f"task {only} is not in care; take it by `hvsa-agent enroll {only}`")
        if only is None:
            for project, options in self._workspace.projects().items():
                yield from self._enroll_new(project, options)
        silence = self._read_clock()
        for care in self._workspace.tasks():
            if stopping():
                return
            if only is not None and care.task != only:
                continue
            with self._workspace.leased(care.task) as held:
                if not held:
                    yield TaskReport(care.task, "", held_by=self._holder(care.task))
                    continue
                if silence is None:
                    report = self._sync_task(care, ask_again, stopping)
                    silence = self._read_clock() if report.silence else None
                else:
                    report = TaskReport(care.task, "", error=silence)
                with suppress(HvsaError):  # of a full disk, which the report tells of
                    self._workspace.set_error(care.task, report.error)
            yield report

    def _read_clock(self) -> str | None:
        """Take the time from the server, by whose dates it is judged whether people are at work.
        Returns why it cannot be asked, if so."""
        try:
            theirs = self._client.server_time()
        except ServerError as error:
            return " ".join(str(error).split())
        self._ahead = theirs - datetime.now(UTC) if theirs is not None else timedelta()
        return None

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def _sync_task(self, care: Care, ask_again: bool, stopping: Callable[[], bool]) -> TaskReport:
        name, moved = f"task {care.task}", []
        try:
            with Store(self._workspace.folder(care)) as store:
                session = store.load()
                if session is None:
                    raise SessionError(
                        f"{store.root} holds no session; withdraw the task and enroll it again"
                    )
                name = session.video
                state = State(store.path("cvat"))
                if ask_again:
                    request = session.current.request
                    session = session.ask_again()
                    if request is not None:
                        state.requests.forget(request)
                    store.save(session)
                work = _Work(
                    care,
                    session,
                    store,
                    state,
                    self._client,
                    self._now,
                    self._log,
                    self._progress,
                )
                while not stopping():
                    phase, number = work.session.current.phase, work.session.current.number
                    if not work.step(self._clock):
                        break
                    moved.append(f"round {number}: {phase}")
                    self._log(f"task {care.task}: round {number}: {phase} done")
                unpublished = work.publish_pending()
                return TaskReport(
                    care.task,
                    name,
                    tuple(moved),
                    owed=tuple(work.owed()),
                    done=work.session.done,
                    unpublished=unpublished,
                )
        except HvsaError as error:
            line = " ".join(str(error).split())
            silence = isinstance(error, Unreachable)
            return TaskReport(care.task, name, tuple(moved), error=line, silence=silence)
        except Exception as error:  # whatever it is, the other tasks go on
            line = self._unexpected(care, error)
            return TaskReport(care.task, name, tuple(moved), error=line)

    def _unexpected(self, care: Care, error: Exception) -> str:
        """One line about a failure that nobody foresaw; the rest of it goes into a file."""
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return f"no space left on the disk of {self._workspace.root}; free space"
        file = self._workspace.folder(care) / "unexpected.txt"
        with suppress(OSError):
            file.write_text("".join(traceback.format_exception(error)))
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{what}; this should not happen: please report it, with {file}"

    def _new_care(self, task: int, classes: list[tuple[int, str]], options: CareOptions) -> Care:
        """A care whose folder is not there yet."""
        for attempt in count():
            started = f"{task} {self._clock()} {self._workspace.owner} {attempt}"
            name = hashlib.sha256(started.encode()).hexdigest()[:8]
            care = Care(task, name, tuple(classes), options, None)
            if not self._workspace.folder(care).exists():
                return care
        raise AssertionError

    def _enroll_new(self, project: int, options: Mapping[str, Any]) -> Iterator[TaskReport]:
        try:
            rows = self._client.rows("tasks", project_id=project)
        except HvsaError as error:
            yield TaskReport(0, f"project {project}", error=str(error))
            return
        left = self._workspace.withdrawn(project)
        for row in rows:
            task = int(row["id"])
            if task in left or self._workspace.task(task) is not None:
                continue
            if not row.get("size") or row.get("dimension") != "2d":
                continue  # still being uploaded, or nothing that can be segmented
            if str(row.get("bug_tracker") or "").startswith(OURS):
                continue  # a child task of ours
            try:
                self.enroll(task, options)
            except HvsaError as error:
                yield TaskReport(task, str(row["name"]), error=" ".join(str(error).split()))
            else:
                yield TaskReport(task, str(row["name"]), enrolled=True)

    def _refuse_ours(self, task: int) -> None:
        row = self._client.get(f"tasks/{task}")
        if str(row.get("bug_tracker") or "").startswith(OURS):
            raise ConfigError(
                f"task {task} is one that an agent made to ask people; name the task that it asks "
                "about"
            )

    def _refuse_foreign(self, task: int) -> None:
        """Two workspaces would ask people twice and take each other's masks for a person's."""
        children = child_tasks(self._client, task)
        if children:
            raise ConfigError(
                f"people have been asked about task {task} before (task {children[0]['id']}: "
                f"{children[0]['name']!r}); withdraw it in the workspace that did, or give --again "
                "to start anew beside it"
            )

    def _find_task(self, task: int) -> Json | None:
        """The server's row of a task that we work in; None where it is deleted."""
        try:
            row: Json = self._client.get(f"tasks/{task}")
        except NotFound:
            return None
        # a task can be read from other organisations, but its labels and jobs are not listed there
        if not self._client.rows("jobs", task_id=task) and (row.get("jobs") or {}).get("count"):
            raise missing_task(self._client.address, task)
        return row

    def _check_annotators(self, options: CareOptions) -> None:
        for name in options.annotators:
            find_person(self._client, name)

    def _holder(self, task: int) -> str:
        lease = self._workspace.lease(task)
        return lease.owner if lease is not None else "another agent"

    def _held(self, task: int) -> SessionError:
        return SessionError(
            f"{self._holder(task)} works on task {task} just now; try again when it is done"
        )


class _Work:
    """One task in one pass, opened as far as it is needed."""

    def __init__(
        self,
        care: Care,
        session: Session,
        store: Store,
        state: State,
        client: CvatClient,
        now: Callable[[], datetime],
        log: Log,
        progress: Progress,
    ) -> None:
        self.session = session
        self._care = care
        self._store = store
        self._state = state
        self._client = client
        self._log: Log = lambda line: log(f"task {care.task}: {line}")
        self._progress = progress
        self._context: RunContext | None = None
        self._frames: FrameSource | None = None
        try:
            self._task = read_task(
                client,
                care.task,
                care.options.background,
                known=care.classes,
                in_use=state.facts.frames_in_use(),
            )
        except NotFound as error:
            raise NotFound(
                f"{error}; if it was deleted, let go of it: hvsa-agent withdraw {care.task}"
            ) from error
        self._tell_changes()
        self._server = CvatServer(
            TaskConnection(client, state, self._task, self._log, progress, now),
            self._open_frames,
            ServerOptions(
                ask=AskOptions(annotators=care.options.annotators),
                collect=CollectPolicy(
                    accepted_only=care.options.accepted_only,
                    gap_threshold=care.options.gap_percent / 100,
                ),
                publish=_publish_options(care.options),
                publish_from=0 if self._knows_classes() else 1,
            ),
        )

    def _tell_changes(self) -> None:
        """Say what differs from the task that came into care."""
        media = self._task.media
        if deleted := media.deleted.intersection(media.numbers):
            self._log(
                f"{len(deleted)} frames were deleted since the task came into care; it goes on "
                "with them (to leave them out, withdraw the task and enroll it again)"
            )
        for name in self._task.new_labels:
            self._log(
                f"label {name!r} is newer than the care and ignored; enroll again to learn it"
            )

    def step(self, clock: Callable[[], float]) -> bool:
        """Finish the phase that is due; False where people or nobody is due."""
        moved = advance(self.session, self._server, self._store, self._prepared, clock)
        if moved is None:
            return False
        self.session = moved
        return True

    def publish_pending(self) -> bool:
        """Bring masks to jobs that were busy before; whether some still are."""
        finished = [done.number for done in self.session.rounds if done.phase is Phase.DONE]
        if not finished or not self._server.pending(finished[-1]):
            return False
        maps = published_maps(self.session, self._store, finished[-1], self._task.media.names)
        self._server.publish(finished[-1], maps)
        return self._server.pending(finished[-1])

    def owed(self) -> list[UnfinishedJob]:
        """Who still has to finish what."""
        key = self.session.current.request
        request = self._state.requests.get(key) if key is not None else None
        if request is None or self.session.current.phase is not Phase.ANNOTATE:
            return []
        policy = CollectPolicy(accepted_only=self._care.options.accepted_only)
        return unfinished_jobs(self._client, request, policy)

    def _open_frames(self) -> FrameSource:
        if self._frames is None:
            cache = self._store.path("cvat", "chunks")
            self._frames = open_task_frames(self._client, self._task.media, cache, self._progress)
        return self._frames

    def _prepared(self) -> RunContext:
        if self._context is None:
            options, config = self._care.options, RunConfig.model_validate(self.session.config)
            device = choose_device(options.device)
            flow, _ = choose_flow(config.flow, device.type, options.flow_weights)
            demand = _demand(
                self._task, config, self._network(), flow, device, options.align_corners
            )
            found = check_fits(demand, this_machine(self._store.root, device))
            if self.session.current.number == 0:
                self._log(f"takes {found}")
            inputs = RunInputs(
                source=self._open_frames(),
                labels=self.session.labels,
                config=config,
                checkpoint=self._network(),
                flow=flow,
                device=device,
                align_corners=options.align_corners,
            )
            self._context = prepare(inputs, self._store, full_clicks=None, progress=self._progress)
        return self._context

    def _network(self) -> Path:
        for suffix in (".safetensors", ".pth", ".pt", ".bin"):
            path = _network_file(self._store.root, suffix)
            if path.exists():
                return path
        raise SessionError(
            f"{self._store.root} lacks the network it started from; restore the folder from a copy"
        )

    def _knows_classes(self) -> bool:
        labels = self.session.labels
        return len(known_classes(self._network(), labels)) == len(labels)


def _demand(
    task: WatchedTask,
    config: RunConfig,
    checkpoint: Path,
    flow: FlowEstimator,
    device: torch.device,
    align_corners: bool,
) -> Demand:
    """What the rounds of a task ask of this machine."""
    network, _ = load_checkpoint(checkpoint, task.labels, align_corners=align_corners)
    pixels = len(task.media.numbers) * task.size[0] * task.size[1]
    return demand_of(
        task.media.names,
        task.size,
        len(task.labels),
        network.name,
        config,
        flow.name,
        device,
        int(_CHUNK_PIXEL[task.media.kind] * pixels),
    )


def _publish_options(options: CareOptions) -> PublishOptions:
    return PublishOptions(shapes=options.shapes, quiet_minutes=options.quiet_minutes)


def _network_file(folder: Path, suffix: str) -> Path:
    return folder / f"start{suffix.lower()}"


def _start_network(options: CareOptions, task: WatchedTask, log: Log) -> Path:
    """The checkpoint to start from; it is loaded once, so that what is wrong with it shows now."""
    path = options.checkpoint
    if path is None:
        return Path(str(files("hvsa_cvat") / "data" / "demo" / "pretrained.safetensors"))
    _, line = load_checkpoint(path, task.labels, align_corners=options.align_corners)
    log(f"task {task.id}: {line}")
    if path.suffix == ".safetensors" and not options.new_classes:
        theirs = read_info(path).labels
        if not set(theirs) & set(task.labels.names):
            raise ConfigError(
                f"{path} knows {', '.join(theirs)}, none of which is a class of task {task.id} "
                f"({', '.join(task.labels.names)}); give another checkpoint, or --new-classes to "
                "start from its backbone"
            )
    return path
