"""One watched task on a CVAT server, as the `AnnotationServer` of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np

from hvsa_cvat.cvat.answers import collect
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.masks import publish
from hvsa_cvat.cvat.request.ask import AskOptions, Question, ask
from hvsa_cvat.cvat.state import Request, State
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import SessionError
from hvsa_cvat.ports import FrameSource, Progress, SegmentMaps
from hvsa_cvat.types import Answers, FrameAnnotation, LabelMap, LabelSet, Sample


@dataclass(frozen=True)
class ServerOptions:
    """How the task's people and pre-annotations are treated."""

    ask: AskOptions
    collect: collect.CollectPolicy
    publish: publish.PublishOptions
    publish_from: int = 0
    """The first round whose masks are shown: 1 where the network of round 0 does not know the
    classes and would only be in the way."""


class CvatServer:
    """An `AnnotationServer`. `frames` is called when frames are needed, not before."""

    def __init__(
        self,
        client: CvatClient,
        state: State,
        task: WatchedTask,
        frames: Callable[[], FrameSource],
        options: ServerOptions,
        *,
        now: Callable[[], datetime],
        log: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self._client = client
        self._state = state
        self._task = task
        self._open = frames
        self._options = options
        self._now = now
        self._log = log
        self._progress = progress

    @cached_property
    def _frames(self) -> FrameSource:
        return self._open()

    def labels(self) -> LabelSet:
        return self._task.labels

    def frames(self) -> FrameSource:
        return self._frames

    def request(
        self,
        key: str,
        samples: Sequence[Sample],
        segments: SegmentMaps,
        expected_clicks: Sequence[float],
    ) -> str:
        connection = TaskConnection(
            self._client, self._state, self._task, self._log, self._progress, self._now
        )
        question = Question(key, samples, segments, expected_clicks, self._class_order())
        request = ask(connection, self._frames, question, self._options.ask)
        return request.key

    def collect(self, request: str) -> Answers | None:
        return collect.collect(
            self._client,
            self._state,
            self._task,
            self._asked(request),
            self._options.collect,
            log=self._log,
        )

    def revised(self, request: str) -> Answers | None:
        return collect.revised(
            self._client,
            self._state,
            self._task,
            self._asked(request),
            self._options.collect,
            log=self._log,
        )

    def corrections(self) -> Sequence[FrameAnnotation]:
        return collect.corrections(
            self._client, self._state, self._task, self._options.collect, log=self._log
        )

    def publish(self, round_number: int, label_maps: Iterable[tuple[int, LabelMap]]) -> None:
        """Show the masks of a round, in the jobs that nobody is at work on; the others are left
        until `pending` is asked and this is called again."""
        if round_number < self._options.publish_from:
            self._log(
                "the checkpoint does not know the classes of the task, so its predictions are not "
                "shown; masks come after the first answers"
            )
            return
        outcome = publish.publish(
            self._client,
            self._state,
            self._task,
            round_number,
            self._counted(label_maps),
            self._options.publish,
            now=self._now,
            log=self._log,
            progress=self._progress,
        )
        self._log(
            f"masks of round {round_number}: {outcome.created} new, {outcome.deleted} replaced, "
            f"{outcome.kept} as they were"
        )
        for job, reason in outcome.left:
            self._log(f"job {job} is left for later: {reason}")

    def pending(self, round_number: int) -> bool:
        """Whether jobs wait for the masks of a round."""
        if round_number < self._options.publish_from:
            return False
        return bool(publish.pending(self._client, self._state, self._task, round_number))

    def _asked(self, key: str) -> Request:
        request = self._state.requests.get(key)
        if request is None:
            raise SessionError(
                f"{self._state.path} does not know the request {key}; restore it from a copy, "
                f"or ask again: hvsa-agent sync --task {self._task.id} --ask-again"
            )
        return request

    def _counted(
        self, label_maps: Iterable[tuple[int, LabelMap]]
    ) -> Iterator[tuple[int, LabelMap]]:
        """Pass label maps on and note how large each class is."""
        pixels = np.zeros(256, np.int64)
        for frame, label_map in label_maps:
            pixels += np.bincount(label_map.ravel(), minlength=256)
            yield frame, label_map
        self._state.facts.set_class_pixels(pixels[: len(self._task.classes)].tolist())

    def _class_order(self) -> list[int]:
        """Class indices, the class of most pixels first; as in the task while nobody knows."""
        pixels = self._state.facts.class_pixels() or [0] * len(self._task.classes)
        return sorted(range(len(pixels)), key=lambda index: -pixels[index])
