"""`hvsa-agent notify`: messages about what is new."""

from __future__ import annotations

import os
from typing import Any

import click

from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_local_settings
from hvsa_cvat.cli.options import settings_options
from hvsa_cvat.errors import ConfigError, HvsaError


@click.group()
def notify() -> None:
    """Messages about what is new with the tasks, which `sync` sends."""


@notify.command()
@settings_options
def test(**options: Any) -> None:
    """Send a message to every address in HVSA_NOTIFY_URLS.

    \b
    Example:
      HVSA_NOTIFY_URLS="mailtos://user:password@example.com json://hooks.example.com" \\
        hvsa-agent notify test
    """
    settings = open_local_settings(options)

    from hvsa_cvat.agent.notify import open_services
    from hvsa_cvat.agent.settings import NOTIFY_URLS

    services = open_services(os.environ)
    if not services:
        raise ConfigError(
            f"{NOTIFY_URLS} is not set; write addresses there as https://github.com/caronc/apprise "
            "shows, with blanks between them"
        )
    text = f"This is a test. News of the tasks of {settings.address.url} will come like this."
    failed = 0
    for place, service in enumerate(services, 1):
        took = service.send("hvsa-agent: test", text)
        failed += not took
        say(f"address {place} ({service.name}): {'took the message' if took else 'failed'}")
    if failed:
        raise HvsaError(f"{failed} of {len(services)} addresses failed; check them")
