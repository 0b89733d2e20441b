"""The System page: this machine, the agents, and what `doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from hvsa_cvat.agent.signs import Doing, Sign, read_signs, silent
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.dashboard.facts import system_facts
from hvsa_cvat.dashboard.site import Site
from hvsa_cvat.dashboard.summaries import TaskSummary, totals

_ACTIONS = 20
"""Of those done on the pages, the newest ones are shown."""


@dataclass(frozen=True)
class Agent:
    """An agent that watches, or that works on a task now."""

    name: str
    doing: Doing | None
    """None of an agent that only works: it was not started with --watch."""
    started: datetime | None
    last: datetime | None
    """When it gave its last sign of life."""
    down: bool
    tasks: tuple[TaskSummary, ...]
    """Those on which it works now."""


def agents(site: Site, rows: tuple[TaskSummary, ...]) -> list[Agent]:
    """All agents, by name."""
    signs = read_signs(site.settings.place, server_key(site.url))
    down = silent(signs, site.settings.notify.down_minutes, site.clock())
    known = {one.owner: one for one in signs}
    owners = sorted({*known, *(row.owner for row in rows if row.owner is not None)})
    return [_agent(owner, known.get(owner), down, rows) for owner in owners]


def _agent(owner: str, sign: Sign | None, down: list[Sign], rows: tuple[TaskSummary, ...]) -> Agent:
    return Agent(
        name=owner.partition(":")[0],
        doing=None if sign is None else sign.doing,
        started=None if sign is None else datetime.fromtimestamp(sign.started, UTC),
        last=None if sign is None else datetime.fromtimestamp(sign.last, UTC),
        down=sign in down,
        tasks=tuple(row for row in rows if row.owner == owner),
    )


def system(site: Site, request: Request) -> Response:
    rows = site.overview.rows()
    return site.page(
        request,
        "system.html.j2",
        "System",
        facts=system_facts(site.settings),
        machine=site.machine_checks(),
        rows=rows.summaries,
        totals=totals(rows.summaries),
        agents=agents(site, rows.summaries),
        may_ask=site.server_checks.may_ask and not site.options.read_only,
        checked=site.server_checks.last,
        cache=site.pictures.size,
        actions=site.marks.actions(_ACTIONS),
    )


def ask_server(site: Site, request: Request, form: dict[str, str], sender: str) -> str:
    """Begin the checks of the server; the path of the page that shows them."""
    site.server_checks.begin()
    return "/system"
