"""`hvsa-agent pause` and `hvsa-agent resume`: leave a task out for a while."""

from __future__ import annotations

from typing import Any

import click

from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_local_settings, open_present_workspace
from hvsa_cvat.cli.options import TASK, settings_options


@click.command()
@click.argument("task", type=TASK)
@settings_options
def pause(task: int, **options: Any) -> None:
    """Leave TASK out of `sync` until it is resumed. Its jobs and masks stay as they are, and people
    may go on with their jobs; a pass that works on it now goes on to its end.

    \b
    Example:
      hvsa-agent pause 12
    """
    open_present_workspace(open_local_settings(options)).pauses.pause(task)
    say(f"task {task} is paused; to go on: hvsa-agent resume {task}")


@click.command()
@click.argument("task", type=TASK)
@settings_options
def resume(task: int, **options: Any) -> None:
    """Let `sync` go on with TASK, which was paused.

    \b
    Example:
      hvsa-agent resume 12
    """
    open_present_workspace(open_local_settings(options)).pauses.resume(task)
    say(f"task {task} goes on with the next pass")
