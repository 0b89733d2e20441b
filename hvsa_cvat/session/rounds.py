"""Where a session stands: rounds of phases, as values with pure transitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from hvsa_cvat.errors import SessionError
from hvsa_cvat.types import LabelSet, Sample

Json = dict[str, Any]


class Phase(StrEnum):
    """What a round does next. Round 0, the pre-trained network, starts at PREDICT."""

    SELECT = "select"
    REQUEST = "request"
    ANNOTATE = "annotate"
    FINETUNE = "finetune"
    PREDICT = "predict"
    PUBLISH = "publish"
    DONE = "done"

    @property
    def computes(self) -> bool:
        """Whether the phase computes, and speaks to nobody."""
        return self in (Phase.SELECT, Phase.FINETUNE, Phase.PREDICT)


_ORDER = tuple(Phase)

_MAKES = {
    Phase.SELECT: {"queried", "expected_clicks"},
    Phase.REQUEST: {"request"},
    Phase.ANNOTATE: {"clicks"},
}


@dataclass(frozen=True)
class Round:
    """One cycle of asking, learning and predicting."""

    number: int
    """0 is the pre-trained network, 1 the first round that asks people."""
    phase: Phase
    """The phase to run next; DONE when there is none."""
    queried: tuple[Sample, ...] = ()
    """Made by SELECT."""
    expected_clicks: float | None = None
    """What `queried` was expected to cost. Made by SELECT."""
    request: str | None = None
    """The annotation server's id. Made by REQUEST."""
    clicks: int | None = None
    """What it did cost. Made by ANNOTATE."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time that each finished phase took."""

    def to_json(self) -> Json:
        return {
            "number": self.number,
            "phase": self.phase.value,
            "queried": [[sample.frame, sample.segment] for sample in self.queried],
            "expected_clicks": self.expected_clicks,
            "request": self.request,
            "clicks": self.clicks,
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Round:
        queried = tuple(Sample(int(frame), int(segment)) for frame, segment in data["queried"])
        return cls(**{**data, "phase": Phase(data["phase"]), "queried": queried})


@dataclass(frozen=True)
class Session:
    """One video, one label set, all rounds so far; the last round is the current one."""

    id: str
    video: str
    labels: LabelSet
    config: Json
    """The settings of the run; JSON values only."""
    rounds_total: int
    """Rounds that ask people."""
    rounds: tuple[Round, ...] = (Round(0, Phase.PREDICT),)

    def __post_init__(self) -> None:
        if self.rounds_total < 0:
            raise ValueError(f"rounds_total must not be negative, got {self.rounds_total}")
        if [r.number for r in self.rounds] != list(range(len(self.rounds))) or not self.rounds:
            raise ValueError("rounds must be numbered 0, 1, ... without a gap")

    @property
    def current(self) -> Round:
        return self.rounds[-1]

    @property
    def done(self) -> bool:
        return self.current.phase is Phase.DONE

    @property
    def queried(self) -> tuple[Sample, ...]:
        """Everything asked for so far, in order of asking."""
        return tuple(sample for r in self.rounds for sample in r.queried)

    @property
    def clicks(self) -> int:
        """Everything that people have clicked so far."""
        return sum(r.clicks or 0 for r in self.rounds)

    def finish_phase(self, phase: Phase, seconds: float = 0.0, **made: Any) -> Session:
        """The session after the current phase, with what that phase made (see `Round`).

        After a SELECT that finds nothing to ask, the round goes on at PREDICT with the network that
        there is, so that every round has its label maps and its scores.
        """
        current = self.current
        if phase is not current.phase or phase is Phase.DONE:
            raise SessionError(
                f"session {self.id!r} stands at {current.phase} of round {current.number}, "
                f"so {phase} cannot be finished; run the phases in order"
            )
        if set(made) != _MAKES.get(phase, set()):
            raise ValueError(f"{phase} makes {_MAKES.get(phase, set())}, not {set(made)}")
        if phase is Phase.SELECT:
            made["queried"] = tuple(made["queried"])
        finished = replace(
            current,
            phase=_ORDER[_ORDER.index(phase) + 1],
            seconds={**current.seconds, phase.value: seconds},
            **made,
        )
        if phase is Phase.SELECT and not finished.queried:
            finished = replace(finished, phase=Phase.PREDICT)
        rounds = (*self.rounds[:-1], finished)
        if phase is Phase.PUBLISH and current.number < self.rounds_total:
            rounds = (*rounds, Round(current.number + 1, Phase.SELECT))
        return replace(self, rounds=rounds)

    def recounted(self, clicks: Mapping[int, int]) -> Session:
        """The session with other clicks in some rounds, because people have revised answers."""
        rounds = (replace(r, clicks=clicks.get(r.number, r.clicks)) for r in self.rounds)
        return replace(self, rounds=tuple(rounds))

    def ask_again(self) -> Session:
        """The session with its open request to be made anew; people's answers to it are lost."""
        if self.current.phase is not Phase.ANNOTATE:
            raise SessionError(
                f"session {self.id!r} stands at {self.current.phase} of round "
                f"{self.current.number}: nobody is asked now, so nothing can be asked again"
            )
        asking = replace(self.current, phase=Phase.REQUEST, request=None)
        return replace(self, rounds=(*self.rounds[:-1], asking))

    def extended(self, rounds_total: int, config: Json, *, predict_again: bool) -> Session:
        """The session with more rounds after its last one, and the settings that tell of them.

        `predict_again`: the round after the last one asks for samples of another kind, so PREDICT
        of the last round must score those.
        """
        if rounds_total <= self.rounds_total:
            raise ValueError(f"{rounds_total} rounds are not more than {self.rounds_total}")
        current, rounds = self.current, self.rounds
        if current.number == self.rounds_total:
            if predict_again and current.phase in (Phase.PUBLISH, Phase.DONE):
                rounds = (*rounds[:-1], replace(current, phase=Phase.PREDICT))
            elif self.done:
                rounds = (*rounds, Round(current.number + 1, Phase.SELECT))
        return replace(self, rounds_total=rounds_total, config=config, rounds=rounds)

    def to_json(self) -> Json:
        return {
            "id": self.id,
            "video": self.video,
            "labels": {"names": list(self.labels.names), "ignore_index": self.labels.ignore_index},
            "config": self.config,
            "rounds_total": self.rounds_total,
            "rounds": [r.to_json() for r in self.rounds],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Session:
        labels = LabelSet(tuple(data["labels"]["names"]), data["labels"]["ignore_index"])
        rounds = tuple(Round.from_json(r) for r in data["rounds"])
        return cls(**{**data, "labels": labels, "rounds": rounds})
