"""Who may see and do what: a token, a signed cookie, and a second token in every form.

On loopback nobody is asked for a token, unless one is set. A page of another site that the browser
shows must not reach the dashboard either: the cookie is never sent with its requests, forms need a
value that only our pages hold, and without a token only names of this machine are answered.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

COOKIE = "hvsa_dashboard"
FORM_FIELD = "csrf"

_LASTS = 12 * 3600.0
"""Seconds for which a login holds."""
_ATTEMPTS, _PERIOD = 10, 60.0
"""Wrong tokens from one address within so many seconds; more are not looked at."""
_ADDRESSES = 1000
"""Addresses whose wrong tokens are counted."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; "
    "script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # with no-referrer browsers would hide the origin of our own forms, too
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""Of every answer; a picture may be kept for a while."""


@dataclass(frozen=True)
class Visitor:
    """Who asks."""

    cookie: str | None
    """A cookie of ours that still holds."""
    admitted: bool
    """Whether the pages may be shown."""


class Guard:
    """Checks requests. `token` None: everybody who reaches the address is let in."""

    def __init__(self, token: str | None, prefix: str, clock: Callable[[], float]) -> None:
        """`prefix` is the path below which the pages are; `clock` gives seconds since 1970."""
        self._token = token
        self._prefix = prefix
        self._clock = clock
        # cookies outlive a restart where there is a token to sign them with
        self._key = (token or secrets.token_hex(32)).encode()
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def asks(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    def visitor(self, request: Request) -> Visitor:
        cookie = request.cookies.get(COOKIE, "")
        holds = self._is_ours(cookie)
        return Visitor(cookie if holds else None, holds or not self.asks)

    def is_own_name(self, request: Request) -> bool:
        """Whether the browser asked for a name of this machine. Without a token, a page of another
        site whose name leads to this machine could read everything else."""
        return self.asks or is_loopback(_host(request.headers.get("host", "")))

    # -- the token

    def is_exhausted(self, sender: str) -> bool:
        """Whether an address has sent too many wrong tokens lately."""
        times = self._wrong.get(sender, deque())
        while times and self._clock() - times[0] > _PERIOD:
            times.popleft()
        return len(times) >= _ATTEMPTS

    def is_token(self, given: str, sender: str) -> bool:
        """Compares in a time that tells nothing of the token, and counts wrong ones."""
        if self._token is not None and hmac.compare_digest(given.encode(), self._token.encode()):
            self._wrong.pop(sender, None)
            return True
        self._wrong.setdefault(sender, deque(maxlen=_ATTEMPTS)).append(self._clock())
        self._wrong.move_to_end(sender)
        while len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)
        return False

    # -- the cookie

    def give_cookie(self, response: Response, request: Request) -> str:
        """Set a new cookie, and return it."""
        name = f"{self._clock():.0f}.{secrets.token_hex(16)}"
        cookie = f"{name}.{self._signed('cookie', name)}"
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=int(_LASTS),
            path=f"{self._prefix}/",
            httponly=True,
            samesite="strict",
            secure=_is_encrypted(request),
        )
        return cookie

    def take_cookie(self, response: Response) -> None:
        """Remove the cookie from the browser."""
        response.delete_cookie(COOKIE, path=f"{self._prefix}/", httponly=True, samesite="strict")

    def _is_ours(self, cookie: str) -> bool:
        name, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(self._signed("cookie", name).encode(), signature.encode()):
            return False
        issued = name.partition(".")[0]
        return issued.isdecimal() and 0 <= self._clock() - int(issued) + 1 <= _LASTS

    # -- forms

    def form_value(self, cookie: str) -> str:
        """What a form of a page must hold, for the browser that has this cookie."""
        return self._signed("form", cookie)

    def is_own_form(self, request: Request, value: str) -> bool:
        """Whether a form comes from one of our pages in this very browser."""
        cookie = self.visitor(request).cookie
        elsewhere = request.headers.get("sec-fetch-site", "same-origin") != "same-origin"
        if cookie is None or elsewhere:
            return False
        return hmac.compare_digest(self.form_value(cookie).encode(), value.encode())

    def _signed(self, purpose: str, text: str) -> str:
        message = f"hvsa dashboard {purpose} {text}".encode()
        return hmac.new(self._key, message, "sha256").hexdigest()


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def sender_of(request: Request) -> str:
    """The address of the browser, or of the proxy before it."""
    return request.client.host if request.client is not None else "unknown"


def _host(header: str) -> str:
    """`[::1]:8088` -> `[::1]`, `localhost:8088` -> `localhost`."""
    name, colon, port = header.rpartition(":")
    return name if colon and port.isdecimal() else header


def _is_encrypted(request: Request) -> bool:
    """A proxy says how the browser reached it; a false claim costs only the cookie."""
    claimed = request.headers.get("x-forwarded-proto", "")
    return "https" in (request.url.scheme, claimed.partition(",")[0].strip())
