"""Going on with a session beyond its last round: more rounds, and a larger budget.

Rounds, answers and masks that are there stay. Nothing on the server changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvsa_cvat.agent.advice import (
    everything_asked,
    extend_command,
    least_total,
    session_time,
)
from hvsa_cvat.agent.context import AgentContext, alone_with
from hvsa_cvat.agent.events import Event
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.orders import MeasureRounds
from hvsa_cvat.agent.stored import stored_session
from hvsa_cvat.agent.task_pass import read_enrolled
from hvsa_cvat.agent.workspace import Enrollment
from hvsa_cvat.budgets import BudgetUnit, parse_budget, total_text, total_words
from hvsa_cvat.config import CARRIED, WHOLE_FROM, RunConfig, choose_strategy
from hvsa_cvat.cvat.state import State
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.session.target import newest_audit, reaches
from hvsa_cvat.video.segments import Granularity, granularity_by_round


@dataclass(frozen=True)
class Extension:
    """The rounds to go on with."""

    budget: str
    """The new total, in the form of `EnrollOptions.budget`: for all new rounds together, or the
    total after each."""
    rounds: int = 1
    granularity: str | None = None
    """Of the new rounds, in the form of `EnrollOptions.granularity`. None: as `enroll` would
    choose."""
    audit: int | None = None
    """Frames that one more round audits after them."""


@dataclass(frozen=True)
class Extended:
    """A task whose session goes on."""

    name: str
    rounds: tuple[int, ...]
    """Numbers of the new rounds."""
    granularity: str
    """Of the new rounds."""
    budget: str
    """The new total, in words."""


def extend(agent: AgentContext, task: int, asked: Extension, who: str | None = None) -> Extended:
    """Add rounds to the session of an enrolled task, whether it is finished or not. `who` asked
    for it, for the log; None for whoever runs the command."""
    enrollment = agent.workspace.enrollment(task)
    if enrollment is None:
        raise ConfigError(f"task {task} is not enrolled; enroll it: hvsa-agent enroll {task}")
    with (
        alone_with(agent, task) as lease,
        Store(agent.workspace.session_place(enrollment, lease)) as store,
    ):
        session = stored_session(store)
        files = store.round(session.current.number)
        if session.done and everything_asked(session, files):
            raise ConfigError(
                f"task {task}: people have been asked about everything, so there is nothing left "
                f"to go on with; correct the masks at {agent.client.address.url}/tasks/{task}"
            )
        before = RunConfig.model_validate(session.config)
        budgets = _budgets(task, session, files, asked)
        shares = _shares(session, files, (before.budgets[-1], *budgets[:-1]))
        kinds = _kinds(asked, enrollment.options, before, shares)
        if asked.audit is not None:
            kinds = (*kinds, Granularity("audit", frames=asked.audit))
            budgets = (*budgets, budgets[-1])
        if reaches(newest_audit(files), before.target):
            agent.log(f"task {task}: its target is reached, so the new rounds have none")
            before = before.model_copy(update={"target": None})
        config = _config(before, budgets, kinds, enrollment.options)
        agent.log(f"task {task}: takes {_takes(agent, enrollment, store, config)}")
        store.save(
            session.extended(
                len(config.budgets),
                config.model_dump(mode="json"),
                predict_again=kinds[0] != _last_kind(before),
            )
        )
        agent.workspace.events.add(
            task,
            Event.EXTENDED,
            enrollment=enrollment.key,
            who=who,
            rounds=len(config.budgets),
            rounds_before=len(before.budgets),
            budget=total_text(budgets[-1], config.budget_unit),
            granularity=config.granularity,
        )
    first = len(before.budgets) + 1
    return Extended(
        session.video,
        tuple(range(first, len(config.budgets) + 1)),
        ",".join(dict.fromkeys(map(str, kinds))),
        total_words(budgets[-1], config.budget_unit),
    )


def _budgets(task: int, session: Session, files: RoundFiles, asked: Extension) -> tuple[float, ...]:
    """The total after each new round, in the unit of the session's budget."""
    budget = parse_budget(asked.budget, 1)
    before = RunConfig.model_validate(session.config)
    totals, promised, unit = budget.totals, before.budgets[-1], before.budget_unit
    least = least_total(session, files)
    if budget.unit is not unit or totals[0] <= promised or totals[-1] <= least:
        raise ConfigError(_refusal(task, session, files, asked, same_unit=budget.unit is unit))
    if len(totals) > 1:
        return totals
    step = (totals[0] - promised) / asked.rounds
    return (*(promised + step * k for k in range(1, asked.rounds)), totals[0])


