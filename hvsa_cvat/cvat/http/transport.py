"""One exchange with a CVAT server: who we are, what may be sent again, what an answer means.

cvat-sdk supplies the configuration, the connections and the headers that prove who we are. Bodies
are plain JSON on both sides: the SDK's models cost many times the transfer of a large annotation,
and they refuse fields and values that servers older or newer than the SDK use.
"""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from html import unescape
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3
from cvat_sdk.api_client import ApiClient, Configuration
from cvat_sdk.core.helpers import make_request_headers
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from hvsa_cvat import __version__
from hvsa_cvat.cvat.http.access import (
    Address,
    Credentials,
    Forbidden,
    NotFound,
    Refused,
    Unauthorized,
    Uncertain,
    Unreachable,
    Untrusted,
)
from hvsa_cvat.cvat.http.proxy import proxy_hint, use_proxy

_ATTEMPTS = 6
_LONGEST_BACKOFF = 30.0
"""Seconds; the backoff doubles from 1 s to this."""
_LONGEST_OBEYED = 60.0
"""Seconds of a server's Retry-After that are waited for at most."""
_LONGEST_DETAIL = 300
"""Characters of a server's own words in a message."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Request:
    """What is sent; `path` is relative to `/api/`."""

    method: str
    path: str
    body: bytes | None = field(default=None, repr=False)
    query: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False
    """Without saying who we are, and of no organisation."""


class Policy(Enum):
    """What may be sent again."""

    READ = auto()
    """Anything that may pass."""
    REPEATABLE = auto()
    """The same, but an answer 500 is final: it repeats itself and its work may be heavy."""
    ONCE = auto()
    """Only what surely did not reach the server's hands."""


class Failure(Exception):
    """An attempt that brought no usable answer."""

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        untouched: bool = False,
        lasting: bool = False,
        after: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.untouched = untouched
        """Whether it is certain that the server did nothing."""
        self.lasting = lasting
        """Whether another attempt would end the same way."""
        self.after = after
        """Seconds that the server asks us to wait."""

    def may_repeat(self, policy: Policy) -> bool:
        if policy is Policy.ONCE:
            return self.untouched
        return not self.lasting and (policy is Policy.READ or self.status != 500)


