"""How to go on with a task: the command that does what the outlook of its masks advises."""

from __future__ import annotations

import math

from hvsa_cvat.config import RunConfig
from hvsa_cvat.session.artefacts import NewestRecords, RoundFiles, newest_records
from hvsa_cvat.session.outlook import Advice
from hvsa_cvat.session.records import Skipped
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.video.segments import granularity_by_round

_SMALLER = "superpixel:300"
"""Smaller samples in a session that has asked for whole frames only."""


def next_command(
    task: int, session: Session, files: RoundFiles, records: NewestRecords | None = None
) -> str | None:
    """The command that does what is advised; None where nothing is, or nothing is left to ask.

    `files` are those of the current round, `records` its newest ones where they were read already.
    """
    outlook = (records or newest_records(files)).outlook
    if session.done and everything_asked(session, files):
        return None
    if outlook is None:
        return extend_command(task, session, files) if session.done else None
    if outlook.advice is Advice.STOP:
        return None if session.done else f"hvsa-agent withdraw {task} --keep-masks"
    if outlook.advice is Advice.GO_ON and not session.done:
        return "hvsa-agent sync"
    command = extend_command(task, session, files, _advised_granularity(outlook.advice, session))
    return command or (None if session.done else "hvsa-agent sync")


def extend_command(
    task: int, session: Session, files: RoundFiles, granularity: str | None = None
) -> str | None:
    """The command that adds a round for about 1 % of the clicks of annotating every frame; None
    where all of those are promised or spent."""
    least = least_total(session, files)
    if least >= 1:
        return None
    percent = min(100, math.ceil(round(100 * least, 6)) + 1)
    command = f"hvsa-agent extend {task} --rounds 1 --budget {percent}%"
    return command if granularity is None else f"{command} --granularity {granularity}"


def least_total(session: Session, files: RoundFiles) -> float:
    """The share of the clicks of annotating every frame that a new total must exceed: what is
    promised or what is spent already, whichever is more.

    Where more than all seem to be spent, although samples are left, the estimate of all was too
    low, and only what is promised counts.
    """
    promised = RunConfig.model_validate(session.config).budgets[-1]
    selection = newest_records(files).selection
    spent = 0.0 if selection is None else session.clicks / selection.full_clicks
    return max(promised, spent) if spent < 1 else promised


def everything_asked(session: Session, files: RoundFiles) -> bool:
    """Whether nothing is left to ask for, as far as it can be told quickly.

    Frames that smaller samples have covered in full are noticed by the next round, which then asks
    for nothing and says why.
    """
    selection = newest_records(files).selection
    if selection is not None and selection.skipped is Skipped.ASKED:
        return True
    config = RunConfig.model_validate(session.config)
    kinds = granularity_by_round(config.granularity, len(config.budgets))
    whole = {
        sample.frame
        for one in session.rounds[1:]
        if kinds[one.number - 1].whole
        for sample in one.queried
    }
    return bool(whole) and len(whole) >= files.of_round(0).count_label_maps()


def _advised_granularity(advice: Advice, session: Session) -> str | None:
    if advice is Advice.WHOLE:
        return "frame"
    if advice is Advice.SMALLER:
        config = RunConfig.model_validate(session.config)
        kinds = granularity_by_round(config.granularity, len(config.budgets))
        return next((str(kind) for kind in reversed(kinds) if not kind.whole), _SMALLER)
    return None
