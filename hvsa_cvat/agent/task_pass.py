"""One pass over one task: phase after phase, until people have to act or all rounds are over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.agent.advice import next_command
from hvsa_cvat.agent.ask_again import ask_again
from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.orders import ComputeRounds, FeatureMap
from hvsa_cvat.agent.start_file import knows_all_classes, start_checkpoint
from hvsa_cvat.agent.stored import stored_session
from hvsa_cvat.agent.workspace import Enrollment
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.answers.unfinished import unfinished_jobs
from hvsa_cvat.cvat.answers.unfinished_job import UnfinishedJob
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.frames import open_task_frames
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import NotFound
from hvsa_cvat.cvat.masks.options import PublishOptions
from hvsa_cvat.cvat.request.plan import AskOptions
from hvsa_cvat.cvat.server import CvatServer, ServerOptions
from hvsa_cvat.cvat.state import State
from hvsa_cvat.cvat.task import WatchedTask, read_task
from hvsa_cvat.ports import FrameSource
from hvsa_cvat.session.context import AskContext, VideoInputs, segments_by_round
from hvsa_cvat.session.exchange import exchange
from hvsa_cvat.session.publish import published_maps
from hvsa_cvat.session.rounds import Phase
from hvsa_cvat.session.store import Store


class TaskPass:
    """One task in one pass. Frames and network are opened when they are needed."""

    def __init__(
        self,
        agent: AgentContext,
        enrollment: Enrollment,
        store: Store,
        now: Callable[[], datetime],
    ) -> None:
        """`now` is the time of the server."""
        self.session = stored_session(store)
        self.state = State(store.place / "cvat", store)
        self._agent = agent
        self._enrollment = enrollment
        self._options = enrollment.options
        self._store = store
        self._config = RunConfig.model_validate(self.session.config)
        self._now = now

    def ask_again(self) -> None:
        """Make the open request anew, after its child task was deleted."""
        self.session = ask_again(self._store)

    @property
    def due(self) -> str:
        """The phase that is due, in words."""
        return f"round {self.session.current.number}: {self.session.current.phase}"

    def order(self, *, fetch: bool) -> ComputeRounds | None:
        """What has to be computed before the task can go on; None where people have to act, or all
        rounds are over. `fetch`: the frames are fetched for it."""
        if not self.session.current.phase.computes:
            return None
        if fetch:
            self.fetch_frames()
        return ComputeRounds(
            task=self._enrollment.task,
            name=self.session.video,
            step=self.due,
            soon=self.session.current.phase is Phase.SELECT,
            place=self._store.place,
            options=self._options,
            server=self._agent.client.address.url,
            media=self._task.media,
            fetched=fetch,
        )

    def step(self) -> str | None:
        """Finish the phase that is due, and name it; None where it has to be computed, or waits
        for people, or all rounds are over."""
        current = self.session.current
        moved = exchange(
            self.session, self._server, self._store, lambda: self._context, self._agent.clock
        )
        if moved is None:
            return None
        self.session = moved
        return f"round {current.number}: {current.phase}"

    def publish_pending(self) -> bool:
        """Write masks to the jobs that were in use before. Returns whether some still are."""
        if self.session.current.phase in (Phase.PREDICT, Phase.PUBLISH):
            return False  # newer masks come first
        finished = [done.number for done in self.session.rounds if done.phase is Phase.DONE]
        if not finished or not self._server.pending(finished[-1]):
            return False
        maps = published_maps(self.session, self._store, finished[-1], self._task.media.names)
        self._server.publish(finished[-1], maps)
        return self._server.pending(finished[-1])

    def open_jobs(self) -> list[UnfinishedJob]:
        """The jobs that are assigned and not finished."""
        current = self.session.current
        request = self.state.requests.get(current.request) if current.request is not None else None
        if request is None or current.phase is not Phase.ANNOTATE:
            return []
        return unfinished_jobs(self._agent.client, request, collect_policy(self._options))

    def next_command(self) -> str | None:
        """How to go on where all rounds are over."""
        if not self.session.done:
            return None
        files = self._store.round(self.session.current.number)
        return next_command(self._enrollment.task, self.session, files)

    def _log(self, line: str) -> None:
        self._agent.log(f"task {self._enrollment.task}: {line}")

    def _progress(self, step: str, done: int, total: int) -> None:
        current = self.session.current
        where = f"task {self._enrollment.task}: round {current.number}: {current.phase}"
        self._agent.progress(f"{where}: {step}", done, total)

    @cached_property
    def _task(self) -> WatchedTask:
        in_use = self.state.facts.frames_in_use()
        task = read_enrolled(self._agent.client, self._enrollment, in_use)
        colours = [label.color for label in task.classes]
        if colours != self.state.facts.class_colours():
            self.state.facts.set_class_colours(colours)
        files = list(task.media.files)
        if files != (self.state.facts.frame_files() or []):
            self.state.facts.set_frame_files(files)
        if deleted := task.media.deleted.intersection(task.media.numbers):
            self._log(
                f"{len(deleted)} frames were deleted since the task was enrolled, and still "
                "count; to leave them out, withdraw the task and enroll it again"
            )
        for name in task.new_labels:
            self._log(
                f"label {name!r} was added after the task was enrolled, and is ignored; withdraw "
                "the task and enroll it again to use it"
            )
        return task

    @cached_property
    def _server(self) -> CvatServer:
        known = knows_all_classes(self._checkpoint, self.session.labels)
        return CvatServer(
            TaskConnection(
                self._agent.client, self.state, self._task, self._log, self._progress, self._now
            ),
            lambda: self._frames,
            ServerOptions(
                ask=ask_options(self._options),
                collect=collect_policy(self._options),
                publish=publish_options(self._options),
                publish_from=0 if known else 1,
            ),
        )

    @cached_property
    def _frames(self) -> FrameSource:
        cache = self._store.path("cvat", "chunks")
        self._store.bring(cache)
        frames = open_task_frames(self._agent.client, self._task.media, cache, self._progress)
        self._store.keep(cache)
        return frames

    def fetch_frames(self) -> None:
        """Fetch those that are not on this machine."""
        self._frames  # noqa: B018

    @cached_property
    def _checkpoint(self) -> Path:
        store, size = self._store, self._config.size
        return start_checkpoint(store.root, self._options, size, store.checksums)

    @cached_property
    def _context(self) -> AskContext:
        inputs = VideoInputs(self._frames, self.session.labels, self._config)
        segments = segments_by_round(inputs, self._store, self._feature_map)
        return AskContext(inputs, self._store, segments)

    def _feature_map(self, frame: int) -> NDArray[np.float32]:
        """PREDICT has cut all frames into superpixels; this is for what was lost since."""
        labels, device = self.session.labels, self._options.device
        image = self._frames[frame]
        checkpoint, place = self._checkpoint, self._store.place
        order = FeatureMap(checkpoint, place, labels, self._config, device, image)
        return self._agent.compute.ask(order, self._agent.contact())


def ask_options(options: EnrollOptions) -> AskOptions:
    """Whom an enrolled task asks, and in which form."""
    return AskOptions(options.annotators, options.picture_side, options.job_minutes)


def publish_options(options: EnrollOptions) -> PublishOptions:
    """How the masks of an enrolled task are written."""
    return PublishOptions(shapes=options.shapes, quiet_minutes=options.quiet_minutes)


def collect_policy(options: EnrollOptions) -> CollectPolicy:
    """When the answers of an enrolled task count."""
    return CollectPolicy(
        accepted_only=options.accepted_only, gap_threshold=options.gap_percent / 100
    )


def read_enrolled(
    client: CvatClient, enrollment: Enrollment, in_use: list[int] | None
) -> WatchedTask:
    """An enrolled task as it is now; `in_use` are the numbers of its frames that are in use."""
    try:
        return read_task(
            client,
            enrollment.task,
            enrollment.options.background,
            known=enrollment.classes,
            in_use=in_use,
        )
    except NotFound as error:
        raise NotFound(
            f"{error}; if it was deleted, end its enrollment: hvsa-agent withdraw {enrollment.task}"
        ) from error
