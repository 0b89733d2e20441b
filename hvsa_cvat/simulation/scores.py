"""How good the masks of an experiment's rounds are, by the truth; what `metrics.json` holds."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hvsa_cvat.metrics import Scores, score_video
from hvsa_cvat.session.asked import asked_pixels
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.effort import minutes_so_far
from hvsa_cvat.session.outlook import Outlook
from hvsa_cvat.session.people_time import PeopleTime
from hvsa_cvat.session.rounds import Round, Session
from hvsa_cvat.simulation.datasets import LabelMaps
from hvsa_cvat.types import AnswerKind


class RoundMetrics(Scores):
    """One round in `metrics.json`; scores are fractions, round 0 is the pre-trained network."""

    round: int
    clicks: int
    """Spent up to and with this round."""
    clicks_percent: float
    """The same, in % of annotating every frame of the video."""
    pixels_percent: float
    """Pixels in the samples answered so far, in % of the video."""
    samples: int
    """Samples answered so far."""
    answered: dict[AnswerKind, tuple[int, int]] = Field(default_factory=dict)
    """(samples, clicks) of this round by how they were answered."""
    propagated_percent: float | None = None
    """Label propagation only: pixels that a carried label reached, in % of the video; the others
    show the pre-trained network's prediction."""
    outlook: Outlook | None = None
    """What the session says of this round's masks without the truth."""
    unseen: tuple[str, ...] = ()
    """Classes that no answer has shown so far."""
    minutes: float | None = None
    """How long people would have worked up to and with this round, by the published figures; None
    in a round of an older version."""
    seconds: dict[str, float]
    """Of each phase."""


class RunMetrics(BaseModel):
    """`metrics.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any]
    preparation_seconds: dict[str, float]
    rounds: tuple[RoundMetrics, ...]
    people: PeopleTime | None = None
    """The time of people after the last round; None in a file of an older version."""


def round_metrics(
    session: Session, done: Round, context: RunContext, truths: LabelMaps, full_clicks: int
) -> RoundMetrics:
    """The scores of a finished round; kept beside its masks, so that they are computed once."""
    files = context.files(done.number)
    kept = files.metrics(RoundMetrics)
    if kept is not None:
        return kept
    names = context.source.names
    scores = score_video(
        (files.label_map(name) for name in names),
        (truths[frame] for frame in range(len(names))),
        context.labels,
        lambda frame: context.flow.get(frame, frame + 1),
    )
    rounds = session.rounds[: done.number + 1]
    clicks = sum(one.clicks or 0 for one in rounds)
    agreement, propagation = files.agreement(), files.propagation()
    metrics = RoundMetrics(
        **scores.model_dump(),
        round=done.number,
        clicks=clicks,
        clicks_percent=100 * clicks / full_clicks,
        pixels_percent=_asked_percent(rounds, context),
        samples=sum(len(one.queried) for one in rounds),
        answered=files.answers().by_kind() if done.clicks is not None else {},
        propagated_percent=propagation.reached_percent if propagation is not None else None,
        outlook=files.outlook(),
        unseen=agreement.unseen if agreement is not None else (),
        minutes=minutes_so_far(session, context.config, files)[done.number],
        seconds=dict(done.seconds),
    )
    files.save_metrics(metrics)
    context.store.save_checksums()
    return metrics


def _asked_percent(rounds: tuple[Round, ...], context: RunContext) -> float:
    """Pixels that people were asked about in these rounds, in % of the video."""
    pixels = sum(int(asked.sum()) for _, asked in asked_pixels(rounds, context))
    height, width = context.source.size
    return 100 * pixels / (height * width * len(context.source.names))
