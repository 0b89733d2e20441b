"""`hvsa-agent doctor`: what keeps the agent from working."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape

from hvsa_cvat.cli.console import OUT, printable
from hvsa_cvat.cli.opening import open_client, open_settings
from hvsa_cvat.cli.options import settings_options
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.plain_text import plural

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


@click.command()
@settings_options
def doctor(**options: Any) -> None:
    """Check server, account, rights, GPU, weights and disk. Each line comes with its fix.

    \b
    Example:
      CVAT_HOST=https://cvat.example.com CVAT_ACCESS_TOKEN=... hvsa-agent doctor
    """
    settings = open_settings(options)

    from hvsa_cvat.agent.doctor import examine_machine
    from hvsa_cvat.cvat.doctor import examine

    failures = 0
    with open_client(settings) as client:
        for finding in (*examine(client), *examine_machine(settings)):
            failures += finding.level == "failure"
            fix = f" -> {finding.fix}" if finding.fix else ""
            text = escape(printable(f"{finding.name}: {finding.text}{fix}"))
            level = f"[{_COLOURS[finding.level]}]{finding.level:8}[/]"
            OUT.print(f"{level} {text}", soft_wrap=True, highlight=False)
    if failures:
        raise HvsaError(f"{plural(failures, 'check')} failed; fix this before the agent can work")