class Transport:
    """Sends requests for one thread, logs in when needed, and repeats what may be repeated.

    `timeouts`: seconds to connect, and to wait for the next byte.
    """

    def __init__(
        self,
        address: Address,
        credentials: Credentials,
        sleep: Callable[[float], None],
        rng: random.Random,
        log: Callable[[str], None],
        timeouts: tuple[float, float],
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._sleep = sleep
        self._rng = rng
        self._log = log
        self._timeout = urllib3.Timeout(connect=timeouts[0], read=timeouts[1])
        configuration = Configuration(
            host=address.url,
            access_token=credentials.token or None,
            ssl_ca_cert=None if address.ca is None else str(address.ca),
        )
        use_proxy(configuration, address.url)
        self._api = ApiClient(configuration)
        self._api.user_agent = f"hvsa-cvat/{__version__} {self._api.user_agent}"
        # the empty name is the personal space; without the header lists mix all organisations
        self._api.default_headers["X-Organization"] = address.organization or ""

    @property
    def by_token(self) -> bool:
        return bool(self._credentials.token)

    def close(self) -> None:
        self._api.rest_client.pool_manager.clear()
        self._api.close()

    def login(self) -> None:
        """Open a session with user and password; a token needs none. Done by itself if needed."""
        if self.by_token:
            return
        content = {"username": self._credentials.user, "password": self._credentials.password}
        request = Request("POST", "auth/login", encode(content), anonymous=True)
        try:
            headers = self.call(Policy.READ, request, read_headers)
        except (Refused, Unauthorized, Forbidden) as error:
            if isinstance(error, Refused) and error.status != 400:
                raise
            raise Unauthorized(f"{error}; check the user name and password") from error
        self._api.cookies.clear()
        for cookie in headers.getlist("Set-Cookie"):
            self._api.cookies.load(cookie)
        if not {"sessionid", "csrftoken"} <= self._api.cookies.keys():
            self._api.cookies.clear()
            raise Unauthorized(
                f"{self.address.url} opens no session for a user name and password; "
                "log in with an access token: set CVAT_ACCESS_TOKEN"
            )
        self._api.configuration.api_key["csrfHeaderAuth"] = self._api.cookies["csrftoken"].value

    def call(
        self, policy: Policy, request: Request, take: Callable[[urllib3.BaseHTTPResponse], _Answer]
    ) -> _Answer:
        """Send a request as often as `policy` allows and return what `take` makes of the answer."""
        by_session = not request.anonymous and not self.by_token
        if by_session and not self._api.cookies:
            self.login()
        try:
            return self._repeated(policy, request, take)
        except Unauthorized:
            if not by_session:
                raise
        # sessions expire; what was refused for that reason was not carried out
        self.login()
        return self._repeated(policy, request, take)

    def _repeated(
        self, policy: Policy, request: Request, take: Callable[[urllib3.BaseHTTPResponse], _Answer]
    ) -> _Answer:
        name = self.name(request.method, request.path)

        def wait(state: RetryCallState) -> float:
            backoff = min(2.0 ** (state.attempt_number - 1), _LONGEST_BACKOFF)
            obeyed = min(_failure(state).after, _LONGEST_OBEYED)
            return obeyed + self._rng.uniform(0, backoff)

        def tell(state: RetryCallState) -> None:
            self._log(
                f"{name}: {_failure(state)}; again in {state.upcoming_sleep:.1f} s "
                f"({state.attempt_number} of {_ATTEMPTS})"
            )

        def again(error: BaseException) -> bool:
            return isinstance(error, Failure) and error.may_repeat(policy)

        retrying = Retrying(
            sleep=self._sleep,
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait,
            retry=retry_if_exception(again),
            before_sleep=tell,
            reraise=True,
        )
        try:
            return retrying(lambda: self._exchange(request, take))
        except Failure as failure:
            if policy is Policy.ONCE and not failure.untouched:
                raise Uncertain(
                    f"{name}: {failure}; it may have been carried out or not"
                ) from failure
            raise Unreachable(
                f"{name}: {failure}; check that the server runs and try again"
            ) from failure

    def _exchange(
        self, request: Request, take: Callable[[urllib3.BaseHTTPResponse], _Answer]
    ) -> _Answer:
        """One attempt."""
        headers = {"User-Agent": self._api.user_agent}
        if not request.anonymous:
            headers = make_request_headers(self._api)
        if request.body is not None:
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(request.body))
        # The SDK's own `request` would repeat by its own rules, follow redirects, and write a body
        # in one piece, which must then fit into the timeout for connecting.
        try:
            response: urllib3.BaseHTTPResponse = self._api.rest_client.pool_manager.request(
                request.method,
                f"{self.address.url}/api/{request.path}{_query(request.query)}",
                body=None if request.body is None else io.BytesIO(request.body),
                headers={**headers, **request.headers},
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                self._check(response, self.name(request.method, request.path))
                return take(response)
            finally:
                # returns nothing to the pool that was not read to its end
                response.close()
        except urllib3.exceptions.HTTPError as error:
            raise self._failure_of(error) from error

    def _check(self, response: urllib3.BaseHTTPResponse, name: str) -> None:
        """Raise what a status, or a web page in place of data, means."""
        status = response.status
        page = "text/html" in response.headers.get("Content-Type", "")
        if 200 <= status < 300 and not page:
            return
        if 200 <= status < 300:
            raise Failure("a web page in place of data; is that a CVAT server?", lasting=True)
        if 300 <= status < 400:
            goal = response.headers.get("Location", "").partition("?")[0]
            raise Refused(
                f"{name}: the server sends us on to {self.plain(goal)!r}; set the server "
                "address that needs no redirection",
                status,
            )
        content = response.read(2**16)
        answer = _try_json(content)
        said = self.plain(_words(content if answer is None else answer) or response.reason or "")
        if status in (407, 502, 503, 504):
            said += proxy_hint(self.address.url)
        if status == 429 or status >= 500:
            after = _seconds_to_wait(response.headers)
            raise Failure(
                f"answered {status}: {said}",
                status=status,
                untouched=status == 429 or (status == 503 and after is not None),
                after=after or 0.0,
            )
        if status == 401:
            mend = ""
            if self.by_token:
                mend = (
                    "; create a new token in CVAT (your profile, security) and set "
                    "CVAT_ACCESS_TOKEN; servers before 2.48 need user and password"
                )
            raise Unauthorized(f"{name}: the server does not let us in: {said}{mend}")
        if status == 403:
            raise Forbidden(
                f"{name}: this account may not: {said}; `hvsa-agent doctor` shows its rights"
            )
        if status == 404:
            raise NotFound(f"{name}: not found: {said}; check the number and the organisation")
        raise Refused(f"{name}: refused ({status}): {said}", status, answer)

    def _failure_of(self, error: urllib3.exceptions.HTTPError) -> Exception:
        """What a broken exchange means."""
        if isinstance(error, urllib3.exceptions.SSLError):
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                return Untrusted(
                    f"{self.address.url}: the server's certificate is not trusted "
                    f"({self.plain(error)}); use the address that the certificate names, or give "
                    "the file of its authority as ca"
                )
            if "WRONG_VERSION_NUMBER" in str(error):
                return Failure("no https there; write http:// or another port", lasting=True)
        if isinstance(error, urllib3.exceptions.ProxyError):
            said = proxy_hint(self.address.url)
            return Failure(f"no connection: {self.plain(error.args[0])}{said}", untouched=True)
        if isinstance(error, urllib3.exceptions.NewConnectionError):
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else None
            return Failure(f"no connection: {self.plain(reason or error)}", untouched=True)
        if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
            limit = self._timeout.connect_timeout
            return Failure(f"no connection within {limit:g} s", untouched=True)
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            return Failure(f"no answer within {self._timeout.read_timeout:g} s")
        said = f"{self.plain(error.args[-1])}{proxy_hint(self.address.url)}"
        return Failure(f"the connection broke: {said}")

    def name(self, method: str, path: str) -> str:
        """How a request is called in messages: without its query."""
        return f"{self.address.url}: {method} /api/{path}"

    def plain(self, text: object) -> str:
        """One short line of what others say, without our secrets should they be echoed."""
        line = str(text)
        cookies = [morsel.value for morsel in self._api.cookies.values()]
        for secret in (self._credentials.token, self._credentials.password, *cookies):
            if secret:
                line = line.replace(secret, "***")
        line = " ".join(line.split()).rstrip(".")
        return line if len(line) <= _LONGEST_DETAIL else f"{line[: _LONGEST_DETAIL - 3]}..."


def _failure(state: RetryCallState) -> Failure:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Failure)
    return error


