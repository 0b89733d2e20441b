"""`hvsa-agent log`: who did what with a task, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_local_settings
from hvsa_cvat.cli.options import PATH, TASK, settings_options


@click.command()
@click.argument("task", type=TASK)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
    help="csv: for a spreadsheet. json: for other programs.",
)
@click.option("--out", type=PATH, help="The file to write. Default: the terminal.")
@settings_options
def log(task: int, form: str, out: Path | None, **options: Any) -> None:
    """Show who did what with TASK, and when, in UTC: enrolled, asked, answered, sent back,
    published, extended, paused, withdrawn. Also for a task that is withdrawn.

    The server is not asked. People are those to whom jobs were assigned.

    \b
    Example:
      hvsa-agent log 12 --out task_12.csv
    """
    settings = open_local_settings(options)

    from hvsa_cvat.enrolled.timeline import FORMS, read_timeline
    from hvsa_cvat.files import atomic_write

    text = FORMS[form](read_timeline(settings.place, settings.address.url, task))
    if out is None:
        click.echo(text, nl=False)
        return
    with atomic_write(out) as path:
        path.write_text(text, encoding="utf-8")
    say(f"Log: {out}")
