"""The application: which address leads to which page, and what is checked before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hvsa_cvat.agent.reports import one_line, told
from hvsa_cvat.dashboard import action_pages, pages, system_page
from hvsa_cvat.dashboard.access import FORM_FIELD, HEADERS, sender_of
from hvsa_cvat.dashboard.people_page import people
from hvsa_cvat.dashboard.site import Site
from hvsa_cvat.dashboard.task_log import log
from hvsa_cvat.errors import ConfigError, HvsaError

_LARGEST_FORM = 2**13
"""Bytes."""

_THREADS = ThreadPoolExecutor(2, "page")
"""Two: a slow page does not stop the others. Threads wait for Python's lock: with 40 a third as
many pages a second are made."""

Page = Callable[[Site, Request], Response]
Action = Callable[[Site, Request, dict[str, str], str], str]
"""Takes the form and the sender; returns the path of the page to go to."""


def application(site: Site) -> ASGIApp:
    """The pages of a site, below its prefix."""
    static = StaticFiles(directory=Path(__file__).parent / "static")
    routes = [
        Route("/", shown(site, pages.tasks)),
        Route("/tasks/{task:int}", shown(site, pages.task)),
        Route("/tasks/{task:int}/frames/{frame:int}", shown(site, pages.frame)),
        Route("/tasks/{task:int}/review", shown(site, pages.review)),
        Route("/tasks/{task:int}/report.{form}", shown(site, pages.report)),
        Route("/tasks/{task:int}/log.{form}", shown(site, log)),
        Route(
            "/tasks/{task:int}/pictures/{round:int}/{frame:int}/{kind}",
            shown(site, pages.picture),
        ),
        Route("/tasks/{task:int}/seen", done(site, pages.mark_seen), methods=["POST"]),
        *_action_routes(site),
        Route("/review", shown(site, pages.reviews)),
        Route("/people", shown(site, people)),
        Route("/system", shown(site, system_page.system)),
        Route("/system/ask", done(site, system_page.ask_server), methods=["POST"]),
        Route("/login", partial(_login_page, site)),
        Route("/login", partial(_login, site), methods=["POST"]),
        Route("/logout", partial(_logout, site), methods=["POST"]),
        Route("/health", _health),
        Mount("/static", static),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: partial(_refused, site)},
    )
    return _Frame(app, site)


def _action_routes(site: Site) -> Iterator[Route]:
    for what in action_pages.ACTIONS:
        path = f"/tasks/{{task:int}}/{what}"
        yield Route(path, shown(site, partial(action_pages.ask, what)))
        yield Route(path, done(site, partial(action_pages.act, what)), methods=["POST"])


class _Frame:
    """Takes the prefix off the path, refuses strange names, and adds the headers to all answers."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in HEADERS.items()
                        if name.lower().encode() not in own
                    ),
                ]
            await send(message)

        answer = self._app if (early := self._early(scope)) is None else early
        await answer(scope, receive, guarded)

    def _early(self, scope: Scope) -> Response | None:
        """An answer that needs no page; else the scope gets the path below the prefix."""
        request, prefix = Request(scope), self._site.options.prefix
        if not self._site.guard.is_own_name(request):
            return PlainTextResponse(
                "This dashboard answers only to names of this machine, such as localhost. To reach "
                "it under another name, set HVSA_DASHBOARD_TOKEN.\n",
                status_code=421,
            )
        path = scope["path"]
        if prefix and path == prefix:
            return RedirectResponse(f"{prefix}/", status_code=308)
        # a proxy may take the prefix off, or leave it
        if prefix and path.startswith(f"{prefix}/"):
            scope["path"] = path.removeprefix(prefix)
            scope["raw_path"] = scope["path"].encode()
        return None