def read_headers(response: urllib3.BaseHTTPResponse) -> urllib3.HTTPHeaderDict:
    """Its headers; the body is read and dropped."""
    response.read()
    return response.headers


def read_json(response: urllib3.BaseHTTPResponse) -> Any:
    """The JSON of its body, None where that is empty."""
    content = response.read()
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError as error:
        raise Failure("an answer that is not JSON") from error


def encode(body: Any) -> bytes | None:
    """Compact JSON."""
    if body is None:
        return None
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def _query(query: Mapping[str, object]) -> str:
    pairs = {name: _as_text(value) for name, value in query.items() if value is not None}
    return f"?{urlencode(pairs)}" if pairs else ""


def _as_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | dict | list | tuple) else str(value)


def _try_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _words(answer: Any) -> str:
    """What an error body says, whatever its form: JSON, a web page or text."""
    if isinstance(answer, dict):
        silent = ("detail", "non_field_errors")
        parts = (_words(v) if k in silent else f"{k}: {_words(v)}" for k, v in answer.items())
        return "; ".join(parts)
    if isinstance(answer, list):
        return ", ".join(_words(part) for part in answer)
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
    if "<html" not in text.lower():
        return text
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
    body = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    return unescape(title[1] if title else body).strip()


def date_of(text: str | None) -> datetime | None:
    """The date of a header, or None where there is none or it cannot be read."""
    try:
        return None if text is None else parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def _seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """Retry-After, as a number or as a date by the server's own clock; None where it is absent."""
    text = headers.get("Retry-After")
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    until, now = date_of(text), date_of(headers.get("Date"))
    return 0.0 if until is None or now is None else max(0.0, (until - now).total_seconds())
