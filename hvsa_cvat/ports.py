"""The seams: what the loop needs from the outside, as protocols."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import (
    Answers,
    FrameAnnotation,
    Image,
    LabelMap,
    LabelSet,
    Sample,
    SegmentMap,
    Size,
)


class Progress(Protocol):
    """Told how far a long step has come; must be quick and must not raise."""

    def __call__(self, step: str, done: int, total: int) -> None: ...


def silent(step: str, done: int, total: int) -> None:
    """The `Progress` of callers that do not want one."""


class FrameSource(Protocol):
    """The frames of one video, all of one size, in order of time."""

    @property
    def names(self) -> Sequence[str]:
        """One a frame, unique, without extension; label maps are written under them."""

    @property
    def size(self) -> Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int) -> Image:
        """Frame `frame`, 0-based; forward order is fast, jumping may not be."""


class SegmentMaps(Protocol):
    """The segments of every frame, at the video's own size: the granularity of the samples."""

    @property
    def border_is_free(self) -> bool:
        """Whether vertices on a segment's border cost nothing (regions yes, whole frames no)."""

    def __len__(self) -> int:
        """Number of frames."""

    def count(self, frame: int) -> int:
        """Number of segments in a frame."""

    def __getitem__(self, frame: int) -> SegmentMap: ...


class FlowEstimator(Protocol):
    """Dense optical flow between images of one size."""

    @property
    def name(self) -> str:
        """Identifies method and weights; flow computed under another name is computed again."""

    def estimate(
        self, sources: NDArray[np.uint8], targets: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) RGB twice -> float32 (B, 2, H, W), dx and dy in pixels."""


class AnnotationServer(Protocol):
    """Where people annotate. Every method is safe to repeat."""

    def labels(self) -> LabelSet: ...

    def frames(self) -> FrameSource: ...

    def request(
        self,
        key: str,
        samples: Sequence[Sample],
        segments: SegmentMaps,
        expected_clicks: Sequence[float],
    ) -> str:
        """Ask people for `samples`, which are expected to cost so much each. Returns the request's
        id; the same `key` gives the same request, never a second one."""

    def collect(self, request: str) -> Answers | None:
        """The finished answers, or None while people are still at work."""

    def revised(self, request: str) -> Answers | None:
        """The answers as people have changed them since they were read last, or None."""

    def corrections(self) -> Sequence[FrameAnnotation]:
        """What people drew or corrected by themselves, outside all requests: all that there is now,
        at most one a frame, without segments."""

    def publish(self, round_number: int, label_maps: Iterable[tuple[int, LabelMap]]) -> None:
        """Show dense predictions, (frame, label map) at the video's own size, in place of the
        ones published before."""
