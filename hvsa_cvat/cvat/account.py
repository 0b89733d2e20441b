"""What the server says of itself and of the account: version, clock, roles, and what they allow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import IntEnum
from functools import cached_property

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.errors import HvsaError


class Need(IntEnum):
    """What must work before a check makes sense; each includes the ones before."""

    NOTHING = 0
    SERVER = 1
    LOGIN = 2
    ROLE = 3


class AccountProbe:
    """The server and the account, each fact asked for once."""

    def __init__(self, client: CvatClient, now: Callable[[], datetime]) -> None:
        self.client = client
        self.url = client.address.url
        self.organization = client.address.organization
        self.now = now

    def lacks(self, need: Need) -> str | None:
        """What of `need` is missing, in words."""
        if need >= Need.SERVER and self.unreachable:
            return "no usable answer from the server"
        if need >= Need.LOGIN and self.no_login:
            return "no login"
        if need >= Need.ROLE and self.no_member:
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
