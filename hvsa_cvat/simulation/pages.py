"""The report of an experiment: its rounds and a few frames, as values for `hvsa_cvat.report`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.budgets import BudgetUnit, total_text
from hvsa_cvat.metrics import Scores
from hvsa_cvat.report import (
    FramePicture,
    OutlookReport,
    PeopleReport,
    RoundReport,
    RunReport,
    class_colours,
)
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.outlook import Outlook
from hvsa_cvat.session.people_time import PeopleTime
from hvsa_cvat.session.rounds import Round, Session
from hvsa_cvat.simulation.datasets import LabelMaps
from hvsa_cvat.simulation.scores import RoundMetrics, RunMetrics

_PICTURES = 6
"""At most this many frames are shown."""


def run_report(
    video: str, session: Session, context: RunContext, metrics: RunMetrics, truths: LabelMaps
) -> RunReport:
    """`video` is what the video is called."""
    config, length = context.config, len(context.source)
    size, unit = config.size, config.budget_unit
    shown = ", ".join(total_text(budget, unit) for budget in config.budgets)
    of = f" of {context.full_clicks} clicks" if unit is BudgetUnit.CLICKS else ""
    return RunReport(
        title=f"{video}: {config.method}, {config.strategy} {config.granularity}",
        settings={
            "video": f"{video}, {length} frames of "
            f"{context.source.size[1]}x{context.source.size[0]}",
            "method": config.method,
            "strategy": config.strategy,
            "granularity": config.granularity,
            "budget after each round": f"{shown}{of}",
            "network size": f"{size[1]}x{size[0]}",
            "checkpoint": context.inputs.checkpoint.name,
            "optical flow": context.inputs.flow.name,
            "device": str(context.inputs.device),
            "seed": str(config.seed),
        },
        labels=context.labels,
        colours=class_colours(len(context.labels)),
        rounds=tuple(
            _round_report(one, done, length)
            for one, done in zip(metrics.rounds, session.rounds, strict=True)
        ),
        pictures=tuple(_pictures(session, context, truths)),
        people=_people_report(metrics.people),
    )


def _round_report(metrics: RoundMetrics, done: Round, length: int) -> RoundReport:
    frames = np.array([sample.frame for sample in done.queried], np.int64)
    return RoundReport(
        number=metrics.round,
        clicks=metrics.clicks,
        clicks_percent=metrics.clicks_percent,
        pixels_percent=metrics.pixels_percent,
        scores=Scores(**{name: getattr(metrics, name) for name in Scores.model_fields}),
        outlook=_outlook_report(metrics.outlook),
        unseen=metrics.unseen,
        answered=metrics.answered,
        seconds=metrics.seconds,
        minutes=metrics.minutes,
        chosen=np.bincount(frames, minlength=length),
    )


def _people_report(people: PeopleTime | None) -> PeopleReport | None:
    return None if people is None else PeopleReport(people.words, people.model_dump())


def _outlook_report(outlook: Outlook | None) -> OutlookReport | None:
    if outlook is None:
        return None
    return OutlookReport(
        outlook.expected_miou, outlook.low, outlook.high, outlook.gain, outlook.advice
    )


def _pictures(session: Session, context: RunContext, truths: LabelMaps) -> list[FramePicture]:
    length, last = len(context.source), session.current.number
    chosen = np.unique(np.linspace(0, length - 1, min(length, _PICTURES)).astype(int)).tolist()
    dense = predict(
        context.load_network(last),
        context.frames,
        context.source.size,
        device=context.inputs.device,
        only=chosen,
    )
    pictures = []
    for prediction in dense:
        frame = prediction.frame
        name = context.source.names[frame]
        pictures.append(
            FramePicture(
                name=name,
                image=context.source[frame],
                truth=truths[frame],
                before=context.files(0).label_map(name),
                after=context.files(last).label_map(name),
                uncertainty=prediction.uncertainty.cpu().numpy(),
                chosen=_asked_in(frame, session, context),
            )
        )
    return pictures


def _asked_in(frame: int, session: Session, context: RunContext) -> NDArray[np.int8]:
    """int8 (H, W): the round in which each pixel was asked for last, 0 if in none."""
    asked = np.zeros(context.source.size, np.int8)
    for done in session.rounds:
        wanted = [sample.segment for sample in done.queried if sample.frame == frame]
        if wanted:
            asked[np.isin(context.segments_of(done.number)[frame], wanted)] = done.number
    return asked