def _refusal(
    task: int, session: Session, files: RoundFiles, asked: Extension, *, same_unit: bool
) -> str:
    """Why the asked total cannot be, and one that can."""
    unit = RunConfig.model_validate(session.config).budget_unit
    command = extend_command(task, session, files)
    if not same_unit:
        counts = "clicks" if unit is BudgetUnit.CLICKS else "time"
        fix = f"; name it so: {command}" if command else ""
        return f"--budget {asked.budget!r}: the budget of task {task} counts {counts}{fix}"
    fix = f"name a larger total: {command}" if command else "all of them are promised already"
    return (
        f"--budget {asked.budget!r} is the new total, and task {task} has been given or has spent "
        f"{total_words(least_total(session, files), unit)}; {fix}"
    )


def _shares(session: Session, files: RoundFiles, totals: tuple[float, ...]) -> tuple[float, ...]:
    """Totals of the session's budget as shares of annotating every frame."""
    if RunConfig.model_validate(session.config).budget_unit is BudgetUnit.CLICKS:
        return totals
    every = session_time(session, files).every_frame_minutes
    return tuple(0.0 if every is None else total / (60 * every) for total in totals)


def _kinds(
    asked: Extension, options: EnrollOptions, before: RunConfig, spent_before: tuple[float, ...]
) -> tuple[Granularity, ...]:
    """What each new round asks for; `spent_before` are shares of annotating every frame."""
    if asked.granularity is not None:
        return granularity_by_round(asked.granularity, len(spent_before))
    last = _last_sample(before)
    if options.granularity is not None or before.method not in CARRIED:
        return (last,) * len(spent_before)
    return tuple(Granularity("frame") if spent >= WHOLE_FROM else last for spent in spent_before)


def _last_kind(config: RunConfig) -> Granularity:
    return granularity_by_round(config.granularity, len(config.budgets))[-1]


def _last_sample(config: RunConfig) -> Granularity:
    """What the last round asked for that was no audit."""
    kinds = granularity_by_round(config.granularity, len(config.budgets))
    return next((kind for kind in reversed(kinds) if kind.frames is None), Granularity("frame"))


def _config(
    before: RunConfig,
    budgets: tuple[float, ...],
    kinds: tuple[Granularity, ...],
    options: EnrollOptions,
) -> RunConfig:
    """The settings of the session with its new rounds."""
    every = (*granularity_by_round(before.granularity, len(before.budgets)), *kinds)
    whole = any(kind.whole for kind in every)
    return before.model_copy(
        update={
            "budgets": (*before.budgets, *budgets),
            "granularity": ",".join(map(str, every)),
            "strategy": choose_strategy(options.strategy, before.method, whole),
        }
    )


def _takes(agent: AgentContext, enrollment: Enrollment, store: Store, config: RunConfig) -> str:
    """What all rounds take of this machine, in words; `CapacityError` where it lacks that."""
    in_use = State(store.place / "cvat").facts.frames_in_use()
    task = read_enrolled(agent.client, enrollment, in_use)
    order = MeasureRounds(enrollment.options, task.media, len(task.labels), config, store.place)
    return agent.compute.ask(order, agent.contact())
