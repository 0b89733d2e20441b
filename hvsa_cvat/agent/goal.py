"""Whether a task reaches its target, and what would bring it there, in words."""

from __future__ import annotations

import math

from hvsa_cvat.agent.advice import least_total, session_time
from hvsa_cvat.budgets import BudgetUnit, total_text
from hvsa_cvat.config import RunConfig
from hvsa_cvat.session.artefacts import RoundFiles, newest_records
from hvsa_cvat.session.outlook import after_clicks, factor_for
from hvsa_cvat.session.records import Audit
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.target import newest_audit, reaches
from hvsa_cvat.video.segments import granularity_by_round

_UNSURE = 0.02
"""How far below the mIoU the lower end of an audit mostly lies, before there is one."""


def target_words(task: int, session: Session, files: RoundFiles) -> str | None:
    """Where a task stands against its target; None where it has none. `files` are those of the
    current round."""
    config = RunConfig.model_validate(session.config)
    if config.target is None:
        return None
    name, audit = f"the target of {100 * config.target:g} %", newest_audit(files)
    found = "" if audit is None else f": {audit.words}"
    if reaches(audit, config.target):
        return f"{name} is reached{found}"
    command = _command(task, session, files, config.target, audit)
    ahead = _expected_in_the_end(session, config, files)
    if session.done:
        return f"{name} is not reached{found}{command}"
    if ahead is not None and ahead < _aim(config.target, audit):
        return (
            f"{name} will probably not be reached: about {100 * ahead:.1f} % are expected when the "
            f"budget is spent{command}"
        )
    return f"{name} is not reached yet{found}"


def _aim(target: float, audit: Audit | None) -> float:
    """The mIoU at which the lower end of an audit reaches the target, about."""
    below = _UNSURE if audit is None else audit.miou.estimate - audit.miou.low
    return min(target + below, (1 + target) / 2)


def _spent_share(session: Session, config: RunConfig, files: RoundFiles) -> float | None:
    """What is spent, as a share of the whole budget; None before anything is known."""
    if config.budget_unit is BudgetUnit.SECONDS:
        return 60 * session_time(session, files).spent_minutes / config.budgets[-1]
    selection = newest_records(files).selection
    if selection is None:
        return None
    return session.clicks / (selection.full_clicks * config.budgets[-1])


def _expected_in_the_end(session: Session, config: RunConfig, files: RoundFiles) -> float | None:
    """mIoU that is expected when the budget is spent; None before anything is expected."""
    outlook, spent = newest_records(files).outlook, _spent_share(session, config, files)
    if outlook is None or not spent:
        return None
    return after_clicks(outlook.expected_miou, spent, max(spent, 1.0))


def _command(
    task: int, session: Session, files: RoundFiles, target: float, audit: Audit | None
) -> str:
    """The command that would bring the task to its target, as the end of a sentence; empty where
    nothing is known, or all of the clicks would not suffice."""
    config = RunConfig.model_validate(session.config)
    outlook, spent = newest_records(files).outlook, _spent_share(session, config, files)
    if outlook is None or not spent:
        return ""
    needed = spent * config.budgets[-1] * factor_for(outlook.expected_miou, _aim(target, audit))
    total = _rounded(max(needed, least_total(session, files)), config.budget_unit)
    if total is None:
        return "; the rest has to be drawn"
    kinds = granularity_by_round(config.granularity, len(config.budgets))
    frames = next(kind.frames for kind in reversed(kinds) if kind.frames is not None)
    return f"; to reach it: hvsa-agent extend {task} --budget {total} --audit {frames}"


def _rounded(total: float, unit: BudgetUnit) -> str | None:
    """A total a little above, in the form of `--budget`; None above all of the clicks."""
    if unit is BudgetUnit.SECONDS:
        return total_text(60.0 * (math.floor(total / 60) + 1), unit)
    percent = math.floor(round(100 * total, 6)) + 1
    return f"{percent}%" if percent <= 100 else None