async def _made(answer: Callable[..., Response], *given: object) -> Response:
    """What `answer` returns, in one of the threads for pages."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, answer, *given)


def shown(site: Site, page: Page) -> Callable[[Request], Awaitable[Response]]:
    """A page for those who may see it. Errors become a page that says what to do."""

    async def endpoint(request: Request) -> Response:
        return await _made(answer, request)

    def answer(request: Request) -> Response:
        if not site.guard.visitor(request).admitted:
            if "/pictures/" in request.scope["path"]:
                return PlainTextResponse("log in first\n", status_code=401)
            goal = request.scope["path"]
            return RedirectResponse(f"{site.path('/login')}?next={goal}", status_code=303)
        try:
            return page(site, request)
        except HTTPException:
            raise
        except HvsaError as problem:
            status = 404 if isinstance(problem, ConfigError) else 500
            return _error_page(site, request, one_line(problem), status)
        except Exception as problem:  # a page, whatever it is; the traceback goes into a file
            line = told(problem, site.settings.workspace)
            return _error_page(site, request, line, 500)

    return endpoint


def done(site: Site, action: Action) -> Callable[[Request], object]:
    """Something that changes what is kept: for forms of our own pages alone."""

    async def endpoint(request: Request) -> Response:
        form = await _form(request)
        return await _made(answer, request, form)

    def answer(request: Request, form: dict[str, str]) -> Response:
        if not site.guard.visitor(request).admitted:
            return _error_page(site, request, "Log in first.", 401)
        if site.options.read_only:
            line = "This dashboard only shows; nothing changes here."
            return _error_page(site, request, line, 403)
        if not site.guard.is_own_form(request, form.get(FORM_FIELD, "")):
            line = "This form is too old or was not ours. Go back, load the page anew, try again."
            return _error_page(site, request, line, 403)
        try:
            goal = action(site, request, form, sender_of(request))
        except HvsaError as problem:
            status = 400 if isinstance(problem, ConfigError) else 500
            return _error_page(site, request, one_line(problem), status)
        return RedirectResponse(site.path(goal), status_code=303)

    return endpoint


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; the last value of each."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_FORM:
            raise HTTPException(413, "This form is too large.")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    return {name: values[-1] for name, values in fields.items()}


def _login_page(site: Site, request: Request) -> Response:
    if site.guard.visitor(request).admitted:
        return RedirectResponse(site.path("/"), status_code=303)
    goal = _own_path(request.query_params.get("next", "/"))
    return site.page(request, "login.html.j2", "Log in", goal=goal, wrong=None)


async def _login(site: Site, request: Request) -> Response:
    form, sender = await _form(request), sender_of(request)
    goal = _own_path(form.get("next", "/"))
    if site.guard.is_exhausted(sender):
        line = "Too many wrong tokens; wait a minute."
        page = site.page(request, "login.html.j2", "Log in", 429, goal=goal, wrong=line)
        page.headers["Retry-After"] = "60"
        return page
    if not site.guard.is_token(form.get("token", ""), sender):
        line = "That is not the token."
        return site.page(request, "login.html.j2", "Log in", 403, goal=goal, wrong=line)
    response = RedirectResponse(site.path(goal), status_code=303)
    site.guard.give_cookie(response, request)
    return response


async def _logout(site: Site, request: Request) -> Response:
    form = await _form(request)
    response = RedirectResponse(site.path("/"), status_code=303)
    if site.guard.is_own_form(request, form.get(FORM_FIELD, "")):
        site.guard.take_cookie(response)
    return response


def _own_path(path: str) -> str:
    """A path of ours; `/` for addresses elsewhere."""
    plain = path.startswith("/") and not path.startswith("//") and path.isascii()
    return path if plain and path.isprintable() and "\\" not in path else "/"


def _health(request: Request) -> Response:
    return PlainTextResponse("ok\n")


def _refused(site: Site, request: Request, problem: Exception) -> Response:
    if not isinstance(problem, HTTPException):
        raise problem
    line = "There is no such page." if problem.detail == "Not Found" else problem.detail
    return _error_page(site, request, line, problem.status_code)


def _error_page(site: Site, request: Request, line: str, status: int) -> Response:
    return site.page(request, "error.html.j2", "Not possible", status, line=line)
