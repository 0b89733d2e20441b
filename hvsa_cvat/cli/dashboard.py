"""`hvsa-agent dashboard`: pages for the lead, read from the workspace."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from hvsa_cvat.cli.log_lines import LogLines, log_format_option
from hvsa_cvat.cli.opening import open_local_settings, open_settings, open_workspace
from hvsa_cvat.cli.options import settings_options

if TYPE_CHECKING:
    from hvsa_cvat.agent.settings import AgentSettings, LocalSettings, LogFormat

_LOGINS = ("CVAT_ACCESS_TOKEN", "CVAT_ACCESS_TOKEN_FILE", "CVAT_USER")


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8088",
    show_default=True,
    help="Where the pages are served. Any address that is not this machine's own needs a token in "
    "HVSA_DASHBOARD_TOKEN, and a proxy that encrypts.",
)
@click.option(
    "--subpath",
    default="",
    help="The path below which a proxy shows the pages, such as /hvsa.",
)
@click.option(
    "--until-stdin-closes",
    "with_parent",
    is_flag=True,
    hidden=True,
    help="End when whoever started this process has ended.",
)
@click.option("--read-only", is_flag=True, help="Nothing can be marked on the pages.")
@log_format_option
@settings_options
def dashboard(
    listen: str,
    subpath: str,
    with_parent: bool,
    read_only: bool,
    log_format: LogFormat | None,
    **options: Any,
) -> None:
    """Show in a browser how all tasks stand: what waits for whom, clicks, expected quality, masks,
    and the frames that are most probably wrong.

    The pages are read from the workspace alone: the server is not asked, and no agent waits. With
    addresses in HVSA_NOTIFY_URLS this process also tells what is new, and when an agent is down.

    \b
    Example:
      hvsa-agent dashboard
      HVSA_DASHBOARD_TOKEN=... hvsa-agent dashboard --listen 0.0.0.0:8088 --subpath /hvsa
    """
    given = dict(options)
    settings = open_local_settings(options)
    lines = LogLines(log_format or settings.log_format)

    from hvsa_cvat.agent.settings import DASHBOARD_TOKEN, read_secret
    from hvsa_cvat.dashboard.app import application
    from hvsa_cvat.dashboard.serve import check_token, parse_address, parse_prefix, serve
    from hvsa_cvat.dashboard.site import Site, SiteOptions

    address, prefix = parse_address(listen), parse_prefix(subpath)
    token = read_secret(DASHBOARD_TOKEN)
    check_token(address[0], token)
    site = Site(settings, SiteOptions(prefix, token, read_only), time.time, _with_login(given))
    with closing(site), _telling(settings, lines):
        if with_parent:
            threading.Thread(target=_end_with_stdin, daemon=True).start()
        serve(
            application(site),
            address,
            lambda url: lines.info(f"dashboard: {url}{prefix}/ (Ctrl+C ends it)"),
        )


def _with_login(options: dict[str, Any]) -> AgentSettings | None:
    """The settings with the login, which only the checks of the server need; None without one."""
    if not any(os.environ.get(name) for name in _LOGINS):
        return None
    return open_settings(options)


@contextmanager
def _telling(settings: LocalSettings, lines: LogLines) -> Iterator[None]:
    """Tell what is new, where the environment says whom."""
    from hvsa_cvat.agent.looking import is_workspace
    from hvsa_cvat.agent.notify import Notifier, open_services, telling
    from hvsa_cvat.agent.workspace import Workspace

    services = open_services(os.environ)
    if not services:
        yield
        return
    notifier = Notifier(services, settings.notify, settings.address.url, lines.warning)

    def workspace() -> Workspace | None:
        return open_workspace(settings) if is_workspace(settings.place) else None

    with telling(notifier, workspace, time.time):
        yield


def _end_with_stdin() -> None:
    """Whoever started this process holds the other end of its input until it ends."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
