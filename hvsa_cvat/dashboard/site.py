"""What all pages share: where the data is, how a page is written, and what an error looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import HTMLResponse

from hvsa_cvat import __version__
from hvsa_cvat.agent.settings import AgentSettings, LocalSettings
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.dashboard.access import FORM_FIELD, Guard
from hvsa_cvat.dashboard.encoded import PictureCache
from hvsa_cvat.dashboard.machine_checks import MachineChecks
from hvsa_cvat.dashboard.marks import Marks
from hvsa_cvat.dashboard.server_checks import ServerChecks
from hvsa_cvat.dashboard.summaries import Overview
from hvsa_cvat.enrolled.doubtful import Rankings
from hvsa_cvat.enrolled.runs import RunCache
from hvsa_cvat.enrolled.tasks import EnrolledTasks
from hvsa_cvat.report.report import NONE, count, css, duration, percent, points

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class SiteOptions:
    """How the pages are shown."""

    prefix: str = ""
    """The path below which they are, such as `/hvsa`; without a slash at its end."""
    token: str | None = None
    read_only: bool = False
    """Whether nothing can be marked or done."""
    patience: float = 0.1
    """Seconds for which a page waits for tasks that were never read; the next one goes on with
    them."""


class Site:
    """The data behind the pages of one workspace and server."""

    def __init__(
        self,
        settings: LocalSettings,
        options: SiteOptions,
        clock: Callable[[], float],
        login: AgentSettings | None = None,
    ) -> None:
        """`login`: the same settings with a login, where there is one; the checks of the server use
        it, and nothing else does."""
        self.settings = settings
        self.options = options
        self.url = settings.address.url
        self.clock = clock
        self.guard = Guard(options.token, options.prefix, clock)
        self.tasks = EnrolledTasks(settings.place, self.url, clock)
        self.runs = RunCache()
        self.overview = Overview(self.tasks, options.patience, read=self.runs.read)
        self.rankings = Rankings()
        self.pictures = PictureCache()
        self.marks = Marks(settings.place, clock)
        self.machine_checks = MachineChecks(settings, clock)
        self.server_checks = ServerChecks(login, clock)
        self._templates = _environment(options.prefix)

    @property
    def may_act(self) -> bool:
        """Whether the pages may change what the agents do. Without a token, any program on this
        machine could."""
        return self.guard.asks and not self.options.read_only

    def workspace(self) -> Workspace:
        """The workspace, to change something in it."""
        server = server_key(self.url)
        return Workspace(self.settings.place, server, "dashboard", self.clock)

    def close(self) -> None:
        """End the threads of the site."""
        self.rankings.close()
        self.server_checks.close()

    def path(self, path: str) -> str:
        """The address of a page of ours, for links."""
        return self.options.prefix + path

    def page(
        self, request: Request, template: str, title: str, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """A page. Visitors without a cookie get one, so that the forms of the page work."""
        visitor = self.guard.visitor(request)
        response = HTMLResponse(status_code=status)
        cookie = visitor.cookie
        if cookie is None and not self.guard.asks:
            cookie = self.guard.give_cookie(response, request)
        text = self._templates.get_template(template).render(
            title=title,
            server=self.url,
            workspace=self.settings.workspace,
            version=__version__,
            now=datetime.fromtimestamp(self.clock(), UTC),
            here=request.scope["path"],
            query=request.query_params,
            admitted=visitor.admitted,
            asks=self.guard.asks,
            read_only=self.options.read_only,
            may_act=self.may_act,
            csrf=self.guard.form_value(cookie) if cookie is not None else "",
            form_field=FORM_FIELD,
            **values,
        )
        response.body = response.render(text)
        response.headers["content-length"] = str(len(response.body))
        return response


def _environment(prefix: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        points=points,
        count=count,
        duration=duration,
        ago=ago,
        css=css,
        size=size,
        code=code,
    )
    environment.globals.update(NONE=NONE, root=prefix, round_css=_round_css)
    for name in environment.list_templates():  # else the first pages would wait for it
        environment.get_template(name)
    return environment


def code(text: str) -> Markup:
    """Text as HTML; what stands between backticks, such as a command, is shown as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # the last backtick has no partner
        parts[-2:] = ["`".join(parts[-2:])]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def ago(then: datetime | None, now: datetime) -> str:
    """`3 h ago`."""
    if then is None:
        return NONE
    minutes = int((now - then).total_seconds() // 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // 1440} days ago"


def size(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _round_css(number: int) -> str:
    from hvsa_cvat.report.pictures import round_colour

    colour: NDArray[np.uint8] = round_colour(number)
    return css(colour)
