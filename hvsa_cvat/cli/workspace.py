"""`hvsa-agent workspace`: move a workspace, check it, free what it no longer needs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from hvsa_cvat.cli.console import say, warn
from hvsa_cvat.cli.log_lines import warnings_to
from hvsa_cvat.cli.opening import open_local_settings, open_present_workspace
from hvsa_cvat.cli.options import TASK, settings_options
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.plain_text import plural


@click.group()
def workspace() -> None:
    """Move a workspace, check its files, free what it no longer needs."""


@workspace.command("copy")
@click.argument("source")
@click.argument("target")
def copy_command(source: str, target: str) -> None:
    """Copy the workspace in the folder SOURCE to TARGET, a new folder or the address of a bucket;
    or from such an address to a folder. What is copied is checked, and nothing is left half.

    \b
    Example:
      hvsa-agent workspace copy hvsa-workspace s3://bucket/hvsa
    """
    from hvsa_cvat.agent.workspace_copy import copy
    from hvsa_cvat.objects import checked_artefacts

    def place(text: str) -> str:
        return checked_artefacts(text, Path.cwd()) if "://" in text else text

    with warnings_to(warn):
        copy(place(source), place(target), time.time, say)


@workspace.command()
@click.argument("task", type=TASK, required=False)
@settings_options
def verify(task: int | None, **options: Any) -> None:
    """Check every recorded file of TASK, or of all tasks, in the folder or the bucket. A damaged
    object is made again where this machine has the file. The exit code is 1 where damage is left.

    \b
    Example:
      hvsa-agent workspace verify 12
    """
    settings = open_local_settings(options)

    from hvsa_cvat.agent.workspace_sessions import places_of
    from hvsa_cvat.agent.workspace_verify import verify as verify_sessions

    shown = Table("session", "files", "restored", "damaged", box=None)
    damaged: list[str] = []
    with warnings_to(warn):
        for one in verify_sessions(places_of(settings.place, task)):
            counts = (one.files, len(one.restored), len(one.damaged))
            shown.add_row(one.title, *map(str, counts))
            damaged += [f"{one.title}: {name}" for name in one.damaged]
    Console(
        width=max(80, 40 + max((len(str(row)) for row in shown.columns[0].cells), default=0))
    ).print(shown)
    for line in damaged:
        say(f"missing or damaged: {line}")
    if damaged:
        raise HvsaError(
            f"{plural(len(damaged), 'file')} missing or damaged; restore them from a copy, or "
            "withdraw the task and enroll it again"
        )


@workspace.command()
@click.option(
    "--keep-rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of how many last rounds the masks and networks stay; those of round 0 always do.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@settings_options
def prune(keep_rounds: int, dry_run: bool, yes: bool, **options: Any) -> None:
    """Free what finished tasks no longer need: masks and networks of earlier rounds, optical flow,
    and objects of the bucket that nothing names. What people drew stays, and all that `extend`,
    `report` and `export` of the kept rounds read.

    \b
    Example:
      hvsa-agent workspace prune --keep-rounds 2 --dry-run
    """
    if not dry_run and not yes:
        click.confirm(
            f"Remove the masks of all but the last {plural(keep_rounds, 'round')} of finished "
            "tasks?",
            abort=True,
        )
    settings = open_local_settings(options)

    from hvsa_cvat.agent.workspace_prune import prune as prune_workspace

    total = 0
    with warnings_to(warn):
        known = open_present_workspace(settings)
        for one in prune_workspace(known, time.time, keep_rounds=keep_rounds, dry_run=dry_run):
            total += one.bytes
            rounds = f", masks of rounds {', '.join(map(str, one.rounds))}" if one.rounds else ""
            say(f"{one.title}: {_megabytes(one.bytes)}{rounds}")
    say(f"{'would free' if dry_run else 'freed'} {_megabytes(total)}")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
