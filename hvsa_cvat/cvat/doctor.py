"""What stands between this account and the work: the server's side of `hvsa-agent doctor`.

Rights are worked out from the roles that the server reports, by the rules that it applies itself;
nothing is created to try them.
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
"""Between the clocks: from here worth a word, from here a fault."""
_EXPIRES_SOON = timedelta(days=14)


@dataclass(frozen=True)
class Finding:
    """One line of an examination. Whatever is not ok says how to mend it."""

    name: str
    level: Level
    text: str
    mend: str | None = None


def _utc_now() -> datetime:
    return datetime.now(UTC)


def examine(client: CvatClient, now: Callable[[], datetime] = _utc_now) -> Iterator[Finding]:
    """Always the same findings in the same order; one that fails does not stop the others.

    `now` tells the time by our own clock, with a time zone.
    """
    patient = _Patient(client, now)
    for check in _CHECKS:
        try:
            missing = patient.lacks(check.needs)
            yield Finding(check.name, *(_unchecked(missing) if missing else check.run(patient)))
        except HvsaError as error:
            yield Finding(check.name, "failure", str(error), check.mend)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            text = f"{client.address.url} answers in an unknown form ({type(error).__name__})"
            yield Finding(check.name, "failure", text, "check that this is the address of CVAT")


class _Need(IntEnum):
    """What a check takes for granted; each includes the ones before."""

    NOTHING = 0
    SERVER = 1
    LOGIN = 2
    ROLE = 3


class _Patient:
    """The server and the account, each fact asked for once."""

    def __init__(self, client: CvatClient, now: Callable[[], datetime]) -> None:
        self.client = client
        self.url = client.address.url
        self.organization = client.address.organization
        self.now = now

    def lacks(self, need: _Need) -> str | None:
        if need >= _Need.SERVER and self.silence:
            return "no usable answer from the server"
        if need >= _Need.LOGIN and self.stranger:
            return "no login"
        if need >= _Need.ROLE and self.outside:
            return f"no role in organisation {self.organization}"
        return None

    @cached_property
    def silence(self) -> HvsaError | None:
        """Why the server cannot be asked anything."""
        return _error_of(self.client.version)

    @cached_property
    def stranger(self) -> HvsaError | None:
        """Why the server does not let us in."""
        return _error_of(self.client.me)

    @property
    def version(self) -> tuple[int, int]:
        return self.client.version()

    @property
    def name(self) -> str:
        return str(self.client.me()["username"])

    @property
    def privilege(self) -> str:
        """On the whole server: admin, user, worker or none; old servers also have business."""
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
        """In the organisation: owner, maintainer, supervisor, worker; None for those outside."""
        account = self.client.me()
        for row in self.client.rows("memberships", user=self.name):
            if row["user"]["id"] == account["id"] and row.get("is_active", True):
                return str(row["role"])
        return None

    @cached_property
    def outside(self) -> HvsaError | None:
        """Why the organisation is not open to us."""
        if not self.organization:
            return None
        error = _error_of(lambda: self.role)
        if error is None and self.role is None and not self.admin:
            return HvsaError(f"{self.name} is no member of organisation {self.organization}")
        return error

    @property
    def trusted(self) -> bool:
        """With what others own; in the personal space only administrators are."""
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
    return "warning", f"not checked: {reason}", "mend the findings above first"


def _server(patient: _Patient) -> _Result:
    if patient.silence:
        raise patient.silence
    major, minor = patient.version
    return "ok", f"{patient.url} answers: CVAT {major}.{minor}"


def _encryption(patient: _Patient) -> _Result:
    address = urlsplit(patient.url)
    if isinstance(patient.silence, Untrusted):
        raise patient.silence
    if address.scheme == "http":
        if address.hostname in ("localhost", "127.0.0.1", "::1"):
            return "ok", "not encrypted, but it stays on this machine"
        return (
            "warning",
            "not encrypted: whoever sits in between can read the login and the images",
            "serve CVAT by https and write https:// in the server address",
        )
    if patient.silence:
        return _unchecked("no connection")
    ca = patient.client.address.ca
    trust = f"by {ca}" if ca else "by the system's authorities"
    return "ok", f"encrypted, the certificate is vouched for {trust}"


def _version(patient: _Patient) -> _Result:
    found, oldest, newest = (f"{a}.{b}" for a, b in (patient.version, OLDEST, NEWEST))
    if patient.version < OLDEST:
        return "failure", f"CVAT {found} is older than {oldest}", "upgrade CVAT"
    if patient.version > NEWEST:
        return (
            "warning",
            f"CVAT {found} is newer than {newest}, the last one known here",
            "upgrade hvsa-cvat, or watch the first tasks closely",
        )
    return "ok", f"CVAT {found} lies within {oldest} to {newest}"


def _sdk(patient: _Patient) -> _Result:
    numbers = SDK_VERSION.split(".")
    major, minor = int(numbers[0]), int(numbers[1])
    found = f"{patient.version[0]}.{patient.version[1]}"
    if patient.version > (major, minor + 1):
        return (
            "warning",
            f"cvat-sdk {SDK_VERSION} is older than the server {found}",
            "pip install --upgrade cvat-sdk",
        )
    if patient.version < (major, minor):
        return "ok", f"cvat-sdk {SDK_VERSION}, newer than the server; only its transport is used"
    return "ok", f"cvat-sdk {SDK_VERSION}, made for servers {major}.{minor} and {major}.{minor + 1}"


def _clock(patient: _Patient) -> _Result:
    theirs = patient.client.server_time()
    if theirs is None:
        return (
            "warning",
            "the server does not tell its time",
            "compare the clocks of the server and of this machine by hand",
        )
    ahead = patient.now() - theirs
    # the server tells whole seconds, and its answer takes a moment
    if abs(ahead) <= _DRIFT:
        return "ok", f"the clocks differ by less than {_DRIFT.total_seconds():.0f} s"
    where = "ahead of" if ahead > timedelta(0) else "behind"
    return (
        "failure" if abs(ahead) > _WRONG else "warning",
        f"this machine's clock is {abs(ahead).total_seconds():.0f} s {where} the server's",
        "set both clocks by NTP; jobs in use and tokens are judged by them",
    )


def _login(patient: _Patient) -> _Result:
    if patient.stranger:
        raise patient.stranger
    way = "an access token" if patient.client.by_token else "user name and password"
    return "ok", f"logged in as {patient.name} ({patient.privilege} on this server) by {way}"


def _token(patient: _Patient) -> _Result:
    if not patient.client.by_token:
        return "ok", "none in use"
    try:
        token = patient.client.get("auth/access_tokens/self")
    except (NotFound, Forbidden):
        return (
            "warning",
            "the server does not say what this token may",
            "see in CVAT (your profile, security) that it may write and when it expires",
        )
    mend = "create a token in CVAT (your profile, security) and set CVAT_ACCESS_TOKEN"
    if token["read_only"]:
        return "failure", "the token may only read", f"{mend}; without the mark 'read only'"
    if token["expiry_date"] is None:
        return "ok", "may write, does not expire"
    expiry = datetime.fromisoformat(token["expiry_date"])
    day = f"{expiry:%Y-%m-%d}"
    if expiry - patient.now() < _EXPIRES_SOON:
        return "warning", f"may write, but expires on {day}", f"{mend} before that day"
    return "ok", f"may write, expires on {day}"


def _organization(patient: _Patient) -> _Result:
    slug = patient.organization
    if not slug:
        return "ok", "none: tasks and projects of the personal space"
    if patient.outside:
        raise patient.outside
    return "ok", f"{slug}, as {patient.role or 'administrator of the server'}"


def _create(patient: _Patient) -> _Result:
    where = patient.organization
    if not patient.user:
        who = f"a {patient.privilege} of the server"
        return "failure", f"{who} may not create projects and tasks", _MAKE_USER
    if where and not patient.trusted and patient.role != "supervisor":
        who = f"a {patient.role} of {where}"
        return "failure", f"{who} may not create projects and tasks", _PROMOTE
    return "ok", "may create projects and tasks"


def _others(patient: _Patient) -> _Result:
    if patient.trusted:
        return "ok", "may read and write the tasks of others"
    return (
        "warning",
        "may work only in tasks and projects that it owns or is assigned to",
        _PROMOTE if patient.organization else "assign the tasks to this account",
    )


def _guides(patient: _Patient) -> _Result:
    if patient.user:
        return "ok", "may write guides" + ("" if patient.trusted else " for what it owns")
    return "failure", "may not write guides: nobody would tell annotators what to do", _MAKE_USER


def _webhooks(patient: _Patient) -> _Result:
    if patient.user or patient.organization:
        return "ok", "may install webhooks" + ("" if patient.trusted else " for projects it owns")
    text = "may not install webhooks; the agent will ask for news at intervals"
    return "warning", text, _MAKE_USER


def _assign(patient: _Patient) -> _Result:
    if patient.admin or patient.organization:
        return "ok", "may give jobs to others"
    return (
        "warning",
        "in the personal space jobs can be given to this account alone",
        "work in an organisation of which the annotators are members",
    )


_MAKE_USER = "let an administrator of CVAT put the account into the group user"
_PROMOTE = "let an owner of the organisation make the account a maintainer"
_LOGIN = "set CVAT_ACCESS_TOKEN to a valid token, or check user name and password"


@dataclass(frozen=True)
class _Check:
    name: str
    run: Callable[[_Patient], _Result]
    needs: _Need
    mend: str
    """Of an error that the check ends in."""


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
