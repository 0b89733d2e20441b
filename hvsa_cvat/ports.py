"""What the rounds need from outside, as protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import (
    Answers,
    FrameAnnotation,
    Image,
    LabelMap,
    Sample,
    SegmentMap,
    Size,
)


class Progress(Protocol):
    """Is called with how far a long step has come. It must be quick and must not raise."""

    def __call__(self, step: str, done: int, total: int) -> None: ...


def silent(step: str, done: int, total: int) -> None:
    """The `Progress` of callers that do not want one."""


class FrameSource(Protocol):
    """The frames of one video, all of one size, in order of time."""

    @property
    def names(self) -> Sequence[str]:
        """A unique name for each frame, without extension. Label maps are saved under it."""

    @property
    def size(self) -> Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int) -> Image:
        """Frame `frame`, counted from 0. Reading in order is fast; other orders may be slow."""


class SegmentMaps(Protocol):
    """The segments of every frame, at the video's own size. Each segment is one sample."""

    @property
    def border_is_free(self) -> bool:
        """Whether vertices on a segment's border cost no clicks: yes for regions, no for frames."""

    def __len__(self) -> int:
        """Number of frames."""

    def count(self, frame: int) -> int:
        """Number of segments in a frame."""

    def __getitem__(self, frame: int) -> SegmentMap: ...


class FlowEstimator(Protocol):
    """Dense optical flow between images of one size."""

    @property
    def name(self) -> str:
        """The method and its weights. Flow that was computed under another name is not reused."""

    def estimate(
        self, sources: NDArray[np.uint8], targets: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Flow from each source to its target, float32 (B, 2, H, W): dx and dy in pixels.

        `sources` and `targets` are uint8 (B, H, W, 3) RGB.
        """


@dataclass(frozen=True)
class Shown:
    """The masks that people see who answer a request."""

    round: int
    """The round whose masks they are."""
    label_map: Callable[[int], LabelMap]
    """Of a frame, at the video's own size."""
    right: Sequence[float]
    """For each sample: the share of its pixels that are expected to be right, 0 to 1."""
    exact: bool = False
    """Whether what people change measures the masks, so that every wrong pixel counts."""


class AnnotationServer(Protocol):
    """Where people annotate. Every method may be called again after a failure."""

    def request(
        self,
        key: str,
        samples: Sequence[Sample],
        segments: SegmentMaps,
        expected_clicks: Sequence[float],
        shown: Shown | None = None,
        expected_seconds: Sequence[float] = (),
    ) -> str:
        """Ask people to annotate `samples`, and return the request's id.

        `expected_clicks` holds one number for each sample, and so does `expected_seconds`, or
        nothing where only the clicks are known. `shown` are the masks that people
        correct; without it they draw. A `key` that was used before gives the request that was made
        then, never a second one.
        """

    def collect(self, request: str) -> Answers | None:
        """The finished answers, or None while people are still at work."""

    def revised(self, request: str) -> Answers | None:
        """All answers, if people have changed any since they were last read; else None."""

    def corrections(self) -> Sequence[FrameAnnotation]:
        """Everything that people have drawn or corrected outside all requests, as it is now.

        At most one annotation for each frame, without segments.
        """

    def publish(self, round_number: int, label_maps: Iterable[tuple[int, LabelMap]]) -> None:
        """Replace the masks that were published before by new ones.

        `label_maps` are pairs (frame, label map at the video's own size).
        """
