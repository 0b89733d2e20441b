"""`hvsa-agent webhook`: let CVAT wake the agent."""

from __future__ import annotations

from typing import Any

import click

from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_agent, open_settings
from hvsa_cvat.cli.options import settings_options
from hvsa_cvat.errors import ConfigError


@click.group()
def webhook() -> None:
    """Let CVAT wake the agent."""


@webhook.command()
@click.argument("url")
@settings_options
def install(url: str, **options: Any) -> None:
    """Register URL with CVAT: the address at which the server reaches `sync --watch --listen`.

    \b
    Example:
      HVSA_WEBHOOK_SECRET=... hvsa-agent webhook install https://agent.example.com/
    """
    settings = open_settings(options)

    from hvsa_cvat.agent.companions import companion_projects
    from hvsa_cvat.agent.settings import WEBHOOK_SECRET, read_secret
    from hvsa_cvat.cvat.webhook import install as install_at

    secret = read_secret(WEBHOOK_SECRET)
    if not secret:
        raise ConfigError(
            f"set {WEBHOOK_SECRET} to a long random text, here and where `sync --listen` runs; for "
            f"example: export {WEBHOOK_SECRET}=$(openssl rand -hex 32)"
        )
    with open_agent(settings) as agent:
        for hook in install_at(agent.client, url, secret, companion_projects(agent)):
            project = hook.get("project_id")
            scope = "the organisation" if project is None else f"project {project}"
            say(f"webhook {hook['id']} delivers to {url} for {scope}")
