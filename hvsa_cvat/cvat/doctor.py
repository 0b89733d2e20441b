"""Whether this server and this account are fit for the agent: the server's half of
`hvsa-agent doctor`.

Rights are derived from the roles that the server reports, by the rules that it applies itself.
Nothing is created on the server to try them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import cached_property
from typing import Literal
from urllib.parse import urlsplit

from cvat_sdk.version import VERSION as SDK_VERSION

from hvsa_cvat.cvat.http.client import (
    NEWEST,
    OLDEST,
    CvatClient,
    Forbidden,
    NotFound,
    Untrusted,
)
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
    probe = _AccountProbe(client, now)
    for check in _CHECKS:
        try:
            missing = probe.lacks(check.needs)
            yield Finding(check.name, *(_unchecked(missing) if missing else check.run(probe)))
        except HvsaError as error:
            yield Finding(check.name, "failure", str(error), check.fix)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            text = f"{client.address.url} answers in an unknown form ({type(error).__name__})"
            yield Finding(check.name, "failure", text, "check that this is the address of CVAT")


class _Need(IntEnum):
    """What must work before a check makes sense; each includes the ones before."""

    NOTHING = 0
    SERVER = 1
    LOGIN = 2
    ROLE = 3


class _AccountProbe:
    """The server and the account, each fact asked for once."""

    def __init__(self, client: CvatClient, now: Callable[[], datetime]) -> None:
        self.client = client
        self.url = client.address.url
        self.organization = client.address.organization
        self.now = now

    def lacks(self, need: _Need) -> str | None:
        """What of `need` is missing, in words."""
        if need >= _Need.SERVER and self.unreachable:
            return "no usable answer from the server"
        if need >= _Need.LOGIN and self.no_login:
            return "no login"
        if need >= _Need.ROLE and self.no_member:
            return f"no role in organisation {self.organization}"
        return None

    @cached_property
    def unreachable(self) -> HvsaError | None:
        """Why the server cannot be reached, if so."""
        return _error_of(self.client.version)

    @cached_property
    def no_login(self) -> HvsaError | None:
        """Why the server does not let us in, if so."""
        return _error_of(self.client.me)

    @property
    def version(self) -> tuple[int, int]:
        return self.client.version()

    @property
    def name(self) -> str:
        return str(self.client.me()["username"])

    @property
    def privilege(self) -> str:
        """The account's group on the whole server: admin, user, worker or none; old servers also
        have business."""
        account = self.client.me()
        known = [g for g in ("admin", "business", "user", "worker") if g in account["groups"]]
        return "admin" if account.get("is_superuser") else (known or ["none"])[0]

    @property
    def admin(self) -> bool:
        return self.privilege == "admin"

    @property
    def user(self) -> bool:
        return self.privilege in ("admin", "business", "user")

    @cached_property
    def role(self) -> str | None:
        """The account's role in the organisation: owner, maintainer, supervisor, worker; None if it
        is no member."""
        account = self.client.me()
        for row in self.client.rows("memberships", user=self.name):
            if row["user"]["id"] == account["id"] and row.get("is_active", True):
                return str(row["role"])
        return None

    @cached_property
    def no_member(self) -> HvsaError | None:
        """Why the account does not belong to the organisation, if so."""
        if not self.organization:
            return None
        error = _error_of(lambda: self.role)
        if error is None and self.role is None and not self.admin:
            return HvsaError(f"{self.name} is no member of organisation {self.organization}")
        return error

    @property
    def trusted(self) -> bool:
        """Whether the account may work with what others own. In the personal space only
        administrators may."""
        if self.admin or not self.organization:
            return self.admin
        return self.user and self.role in ("owner", "maintainer")


def _error_of(call: Callable[[], object]) -> HvsaError | None:
    try:
        call()
    except HvsaError as error:
        return error
    return None


_Result = tuple[Level, str] | tuple[Level, str, str]


def _unchecked(reason: str) -> _Result:
    return "warning", f"not checked: {reason}", "fix the findings above first"


def _server(probe: _AccountProbe) -> _Result:
    if probe.unreachable:
        raise probe.unreachable
    major, minor = probe.version
    return "ok", f"{probe.url} answers: CVAT {major}.{minor}"


def _encryption(probe: _AccountProbe) -> _Result:
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


def _version(probe: _AccountProbe) -> _Result:
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


def _sdk(probe: _AccountProbe) -> _Result:
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


def _clock(probe: _AccountProbe) -> _Result:
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


def _login(probe: _AccountProbe) -> _Result:
    if probe.no_login:
        raise probe.no_login
    way = "an access token" if probe.client.by_token else "user name and password"
    return "ok", f"logged in as {probe.name} ({probe.privilege} on this server) by {way}"


def _token(probe: _AccountProbe) -> _Result:
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


def _organization(probe: _AccountProbe) -> _Result:
    slug = probe.organization
    if not slug:
        return "ok", "none: tasks and projects of the personal space"
    if probe.no_member:
        raise probe.no_member
    return "ok", f"{slug}, as {probe.role or 'administrator of the server'}"


def _create(probe: _AccountProbe) -> _Result:
    where = probe.organization
    if not probe.user:
        who = f"a {probe.privilege} of the server"
        return "failure", f"{who} may not create projects and tasks", _MAKE_USER
    if where and not probe.trusted and probe.role != "supervisor":
        who = f"a {probe.role} of {where}"
        return "failure", f"{who} may not create projects and tasks", _PROMOTE
    return "ok", "may create projects and tasks"


def _others(probe: _AccountProbe) -> _Result:
    if probe.trusted:
        return "ok", "may read and write the tasks of others"
    return (
        "warning",
        "may only work in tasks and projects that it owns or is assigned to",
        _PROMOTE if probe.organization else "assign the tasks to this account",
    )


def _guides(probe: _AccountProbe) -> _Result:
    if probe.user:
        return "ok", "may write guides" + ("" if probe.trusted else " for what it owns")
    return "failure", "may not write guides, so annotators would not learn what to do", _MAKE_USER


def _webhooks(probe: _AccountProbe) -> _Result:
    if probe.user or probe.organization:
        return "ok", "may install webhooks" + ("" if probe.trusted else " for projects it owns")
    text = "may not install webhooks; the agent asks for changes at intervals"
    return "warning", text, _MAKE_USER


def _assign(probe: _AccountProbe) -> _Result:
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
    run: Callable[[_AccountProbe], _Result]
    needs: _Need
    fix: str
    """How to fix an error that the check ends in."""


_CHECKS = (
    _Check("server", _server, _Need.NOTHING, "check the address, that CVAT runs, and firewalls"),
    _Check("encryption", _encryption, _Need.NOTHING, "name its authority's certificate as ca"),
    _Check("version", _version, _Need.SERVER, "check the server address"),
    _Check("cvat-sdk", _sdk, _Need.SERVER, "pip install --upgrade cvat-sdk"),
    _Check("clock", _clock, _Need.SERVER, "try again"),
    _Check("login", _login, _Need.SERVER, _LOGIN),
    _Check("token", _token, _Need.LOGIN, _LOGIN),
    _Check("organisation", _organization, _Need.LOGIN, "check its short name; be invited to it"),
    _Check("create tasks", _create, _Need.ROLE, _PROMOTE),
    _Check("tasks of others", _others, _Need.ROLE, _PROMOTE),
    _Check("guides", _guides, _Need.ROLE, _PROMOTE),
    _Check("webhooks", _webhooks, _Need.ROLE, _PROMOTE),
    _Check("assigning", _assign, _Need.ROLE, _PROMOTE),
)
