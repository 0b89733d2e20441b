"""Whether this server and this account are fit for the agent: the server's half of
`hvsa-agent doctor`.

Rights are derived from the roles that the server reports, by the rules that it applies itself.
Nothing is created on the server to try them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import urlsplit

from cvat_sdk.version import VERSION as SDK_VERSION

from hvsa_cvat.cvat.account import AccountProbe, Need
from hvsa_cvat.cvat.http.client import (
    NEWEST,
    OLDEST,
    CvatClient,
)
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Untrusted
from hvsa_cvat.errors import HvsaError

Level = Literal["ok", "warning", "failure"]

_DRIFT, _WRONG = timedelta(seconds=30), timedelta(minutes=10)
"""Differences between the clocks from which on there is a warning, and a failure."""
_EXPIRES_SOON = timedelta(days=14)


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    level: Level
    text: str
    fix: str | None = None


def _utc_now() -> datetime:
    return datetime.now(UTC)


def examine(client: CvatClient, now: Callable[[], datetime] = _utc_now) -> Iterator[Finding]:
    """All findings, always in the same order; a check that fails does not stop the others.

    `now` tells the time of this machine, with a time zone.
    """
    probe = AccountProbe(client, now)
    for check in _CHECKS:
        try:
            missing = probe.lacks(check.needs)
            yield Finding(check.name, *(_unchecked(missing) if missing else check.run(probe)))
        except HvsaError as error:
            yield Finding(check.name, "failure", str(error), check.fix)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            text = f"{client.address.url} answers in an unknown form ({type(error).__name__})"
            yield Finding(check.name, "failure", text, "check that this is the address of CVAT")


_Result = tuple[Level, str] | tuple[Level, str, str]


def _unchecked(reason: str) -> _Result:
    return "warning", f"not checked: {reason}", "fix the findings above first"


def _server(probe: AccountProbe) -> _Result:
    if probe.unreachable:
        raise probe.unreachable
    major, minor = probe.version
    return "ok", f"{probe.url} answers: CVAT {major}.{minor}"


def _encryption(probe: AccountProbe) -> _Result:
    address = urlsplit(probe.url)
    if isinstance(probe.unreachable, Untrusted):
        raise probe.unreachable
    if address.scheme == "http":
        if address.hostname in ("localhost", "127.0.0.1", "::1"):
            return "ok", "not encrypted, but it stays on this machine"
        return (
            "warning",
            "not encrypted: everybody on the way can read the login and the images",
            "serve CVAT over https and write https:// in the server address",
        )
    if probe.unreachable:
        return _unchecked("no connection")
    ca = probe.client.address.ca
    trust = f"by {ca}" if ca else "by the system's authorities"
    return "ok", f"encrypted, the certificate is trusted {trust}"


def _version(probe: AccountProbe) -> _Result:
    found, oldest, newest = (f"{a}.{b}" for a, b in (probe.version, OLDEST, NEWEST))
    if probe.version < OLDEST:
        return "failure", f"CVAT {found} is older than {oldest}", "upgrade CVAT"
    if probe.version > NEWEST:
        return (
            "warning",
            f"CVAT {found} is newer than {newest}, the last one known here",
            "upgrade hvsa-cvat, or watch the first tasks closely",
        )
    return "ok", f"CVAT {found} lies within {oldest} to {newest}"


def _sdk(probe: AccountProbe) -> _Result:
    numbers = SDK_VERSION.split(".")
    major, minor = int(numbers[0]), int(numbers[1])
    found = f"{probe.version[0]}.{probe.version[1]}"
    if probe.version > (major, minor + 1):
        return (
            "warning",
            f"cvat-sdk {SDK_VERSION} is older than the server {found}",
            "pip install --upgrade cvat-sdk",
        )
    if probe.version < (major, minor):
        return "ok", f"cvat-sdk {SDK_VERSION}, newer than the server; only its transport is used"
    return "ok", f"cvat-sdk {SDK_VERSION}, made for servers {major}.{minor} and {major}.{minor + 1}"


def _clock(probe: AccountProbe) -> _Result:
    theirs = probe.client.server_time()
    if theirs is None:
        return (
            "warning",
            "the server does not say what time it is",
            "compare the clocks of the server and of this machine by hand",
        )
    ahead = probe.now() - theirs
    # the server sends whole seconds, and its answer takes a moment
    if abs(ahead) <= _DRIFT:
        return "ok", f"the clocks differ by less than {_DRIFT.total_seconds():.0f} s"
    where = "ahead of" if ahead > timedelta(0) else "behind"
    return (
        "failure" if abs(ahead) > _WRONG else "warning",
        f"this machine's clock is {abs(ahead).total_seconds():.0f} s {where} the server's",
        "set both clocks by NTP; jobs in use and tokens are judged by them",
    )


def _login(probe: AccountProbe) -> _Result:
    if probe.no_login:
        raise probe.no_login
    way = "an access token" if probe.client.by_token else "user name and password"
    return "ok", f"logged in as {probe.name} ({probe.privilege} on this server) by {way}"


def _token(probe: AccountProbe) -> _Result:
    if not probe.client.by_token:
        return "ok", "none in use"
    try:
        token = probe.client.get("auth/access_tokens/self")
    except (NotFound, Forbidden):
        return (
            "warning",
            "the server does not say what this token may do",
            "check in CVAT (your profile, security) that it may write, and when it expires",
        )
    fix = "create a token in CVAT (your profile, security) and set CVAT_ACCESS_TOKEN"
    if token["read_only"]:
        return "failure", "the token can only read", f"{fix}; without the mark 'read only'"
    if token["expiry_date"] is None:
        return "ok", "may write, does not expire"
    expiry = datetime.fromisoformat(token["expiry_date"])
    day = f"{expiry:%Y-%m-%d}"
    if expiry - probe.now() < _EXPIRES_SOON:
        return "warning", f"may write, but expires on {day}", f"{fix} before that day"
    return "ok", f"may write, expires on {day}"


def _organization(probe: AccountProbe) -> _Result:
    slug = probe.organization
    if not slug:
        return "ok", "none: tasks and projects of the personal space"
    if probe.no_member:
        raise probe.no_member
    return "ok", f"{slug}, as {probe.role or 'administrator of the server'}"


def _create(probe: AccountProbe) -> _Result:
    where = probe.organization
    if not probe.user:
        who = f"a {probe.privilege} of the server"
        return "failure", f"{who} may not create projects and tasks", _MAKE_USER
    if where and not probe.trusted and probe.role != "supervisor":
        who = f"a {probe.role} of {where}"
        return "failure", f"{who} may not create projects and tasks", _PROMOTE
    return "ok", "may create projects and tasks"


def _others(probe: AccountProbe) -> _Result:
    if probe.trusted:
        return "ok", "may read and write the tasks of others"
    return (
        "warning",
        "may only work in tasks and projects that it owns or is assigned to",
        _PROMOTE if probe.organization else "assign the tasks to this account",
    )


def _guides(probe: AccountProbe) -> _Result:
    if probe.user:
        return "ok", "may write guides" + ("" if probe.trusted else " for what it owns")
    return "failure", "may not write guides, so annotators would not learn what to do", _MAKE_USER


def _webhooks(probe: AccountProbe) -> _Result:
    if probe.user or probe.organization:
        return "ok", "may install webhooks" + ("" if probe.trusted else " for projects it owns")
    text = "may not install webhooks; the agent asks for changes at intervals"
    return "warning", text, _MAKE_USER


def _assign(probe: AccountProbe) -> _Result:
    if probe.admin or probe.organization:
        return "ok", "may give jobs to others"
    return (
        "warning",
        "in the personal space jobs can only be given to this account",
        "use an organisation that the annotators are members of",
    )


_MAKE_USER = "let an administrator of CVAT put the account into the group user"
_PROMOTE = "let an owner of the organisation make the account a maintainer"
_LOGIN = "set CVAT_ACCESS_TOKEN to a valid token, or check user name and password"


@dataclass(frozen=True)
class _Check:
    name: str
    run: Callable[[AccountProbe], _Result]
    needs: Need
    fix: str
    """How to fix an error that the check ends in."""


_CHECKS = (
    _Check("server", _server, Need.NOTHING, "check the address, that CVAT runs, and firewalls"),
    _Check("encryption", _encryption, Need.NOTHING, "name its authority's certificate as ca"),
    _Check("version", _version, Need.SERVER, "check the server address"),
    _Check("cvat-sdk", _sdk, Need.SERVER, "pip install --upgrade cvat-sdk"),
    _Check("clock", _clock, Need.SERVER, "try again"),
    _Check("login", _login, Need.SERVER, _LOGIN),
    _Check("token", _token, Need.LOGIN, _LOGIN),
    _Check("organisation", _organization, Need.LOGIN, "check its short name; be invited to it"),
    _Check("create tasks", _create, Need.ROLE, _PROMOTE),
    _Check("tasks of others", _others, Need.ROLE, _PROMOTE),
    _Check("guides", _guides, Need.ROLE, _PROMOTE),
    _Check("webhooks", _webhooks, Need.ROLE, _PROMOTE),
    _Check("assigning", _assign, Need.ROLE, _PROMOTE),
)
