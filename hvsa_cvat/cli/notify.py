"""`hvsa-agent notify`: messages about what is new."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_local_settings, open_present_workspace
from hvsa_cvat.cli.options import settings_options
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.plain_text import plural

if TYPE_CHECKING:
    from hvsa_cvat.agent.notify import Service


@click.group()
def notify() -> None:
    """Messages about what is new with the tasks, which `sync` and `dashboard` send."""


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

    services = _services()
    text = f"This is a test. News of the tasks of {settings.address.url} will come like this."
    failed = 0
    for place, service in enumerate(services, 1):
        took = service.send("hvsa-agent: test", text)
        failed += not took
        say(f"address {place} ({service.name}): {'took the message' if took else 'failed'}")
    if failed:
        raise HvsaError(f"{failed} of {len(services)} addresses failed; check them")


@notify.command()
@settings_options
def check(**options: Any) -> None:
    """Tell what is new, and which agents are down, once: for cron on another machine than the
    agent's. What was told already is not told again.

    \b
    Example:
      */10 * * * * hvsa-agent notify check --config /srv/hvsa/hvsa.toml
    """
    settings = open_local_settings(options)

    from hvsa_cvat.agent.notify import Notifier

    services = _services()
    workspace = open_present_workspace(settings)
    notifier = Notifier(services, settings.notify, settings.address.url, say)
    sent = notifier.tell(workspace, time.time())
    waiting = len(workspace.outbox.waiting())
    say(f"{plural(sent, 'line')} sent, {waiting} to be sent later")


def _services() -> list[Service]:
    from hvsa_cvat.agent.notify import open_services
    from hvsa_cvat.agent.settings import NOTIFY_URLS

    services = open_services(os.environ)
    if not services:
        raise ConfigError(
            f"{NOTIFY_URLS} is not set; write addresses there as https://github.com/caronc/apprise "
            "shows, with blanks between them"
        )
    return services
