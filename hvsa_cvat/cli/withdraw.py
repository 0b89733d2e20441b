"""`hvsa-agent withdraw`: end the enrollment of a task or project."""

from __future__ import annotations

from typing import Any

import click

from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_agent, open_settings, open_workspace
from hvsa_cvat.cli.options import TASK, settings_options
from hvsa_cvat.errors import ConfigError, HvsaError


@click.command()
@click.argument("task", type=TASK, required=False)
@click.option("--project", type=TASK, help="Enroll no further tasks of this project.")
@click.option(
    "--children", is_flag=True, help="Delete our child tasks too, with the answers in them."
)
@click.option(
    "--keep-masks", is_flag=True, help="Leave our masks in the task: they are good enough."
)
@click.option(
    "--keep-projects",
    is_flag=True,
    help="Leave the projects in which people were asked, even where nothing is left in them.",
)
@settings_options
def withdraw(
    task: int | None,
    project: int | None,
    children: bool,
    keep_masks: bool,
    keep_projects: bool,
    **options: Any,
) -> None:
    """End the enrollment of TASK: remove our masks, and leave every shape that a person touched.

    \b
    Example:
      hvsa-agent withdraw 12 --children
      hvsa-agent withdraw 12 --keep-masks
    """
    if project is not None and (children or keep_masks or keep_projects):
        raise ConfigError(
            "--children, --keep-masks and --keep-projects are for a task; withdraw each task of "
            "the project by its number"
        )
    settings = open_settings(options)
    if project is not None and task is None:
        if not open_workspace(settings).remove_project(project):
            raise ConfigError(f"project {project} is not enrolled")
        say(f"project {project}: no further tasks are enrolled; those that are stay enrolled")
        return
    if task is None or project is not None:
        raise ConfigError("name a task, or a project by --project")

    from hvsa_cvat.agent.withdraw import withdraw as withdraw_task

    with open_agent(settings) as agent:
        retracted = withdraw_task(
            agent, task, children=children, keep_masks=keep_masks, keep_projects=keep_projects
        )
        for line in [] if retracted is None else retracted.lines():
            say(line)
        if retracted is not None and retracted.waits:
            raise HvsaError(
                f"task {task} stays enrolled, because people are at work in it; withdraw it again "
                "when they are done"
            )
        say(f"task {task} is withdrawn")
