"""The masks of a round as they were published, and where each pixel comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.config import RunConfig
from hvsa_cvat.dashboard.runs import Run
from hvsa_cvat.errors import ConfigError, SessionError
from hvsa_cvat.session.artefacts import RoundFiles, VideoFiles
from hvsa_cvat.session.outlook import LEVELS
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, AnswerKind, FrameAnnotation, Image, LabelMap, Size
from hvsa_cvat.video.segments import build_segments, granularity_by_round


class PixelKind(IntEnum):
    """Where the class of a pixel comes from."""

    UNLABELLED = 0
    """It has none."""
    NETWORK = 1
    """The network says so, or the evidence of neighbouring frames does."""
    CARRIED = 2
    """It shows the label that a person gave to a pixel of another frame and that was carried
    here."""
    COMPUTED = 3
    """The network, or a carried label: the round is of version 0.1, which did not note which."""
    CONFIRMED = 4
    """A person saw the masks of the sample and confirmed them as they were."""
    PERSON = 5
    """A person drew it, or corrected masks in the sample that it lies in."""


@dataclass(frozen=True)
class FrameMasks:
    """What a round shows of one frame."""

    name: str
    """`frame_` and CVAT's number of the frame."""
    number: int
    """CVAT's number of the frame."""
    label_map: LabelMap
    kinds: NDArray[np.uint8]
    """uint8 (H, W) of `PixelKind`."""
    certainty: NDArray[np.uint8]
    """uint8 (H, W): 0 for not at all, 255 for certain, in steps of an eighth. 255 where a person
    labelled."""


@dataclass(frozen=True)
class _Answered:
    """What people labelled in a frame in one round."""

    round: int
    annotation: FrameAnnotation
    confirmed: tuple[int, ...] = ()
    """Those segments that people confirmed as they were."""


class RoundMasks:
    """The masks of one round of a task, frame by frame: what was predicted, and over it what
    people answered up to this round. Whoever works on the task goes on."""

    def __init__(self, run: Run, number: int) -> None:
        """`ConfigError` where the round has no masks."""
        shown = [one.number for one in run.rounds if one.shown is not None]
        if number not in shown:
            have = f"rounds with masks: {', '.join(map(str, shown))}" if shown else "none has yet"
            raise ConfigError(f"round {number} of {run.session.video!r} has no masks; {have}")
        self.run = run
        self.number = number
        self._files: RoundFiles = Store.peek_round(run.place, number)

    def __len__(self) -> int:
        return len(self.run.names)

    def __iter__(self) -> Iterator[FrameMasks]:
        for frame, name in enumerate(self.run.names):
            label_map = self._files.label_map(name).copy()
            certainty = _as_grey(self._files.certainty_levels(name))
            kinds = self._predicted_kinds(name, label_map)
            for one in self._answers.get(frame, ()):
                self._lay_over(one, label_map, kinds, certainty)
            number = self.run.number_of(frame)
            yield FrameMasks(name, number, label_map, kinds, certainty)

    @cached_property
    def size(self) -> Size:
        """Of all frames."""
        height, width = self._files.label_map(self.run.names[0]).shape
        return height, width

    def _predicted_kinds(self, name: str, label_map: LabelMap) -> NDArray[np.uint8]:
        kinds = np.full(label_map.shape, PixelKind.NETWORK, np.uint8)
        if self.number > 0:
            carried = self._files.carried_pixels(name)
            if carried is None:
                kinds[:] = PixelKind.COMPUTED
            else:
                kinds[carried] = PixelKind.CARRIED
        kinds[label_map == IGNORE] = PixelKind.UNLABELLED
        return kinds

    def _lay_over(
        self,
        one: _Answered,
        label_map: LabelMap,
        kinds: NDArray[np.uint8],
        certainty: NDArray[np.uint8],
    ) -> None:
        answer = one.annotation.label_map
        known = answer != IGNORE
        label_map[known] = answer[known]
        kinds[known] = PixelKind.PERSON
        certainty[known] = 255
        if one.confirmed:
            kinds[known & self._inside(one)] = PixelKind.CONFIRMED

    def _inside(self, one: _Answered) -> NDArray[np.bool_]:
        """bool (H, W): the segments that people confirmed."""
        if set(one.confirmed) == set(one.annotation.segments):
            return np.ones(self.size, np.bool_)
        config = RunConfig.model_validate(self.run.session.config)
        kind = granularity_by_round(config.granularity, len(config.budgets))[one.round - 1]
        kept = _KeptFrames(self.run.names, self.size)
        folder = VideoFiles(self.run.root, self._files.checksums).segments
        self._files.checksums.bring(folder)
        segments = build_segments(kind, kept, folder, kept.features)
        return np.isin(segments[one.annotation.frame], one.confirmed)

    @cached_property
    def _answers(self) -> dict[int, list[_Answered]]:
        """By frame, the later ones last; what people drew without being asked comes last."""
        found: defaultdict[int, list[_Answered]] = defaultdict(list)
        last: RoundFiles | None = None
        for one in self.run.session.rounds[1 : self.number + 1]:
            if one.clicks is None:
                continue
            last = self._files.of_round(one.number)
            answers = last.answers()
            confirmed = defaultdict(list)
            for sample, kind in answers.kinds.items():
                if kind is AnswerKind.CONFIRMED:
                    confirmed[sample.frame].append(sample.segment)
            for annotation in answers.annotations:
                segments = tuple(confirmed[annotation.frame])
                found[annotation.frame].append(_Answered(one.number, annotation, segments))
        for annotation in last.corrections().annotations if last is not None else ():
            found[annotation.frame].append(_Answered(self.number, annotation))
        return dict(found)


@dataclass(frozen=True)
class _KeptFrames:
    """A video whose frames need not be read: its superpixels are kept as files."""

    names: Sequence[str]
    size: Size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, frame: int) -> Image:
        raise SessionError(
            f"the superpixels of {self.names[frame]} are missing in the workspace; `hvsa-agent "
            "sync` makes them again"
        )

    def features(self, frame: int) -> NDArray[np.float32]:
        raise SessionError(f"the superpixels of {self.names[frame]} are missing in the workspace")


def _as_grey(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(np.rint((levels + 0.5) * (255 / LEVELS)), np.uint8)
