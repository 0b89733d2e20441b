"""`hvsa-agent extend`: go on with a task beyond its last round."""

from __future__ import annotations

from typing import Any

import click

from hvsa_cvat.budgets import BUDGET_FORMS
from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_agent, open_settings
from hvsa_cvat.cli.options import TASK, settings_options


@click.command()
@click.argument("task", type=TASK)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many rounds more ask people.",
)
@click.option(
    "--budget",
    required=True,
    help=f"The new total, {BUDGET_FORMS}, with all that was spent before in it: one total for the "
    "new rounds together, or the total after each new round (8%,10%). It counts what the budget of "
    "the task counted before.",
)
@click.option(
    "--granularity",
    help="What people are asked for in the new rounds, in the forms of `enroll`. Default: as in "
    "the last round; where `enroll` was given none, what it would choose.",
)
@click.option(
    "--audit",
    type=click.IntRange(min=1),
    help="That many whole frames are audited in one more round, as by `enroll`.",
)
@settings_options
def extend(
    task: int,
    rounds: int,
    budget: str,
    granularity: str | None,
    audit: int | None,
    **options: Any,
) -> None:
    """Add rounds to TASK, which is enrolled: finished or not, it goes on after its last round.

    Rounds, answers and masks stay. Nothing on the server changes before `sync`.

    \b
    Example:
      hvsa-agent extend 12 --rounds 2 --budget 10% --granularity frame
    """
    settings = open_settings(options)

    from hvsa_cvat.agent.extend import Extension
    from hvsa_cvat.agent.extend import extend as extend_task

    with open_agent(settings) as agent:
        done = extend_task(agent, task, Extension(budget, rounds, granularity, audit))
    first, last = done.rounds[0], done.rounds[-1]
    which = f"round {first} asks" if first == last else f"rounds {first} to {last} ask"
    say(
        f"task {task} ({done.name!r}) goes on: {which} for {done.granularity}, within "
        f"{done.budget} in all"
    )
    say("next: hvsa-agent sync")
