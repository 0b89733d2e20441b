"""The report of a task under way: quality as the outlook expects it, because there is no truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.agent.goal import target_words
from hvsa_cvat.budgets import total_text
from hvsa_cvat.config import RunConfig
from hvsa_cvat.enrolled import pictures
from hvsa_cvat.enrolled.asked import asked_pixels
from hvsa_cvat.enrolled.people_time import minutes_by_round, people_time_of
from hvsa_cvat.enrolled.runs import RoundFacts, Run
from hvsa_cvat.errors import SessionError
from hvsa_cvat.plain_text import plural
from hvsa_cvat.rates import Rate
from hvsa_cvat.report import (
    AgreementReport,
    FramePicture,
    OutlookReport,
    PeopleReport,
    RoundReport,
    RunReport,
)
from hvsa_cvat.session.outlook import Outlook
from hvsa_cvat.session.records import Agreement
from hvsa_cvat.types import AnswerKind, Size

_PICTURES = 6
"""At most this many frames are shown."""


def live_report(task: int, run: Run, rate: Rate | None = None) -> RunReport:
    """The report of an enrolled task, with everything that its folder tells; `rate` is what
    people's time costs."""
    own = pictures.frame_size(run)
    answered = list(accumulate(one.agreement.pixels if one.agreement else 0 for one in run.rounds))
    time, minutes = people_time_of(run, rate), minutes_by_round(run)
    share = None if own is None else 100 / (len(run.names) * own[0] * own[1])
    return RunReport(
        title=f"{run.session.video} (task {task})",
        settings=_settings(run),
        labels=run.session.labels,
        colours=run.colours,
        rounds=tuple(
            _round(
                run,
                one,
                None if share is None else share * answered[one.number],
                minutes[one.number],
            )
            for one in run.rounds
            if one.shown is not None or one.round.queried
        ),
        pictures=() if own is None else tuple(_pictures(run, own)),
        notes=tuple(_notes(task, run)),
        people=PeopleReport(time.words, time.model_dump()),
    )


def _settings(run: Run) -> dict[str, str]:
    config = RunConfig.model_validate(run.session.config)
    return {
        "video": f"{run.session.video}, {len(run.names)} frames",
        "method": config.method,
        "strategy": config.strategy,
        "granularity": config.granularity,
        "budget after each round": ", ".join(
            total_text(one, config.budget_unit) for one in config.budgets
        ),
        "rounds that ask people": str(run.session.rounds_total),
        "network size": f"{config.size[1]}x{config.size[0]}",
        "optical flow": config.flow,
        "seed": str(config.seed),
    }


def _notes(task: int, run: Run) -> Iterator[str]:
    """Where the task stands, in sentences."""
    current, session = run.current.round, run.session
    if session.done:
        yield f"All {session.rounds_total} rounds are done."
    else:
        yield f"Round {current.number} of {session.rounds_total}; next: {current.phase}."
    request = run.request_of(current.number)
    if request is not None and current.clicks is None:
        samples = len(current.queried)
        # by what the pictures show already, as on the page of the task
        minutes = sum(job.expected_minutes for job in request.jobs)
        yield f"People are asked for {plural(samples, 'sample')} now, about {minutes:.0f} min."
    if run.planted.planted:
        yield f"{run.planted.words.capitalize()}."
    target = target_words(task, session, run.files(current.number))
    if target is not None:
        yield f"{target[0].upper()}{target[1:]}"
    selection = next((one.selection for one in reversed(run.rounds) if one.selection), None)
    if selection is not None and selection.basis is not None:
        yield (
            "The clicks of annotating every frame, to which percentages relate, are "
            f"{selection.basis}."
        )


def _round(run: Run, one: RoundFacts, pixels_percent: float | None, minutes: float) -> RoundReport:
    return RoundReport(
        number=one.number,
        clicks=one.clicks_so_far,
        clicks_percent=one.clicks_percent,
        pixels_percent=pixels_percent,
        scores=None,
        seconds=dict(one.round.seconds),
        chosen=run.asked_frames(one.number),
        outlook=_expected(one.outlook),
        unseen=one.agreement.unseen if one.agreement is not None else (),
        answered=_answered(run, one),
        agreement=_agreement(one.agreement),
        finished=one.shown is not None,
        minutes=minutes,
    )


def _expected(found: Outlook | None) -> OutlookReport | None:
    if found is None:
        return None
    return OutlookReport(found.expected_miou, found.low, found.high, found.gain, found.advice)


def _agreement(found: Agreement | None) -> AgreementReport | None:
    if found is None:
        return None
    return AgreementReport(found.pixels, found.pixel_accuracy, found.miou)


def _answered(run: Run, one: RoundFacts) -> dict[AnswerKind, tuple[int, int]]:
    """How the samples of a round were answered; empty where its answers are not there."""
    if one.answered is None:
        return {}
    with suppress(SessionError):
        return run.files(one.number).answers().by_kind()
    return {}


def _pictures(run: Run, own: Size) -> Iterator[FramePicture]:
    """Frames at even distances; one that is missing or damaged is left out."""
    last = run.newest_shown or 0
    shown = np.unique(np.linspace(0, len(run.names) - 1, min(len(run.names), _PICTURES)))
    for frame in shown.astype(int).tolist():
        with suppress(SessionError):
            image = pictures.frame_image(run, frame)
            size = (image.shape[0], image.shape[1])
            before = pictures.frame_masks(run, 0, frame) if last > 0 else None
            yield FramePicture(
                name=run.names[frame],
                image=image,
                truth=None,
                before=None if before is None else pictures.resized(before, size),
                after=pictures.resized(pictures.frame_masks(run, last, frame), size),
                uncertainty=pictures.resized(pictures.frame_doubt(run, last, frame), size),
                chosen=_asked_in(run, frame, own, size),
            )


def _asked_in(run: Run, frame: int, own: Size, size: Size) -> NDArray[np.int8]:
    """int8 `size`: the round in which each pixel was asked for last, 0 if in none."""
    asked = np.zeros(size, np.int8)
    for one in run.rounds:
        asked[asked_pixels(run, one.number, frame, own, size)] = one.number
    return asked
