"""`hvsa-agent enroll`: take tasks up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_agent, open_settings
from hvsa_cvat.cli.options import TASK, model_options, settings_options
from hvsa_cvat.cli.task_lines import ReportPrinter
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.plain_text import plural

if TYPE_CHECKING:
    from hvsa_cvat.agent.context import AgentContext
    from hvsa_cvat.agent.enroll import Enrolled


@click.command()
@click.argument("task", type=TASK, required=False)
@click.option(
    "--project", type=TASK, help="All tasks of this project, now and later, instead of one task."
)
@model_options(EnrollOptions)
@click.option(
    "--again", is_flag=True, help="Even if another workspace has asked about the task before."
)
@settings_options
def enroll(task: int | None, project: int | None, again: bool, **options: Any) -> None:
    """Enroll TASK (video or images): the agent annotates it from the next `sync` on.

    Nothing on the server changes before `sync`. Options that are not given come from hvsa.toml.

    \b
    Example:
      hvsa-agent enroll 12 --budget 5% --annotators ann,bob --checkpoint pretrained.safetensors
    """
    settings = open_settings(options)
    given = {
        name: value.absolute() if isinstance(value, Path) else value
        for name, value in options.items()
    }
    with open_agent(settings) as agent:
        if task is not None and project is None:
            _enroll_task(agent, task, given, again)
        elif project is not None and task is None:
            _enroll_project(agent, project, given)
        else:
            raise ConfigError("name a task, or a project by --project")


def _enroll_task(agent: AgentContext, task: int, given: dict[str, Any], again: bool) -> None:
    from hvsa_cvat.agent.enroll import enroll

    enrolled = enroll(agent, task, given, again=again)
    say(_summary(enrolled))
    if not enrolled.start.known:
        say(
            f"task {task}: the start network knows none of its classes: there are no masks before "
            "the answers of round 1, and round 1 asks without knowing where it is unsure"
        )
    say("next: hvsa-agent sync")


def _enroll_project(agent: AgentContext, project: int, given: dict[str, Any]) -> None:
    from hvsa_cvat.agent.enroll import enroll_project

    printer = ReportPrinter(agent.settings.address.url)
    failed = printer.print(enroll_project(agent, project, given))
    say(f"project {project} is enrolled: its new tasks will be enrolled by `hvsa-agent sync`")
    if failed:
        raise HvsaError(
            f"{plural(failed, 'task')} of the project cannot be enrolled; the lines above say why"
        )


def _summary(enrolled: Enrolled) -> str:
    task, options = enrolled.task, enrolled.enrollment.options
    height, width = task.size
    return (
        f"task {task.id} ({task.name!r}) is enrolled: "
        f"{plural(len(task.media.numbers), 'frame')} of {width}x{height}, "
        f"{plural(len(task.classes), 'class')} ({', '.join(task.labels)}), "
        f"{enrolled.config.granularity}, {plural(len(enrolled.config.budgets), 'round')}, "
        f"budget {options.budget}"
    )
