"""Pause, resume, ask again, extend and withdraw: each on a page of its own, which asks once more.

Pauses hold at once. What needs the server is kept as a wish, which the next pass of an agent
carries out: this process has no login, and nothing is lost when it ends.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hvsa_cvat.agent.advice import least_total, next_total
from hvsa_cvat.agent.settings import DASHBOARD_TOKEN
from hvsa_cvat.agent.wishes import WishKind
from hvsa_cvat.budgets import BudgetUnit, parse_budget, total_words
from hvsa_cvat.config import RunConfig
from hvsa_cvat.dashboard.site import Site
from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.enrolled.tasks import EnrolledTask
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.session.rounds import Phase
from hvsa_cvat.video.segments import granularity_by_round

ACTIONS = ("pause", "resume", "ask-again", "extend", "withdraw")
_WORDS = {"ask-again": WishKind.ASK_AGAIN.value}
"""What an action is called in a sentence, where it is not its name."""


_MOST_ROUNDS = 20

_HOW = (
    f"set {DASHBOARD_TOKEN} where `hvsa-agent dashboard` runs, for example to what "
    "`openssl rand -hex 32` prints, and start it anew without --read-only"
)


def about_actions(site: Site, enrolled: EnrolledTask) -> dict[str, Any]:
    """What the page of a task shows of actions."""
    wish = enrolled.wish
    return {
        "actions": _offered(site, enrolled),
        "wish": wish,
        "wish_time": None if wish is None else datetime.fromtimestamp(wish.time, UTC),
    }


def _offered(site: Site, enrolled: EnrolledTask) -> tuple[str, ...]:
    first = "resume" if enrolled.paused else "pause"
    if enrolled.wish is not None:
        return (first,)
    run = _run(site, enrolled)
    asked = run is not None and run.current.round.phase is Phase.ANNOTATE
    return (first, *(["ask-again"] if asked else []), "extend", "withdraw")


def ask(what: str, site: Site, request: Request) -> Response:
    """The page that asks once more; `what` is one of `ACTIONS`."""
    enrolled = site.tasks.one(request.path_params["task"])
    run = _run(site, enrolled)
    name = run.session.video if run is not None else f"task {enrolled.number}"
    words = _WORDS.get(what, what).capitalize()
    return site.page(
        request,
        f"{what}.html.j2",
        f"{words} {name}",
        number=enrolled.number,
        name=name,
        what=what,
        words=words,
        offered=what in _offered(site, enrolled),
        how=_HOW,
        **(_extension(run) if what == "extend" else _removal(run) if what == "withdraw" else {}),
    )


def _run(site: Site, enrolled: EnrolledTask) -> Run | None:
    """None where the folder of the session cannot be read; it can be withdrawn all the same."""
    try:
        return site.runs.read(enrolled.place)
    except HvsaError:
        return None


def _extension(run: Run | None) -> dict[str, Any]:
    if run is None:
        raise ConfigError("the session of this task cannot be read, so it cannot be extended")
    files = run.files(run.current.number)
    config = RunConfig.model_validate(run.session.config)
    least = least_total(run.session, files)
    return {
        "rounds_total": run.session.rounds_total,
        "least": least,
        "unit": config.budget_unit,
        "spent": total_words(least, config.budget_unit),
        "suggested": next_total(run.session, files) or "100%",
        "counts_clicks": config.budget_unit is BudgetUnit.CLICKS,
    }


def _removal(run: Run | None) -> dict[str, Any]:
    """What withdrawing would remove, as far as the workspace tells."""
    if run is None:
        return {"shapes": None, "jobs": 0, "taken": (), "children": ()}
    request = run.request_of(run.current.number)
    asked = run.current.round.phase is Phase.ANNOTATE and request is not None
    waiting = request.jobs if asked and request is not None else ()
    return {
        "shapes": sum(job.shapes for job in run.memory.jobs),
        "jobs": len(run.memory.jobs),
        "taken": tuple(job for job in waiting if job.id not in run.memory.answered),
        "children": tuple(one.task for one in run.memory.requests),
    }


def act(what: str, site: Site, request: Request, form: dict[str, str], sender: str) -> str:
    """Do it, or ask the agent to; the path of the page to go to afterwards."""
    if not site.may_act:
        raise ConfigError(f"this dashboard changes nothing; {_HOW}")
    enrolled = site.tasks.one(request.path_params["task"])
    task = enrolled.number
    who = f"dashboard, from {sender}"
    if what == "pause":
        site.workspace().pauses.pause(task, who)
    elif what == "resume":
        site.workspace().pauses.resume(task, who)
    elif what == "ask-again":
        site.workspace().wishes.add(task, WishKind.ASK_AGAIN, {}, who)
    elif what == "extend":
        asked = _asked_extension(form)
        _check_total(asked, _run(site, enrolled))
        site.workspace().wishes.add(task, WishKind.EXTEND, asked, who)
    else:
        arguments = {"keep_masks": form.get("masks") == "keep"}
        site.workspace().wishes.add(task, WishKind.WITHDRAW, arguments, who)
    return f"/tasks/{task}"


def _asked_extension(form: dict[str, str]) -> dict[str, Any]:
    """Checked as far as it can be without the server; the agent checks it anew."""
    budget, rounds = form.get("budget", "").strip(), form.get("rounds", "1").strip()
    granularity = form.get("granularity", "").strip() or None
    number = int(rounds) if rounds.isdecimal() and len(rounds) < 4 else 0
    if not 1 <= number <= _MOST_ROUNDS:
        raise ConfigError(f"rounds {rounds!r}: name a number from 1 to {_MOST_ROUNDS}")
    parse_budget(budget, number)
    if granularity is not None:
        granularity_by_round(granularity, number)
    return {"budget": budget, "rounds": number, "granularity": granularity}


def _check_total(asked: dict[str, Any], run: Run | None) -> None:
    known = _extension(run)
    budget = parse_budget(asked["budget"], asked["rounds"])
    if budget.unit is not known["unit"] or budget.totals[-1] <= known["least"]:
        raise ConfigError(
            f"budget {asked['budget']!r} is the new total, and this task has been given or has "
            f"spent {known['spent']}; name a larger total, such as {known['suggested']}"
        )
