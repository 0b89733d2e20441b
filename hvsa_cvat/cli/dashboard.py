"""`hvsa-agent dashboard`: pages for the lead, read from the workspace."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from hvsa_cvat.cli.log_lines import LogLines, log_format_option
from hvsa_cvat.cli.opening import open_local_settings
from hvsa_cvat.cli.options import settings_options

if TYPE_CHECKING:
    from hvsa_cvat.agent.settings import LogFormat


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
@click.option("--read-only", is_flag=True, help="Nothing can be marked on the pages.")
@log_format_option
@settings_options
def dashboard(
    listen: str, subpath: str, read_only: bool, log_format: LogFormat | None, **options: Any
) -> None:
    """Show in a browser how all tasks stand: what waits for whom, clicks, expected quality, masks,
    and the frames that are most probably wrong.

    The pages are read from the workspace alone: the server is not asked, and no agent waits.

    \b
    Example:
      hvsa-agent dashboard
      HVSA_DASHBOARD_TOKEN=... hvsa-agent dashboard --listen 0.0.0.0:8088 --subpath /hvsa
    """
    settings = open_local_settings(options)
    lines = LogLines(log_format or settings.log_format)

    from hvsa_cvat.agent.settings import DASHBOARD_TOKEN, read_secret
    from hvsa_cvat.dashboard.app import application
    from hvsa_cvat.dashboard.serve import check_token, parse_address, parse_prefix, serve
    from hvsa_cvat.dashboard.site import Site, SiteOptions

    address, prefix = parse_address(listen), parse_prefix(subpath)
    token = read_secret(DASHBOARD_TOKEN)
    check_token(address[0], token)
    site = Site(settings, SiteOptions(prefix, token, read_only), time.time)
    with closing(site):
        serve(
            application(site),
            address,
            lambda url: lines.info(f"dashboard: {url}{prefix}/ (Ctrl+C ends it)"),
        )
