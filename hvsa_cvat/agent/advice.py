"""How to go on with a task: the command that does what the outlook of its masks advises."""

from __future__ import annotations

import math

from hvsa_cvat.budgets import BudgetUnit
from hvsa_cvat.config import RunConfig
from hvsa_cvat.rates import Rate
from hvsa_cvat.session.artefacts import NewestRecords, RoundFiles, newest_records
from hvsa_cvat.session.effort import people_time
from hvsa_cvat.session.outlook import Advice
from hvsa_cvat.session.people_time import PeopleTime
from hvsa_cvat.session.records import Skipped
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.target import newest_audit, reaches
from hvsa_cvat.video.segments import granularity_by_round

_SMALLER = "superpixel:300"
"""Smaller samples in a session that has asked for whole frames only."""

_LEAST_STEP = 1.0
"""Minutes by which an advised budget grows at least."""


def next_command(
    task: int, session: Session, files: RoundFiles, records: NewestRecords | None = None
) -> str | None:
    """The command that does what is advised; None where nothing is, or nothing is left to ask.

    `files` are those of the current round, `records` its newest ones where they were read already.
    """
    outlook = (records or newest_records(files)).outlook
    if session.done and everything_asked(session, files):
        return None
    if reaches(newest_audit(files), RunConfig.model_validate(session.config).target):
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
    """The command that adds a round for about 1 % of annotating every frame; None where all of
    that is promised or spent."""
    total = next_total(session, files)
    if total is None:
        return None
    command = f"hvsa-agent extend {task} --rounds 1 --budget {total}"
    return command if granularity is None else f"{command} --granularity {granularity}"


def next_total(session: Session, files: RoundFiles) -> str | None:
    """The total budget with about 1 % of annotating every frame in addition, in the form of
    `--budget`; None where all of that is promised or spent."""
    config = RunConfig.model_validate(session.config)
    least = least_total(session, files)
    if config.budget_unit is BudgetUnit.CLICKS:
        return None if least >= 1 else f"{min(100, math.ceil(round(100 * least, 6)) + 1)}%"
    every = session_time(session, files).every_frame_minutes
    if every is not None and least >= 60 * every:
        return None
    step = max(0.01 * (every or 0.0), _LEAST_STEP)
    return f"{math.ceil(round(least / 60 + step, 6))}min"


def least_total(session: Session, files: RoundFiles) -> float:
    """What a new total must exceed, in the unit of the session's budget: what is promised or what
    is spent already, whichever is more.

    Where more clicks than all seem to be spent, although samples are left, the estimate of all was
    too low, and only what is promised counts.
    """
    config = RunConfig.model_validate(session.config)
    promised = config.budgets[-1]
    if config.budget_unit is BudgetUnit.SECONDS:
        return max(promised, 60 * session_time(session, files).spent_minutes)
    selection = newest_records(files).selection
    spent = 0.0 if selection is None else session.clicks / selection.full_clicks
    return max(promised, spent) if spent < 1 else promised


def clicks_budget(session: Session) -> float | None:
    """The share of the clicks of annotating every frame that may be spent; None where the budget
    counts time."""
    config = RunConfig.model_validate(session.config)
    return config.budgets[-1] if config.budget_unit is BudgetUnit.CLICKS else None


def session_time(
    session: Session,
    files: RoundFiles,
    rate: Rate | None = None,
    asked_minutes: float | None = None,
) -> PeopleTime:
    """The time of people; `files` are those of the current round, and `asked_minutes` what the jobs
    of the open request should take, where that is known."""
    config, frames = RunConfig.model_validate(session.config), files.of_round(0).count_label_maps()
    return people_time(session, config, files, frames, rate, asked_minutes)


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
