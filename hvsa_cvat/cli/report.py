"""`hvsa-agent report`: the report of an enrolled task, in one file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_local_settings
from hvsa_cvat.cli.options import PATH, TASK, settings_options
from hvsa_cvat.errors import ConfigError

_FORMS = ("html", "md", "csv", "json")


@click.command()
@click.argument("task", type=TASK)
@click.option("--out", required=True, type=PATH, help="The file to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMS),
    help="html: one page with pictures, which needs no other file. md: a table. csv: a row a "
    "round. json: for other programs. Default: the ending of the file.",
)
@settings_options
def report(task: int, out: Path, form: str | None, **options: Any) -> None:
    """Write the report of TASK: its rounds, clicks, what was asked when, and how good its masks
    should be.

    There is no truth to compare with: qualities are those that the outlook expects, with their
    interval. The server is not asked.

    \b
    Example:
      hvsa-agent report 12 --out task_12.html
    """
    chosen = form or out.suffix.removeprefix(".").lower()
    if chosen not in _FORMS:
        raise ConfigError(
            f"--out {str(out)!r} ends with none of .{', .'.join(_FORMS)}; name the form by --format"
        )
    settings = open_local_settings(options)

    from hvsa_cvat.enrolled.live_report import live_report
    from hvsa_cvat.enrolled.runs import read_run
    from hvsa_cvat.enrolled.tasks import EnrolledTasks
    from hvsa_cvat.report import write_form

    enrolled = EnrolledTasks(settings.place, settings.address.url, time.time).one(task)
    rate = enrolled.enrollment.options.rate
    write_form(live_report(task, read_run(enrolled.place), rate), chosen, out)
    say(f"Report: {out}")
