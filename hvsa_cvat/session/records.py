"""What phases find out and keep as JSON in the folder of their round."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from hvsa_cvat.annotation.effort import Work
from hvsa_cvat.plain_text import plural
from hvsa_cvat.types import AnswerKind, Sample

_BELIEVED = 10
"""People are believed as if they had mended this many planted errors before."""


class CostBasis(StrEnum):
    """How the clicks of annotating every frame are known."""

    GIVEN = "given"
    MASKS = "estimated from the outlines of the masks"
    FRAMES = "estimated from the frames that were answered as a whole"


class Skipped(StrEnum):
    """Why a round asks for nothing."""

    SPENT = "the budget is spent"
    ASKED = "everything has been asked for"
    TARGET = "an audit says that the target is reached"


@dataclass(frozen=True)
class Selection:
    """What SELECT found, kept in `rounds/K/selection.json`."""

    samples: tuple[Sample, ...]
    expected_clicks: tuple[float, ...]
    """One for each sample."""
    full_clicks: float
    """Clicks of annotating every frame of the video, as far as known then."""
    basis: CostBasis | None = None
    """How `full_clicks` is known; None in rounds of older versions."""
    limited: bool = False
    """Whether `full_clicks` would differ more from the estimate of the round before, and was kept
    within half and twice of it."""
    skipped: Skipped | None = None
    """None where there are samples."""
    expected_seconds: tuple[float, ...] = ()
    """One for each sample; empty in rounds of older versions."""

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": [[sample.frame, sample.segment] for sample in self.samples],
            "expected_clicks": list(self.expected_clicks),
            "full_clicks": self.full_clicks,
            "basis": self.basis,
            "limited": self.limited,
            "skipped": self.skipped,
            "expected_seconds": list(self.expected_seconds),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Selection:
        return cls(
            tuple(Sample(frame, segment) for frame, segment in content["samples"]),
            tuple(content["expected_clicks"]),
            content["full_clicks"],
            CostBasis(content["basis"]) if content.get("basis") else None,
            content.get("limited", False),
            Skipped(content["skipped"]) if content.get("skipped") else None,
            tuple(content.get("expected_seconds", ())),
        )


class Ahead(BaseModel):
    """That the samples of a round were chosen before its turn. Kept in `rounds/K/ahead.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: str
    """Tells for which state of the session."""
    seconds: float
    """Time that it took."""


class Agreement(BaseModel):
    """How the masks of the round before agree with the answers of a round, before the network has
    seen them. Kept in `rounds/K/agreement.json`.

    Active selection asks where the network is unsure, so over the whole video the scores are
    higher.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels: int
    """Answered pixels."""
    pixel_accuracy: float | None
    miou: float | None
    unseen: tuple[str, ...] = ()
    """Classes that no answer has shown up to this round, so that no mask can be expected to."""


class Planted(BaseModel):
    """How many planted errors people saw in the pictures of a round, and how many they mended. Kept
    in `rounds/K/planted.json`; a round without planted errors has no such file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    planted: int = 0
    mended: int = 0

    def __add__(self, other: Planted) -> Planted:
        return Planted(planted=self.planted + other.planted, mended=self.mended + other.mended)

    @property
    def trust(self) -> float:
        """The share of errors that people are taken to find, 0 to 1.

        It is drawn towards 1: few planted errors say little of people who try.
        """
        return (self.mended + _BELIEVED) / (self.planted + _BELIEVED)

    @property
    def words(self) -> str:
        """What it says, for people."""
        return f"people mended {self.mended} of {plural(self.planted, 'planted error')}"


class WorkRecord(BaseModel):
    """What people did, see `annotation.effort.Work`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = 0
    keys: int = 0
    vertices: int = 0
    polygons: int = 0

    @classmethod
    def of(cls, work: Work) -> WorkRecord:
        return cls(
            samples=work.samples,
            keys=work.keys,
            vertices=work.vertices,
            polygons=work.polygons,
        )

    def work(self, jobs: int = 0) -> Work:
        return Work(jobs, self.samples, self.keys, self.vertices, self.polygons)


class TimedRecord(BaseModel):
    """A job whose time is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    work: WorkRecord
    seconds: float


class RoundWork(BaseModel):
    """What people did to answer a round, and how long it took them where that is known. Kept in
    `rounds/K/work.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by_kind: dict[AnswerKind, WorkRecord]
    """All answers, by how the samples were answered."""
    timed: tuple[TimedRecord, ...] = ()
    """The jobs whose time is known; their work is part of `by_kind`."""


class Propagation(BaseModel):
    """What label propagation reached. Kept in `rounds/K/propagation.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reached_percent: float
    """Pixels of the video that a carried label reached; the others show the network's class."""


class Interval(BaseModel):
    """An estimate and where the true value lies in about nine of ten cases; fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    estimate: float
    low: float
    high: float


class Audit(BaseModel):
    """What an audit says of the masks before it, over the whole video."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int
    """How many were looked at."""
    miou: Interval
    classes: tuple[Interval | None, ...]
    """The IoU of each class; None where neither the masks nor the audit show it."""

    def by_people_who_find(self, trust: float) -> Audit:
        """The same where people find `trust` of the errors: the lower bounds count those that they
        have not found."""

        def widened(one: Interval) -> Interval:
            return one.model_copy(update={"low": max(1 - (1 - one.low) / trust, 0.0)})

        classes = tuple(None if one is None else widened(one) for one in self.classes)
        return self.model_copy(update={"miou": widened(self.miou), "classes": classes})

    @property
    def words(self) -> str:
        """What it says, for people."""
        best, low, high = (100 * one for one in (self.miou.estimate, self.miou.low, self.miou.high))
        return (
            f"an audit of {plural(self.frames, 'frame')} found a mIoU of {best:.1f} % "
            f"({low:.1f} to {high:.1f}) before it"
        )


class Pruned(BaseModel):
    """That the masks of a round were removed, kept in `rounds/K/pruned.json`."""

    model_config = ConfigDict(frozen=True)

    shown: float | None
    """When they were made, in seconds since 1970."""
