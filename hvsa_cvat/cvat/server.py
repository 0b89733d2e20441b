"""One watched task on a CVAT server, as the `AnnotationServer` of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hvsa_cvat.cvat.answers import collect
from hvsa_cvat.cvat.answers.corrections import corrections
from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.masks.options import PublishOptions
from hvsa_cvat.cvat.masks.publish import jobs_without_round, publish
from hvsa_cvat.cvat.request.ask import ask
from hvsa_cvat.cvat.request.plan import AskOptions, Question
from hvsa_cvat.cvat.state import Request
from hvsa_cvat.errors import SessionError
from hvsa_cvat.ports import FrameSource, SegmentMaps, Shown
from hvsa_cvat.types import Answers, FrameAnnotation, LabelMap, Sample


@dataclass(frozen=True)
class ServerOptions:
    """How people are asked, when their answers count, and how masks are published."""

    ask: AskOptions
    collect: CollectPolicy
    publish: PublishOptions
    publish_from: int = 0
    """The first round whose masks are shown. It is 1 where the network of round 0 does not know the
    classes: its masks would only be in the way."""


class CvatServer:
    """An `AnnotationServer`. `frames` is called when frames are needed, not before."""

    def __init__(
        self,
        connection: TaskConnection,
        frames: Callable[[], FrameSource],
        options: ServerOptions,
    ) -> None:
        self._connection = connection
        self._open = frames
        self._options = options

    @cached_property
    def _frames(self) -> FrameSource:
        return self._open()

    def request(
        self,
        key: str,
        samples: Sequence[Sample],
        segments: SegmentMaps,
        expected_clicks: Sequence[float],
        shown: Shown | None = None,
        expected_seconds: Sequence[float] = (),
    ) -> str:
        connection = self._connection
        if shown is not None and shown.round < self._options.publish_from:
            shown = None
        order = self._class_order()
        question = Question(key, samples, segments, expected_clicks, order, shown, expected_seconds)
        request = ask(connection, self._frames, question, self._options.ask)
        return request.key

    def collect(self, request: str) -> Answers | None:
        return collect.collect(self._connection, self._asked(request), self._options.collect)

    def revised(self, request: str) -> Answers | None:
        return collect.revised(self._connection, self._asked(request), self._options.collect)

    def corrections(self) -> Sequence[FrameAnnotation]:
        return corrections(self._connection, self._options.collect)

    def publish(self, round_number: int, label_maps: Iterable[tuple[int, LabelMap]]) -> None:
        """Show the masks of a round in the jobs that nobody is at work on. The others are left
        until `pending` is asked and this is called again."""
        log = self._connection.log
        if round_number < self._options.publish_from:
            log(
                "the checkpoint does not know the classes of the task, so its predictions are not "
                "shown; masks come after the first answers"
            )
            return
        counted = self._counted(label_maps)
        outcome = publish(self._connection, round_number, counted, self._options.publish)
        log(
            f"masks of round {round_number}: {outcome.created} new, {outcome.deleted} replaced, "
            f"{outcome.kept} as they were"
        )
        for job, reason in outcome.left:
            log(f"job {job} is left for later: {reason}")

    def pending(self, round_number: int) -> bool:
        """Whether jobs wait for the masks of a round."""
        if round_number < self._options.publish_from:
            return False
        return bool(jobs_without_round(self._connection, round_number))

    def _asked(self, key: str) -> Request:
        state = self._connection.state
        request = state.requests.get(key)
        if request is None:
            raise SessionError(
                f"{state.path} does not know the request {key}; restore it from a copy, or ask "
                f"again: hvsa-agent sync --task {self._connection.task.id} --ask-again"
            )
        return request

    def _counted(
        self, label_maps: Iterable[tuple[int, LabelMap]]
    ) -> Iterator[tuple[int, LabelMap]]:
        """Pass label maps on, and remember how many pixels each class has."""
        pixels = np.zeros(256, np.int64)
        for frame, label_map in label_maps:
            pixels += np.bincount(label_map.ravel(), minlength=256)
            yield frame, label_map
        classes = len(self._connection.task.classes)
        self._connection.state.facts.set_class_pixels(pixels[:classes].tolist())

    def _class_order(self) -> list[int]:
        """Class indices, the class with most pixels first; in the task's order before the first
        label maps."""
        classes = len(self._connection.task.classes)
        pixels = self._connection.state.facts.class_pixels() or [0] * classes
        return sorted(range(len(pixels)), key=lambda index: -pixels[index])
