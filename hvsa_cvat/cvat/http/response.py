"""What an answer of the server means: its data, or an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any

import urllib3

from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Refused, Unauthorized, Untrusted
from hvsa_cvat.cvat.http.exchange import Failure
from hvsa_cvat.cvat.http.proxy import proxy_hint
from hvsa_cvat.errors import ServerError

Plain = Callable[[object], str]
"""Makes one short line, without our secrets, of what others say."""

_NEW_TOKEN = (
    "; create a new token in CVAT (your profile, security) and set CVAT_ACCESS_TOKEN; servers "
    "before 2.48 need user and password"
)


def check_status(
    response: urllib3.BaseHTTPResponse, name: str, *, by_token: bool, url: str, plain: Plain
) -> None:
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
            f"{name}: the server sends us on to {plain(goal)!r}; set the server "
            "address that needs no redirection",
            status,
        )
    content = response.read(2**16)
    answer = _try_json(content)
    said = plain(_words(content if answer is None else answer) or response.reason or "")
    if status in (407, 502, 503, 504):
        said += proxy_hint(url)
    if status == 429 or status >= 500:
        after = _seconds_to_wait(response.headers)
        raise Failure(
            f"answered {status}: {said}",
            status=status,
            untouched=status == 429 or (status == 503 and after is not None),
            after=after or 0.0,
        )
    raise _refusal(status, name, said, answer, by_token)


def _refusal(status: int, name: str, said: str, answer: Any, by_token: bool) -> ServerError:
    """What a status of 4xx means, other than 429."""
    if status == 401:
        return Unauthorized(f"{name}: the server does not let us in: {said}{_NEW_TOKEN * by_token}")
    if status == 403:
        return Forbidden(
            f"{name}: this account may not: {said}; `hvsa-agent doctor` shows its rights"
        )
    if status == 404:
        return NotFound(f"{name}: not found: {said}; check the number and the organisation")
    return Refused(f"{name}: refused ({status}): {said}", status, answer)


def failure_of(
    error: urllib3.exceptions.HTTPError, url: str, timeout: urllib3.Timeout, plain: Plain
) -> Exception:
    """What a broken exchange means."""
    if isinstance(error, urllib3.exceptions.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Untrusted(
                f"{url}: the server's certificate is not trusted "
                f"({plain(error)}); use the address that the certificate names, or give "
                "the file of its authority as ca"
            )
        if "WRONG_VERSION_NUMBER" in str(error):
            return Failure("no https there; write http:// or another port", lasting=True)
    if isinstance(error, urllib3.exceptions.ProxyError):
        said = f"{plain(error.args[0])}{proxy_hint(url)}"
        return Failure(f"no connection: {said}", untouched=True)
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else None
        return Failure(f"no connection: {plain(reason or error)}", untouched=True)
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
        limit = timeout.connect_timeout
        return Failure(f"no connection within {limit:g} s", untouched=True)
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return Failure(f"no answer within {timeout.read_timeout:g} s")
    return Failure(f"the connection broke: {plain(error.args[-1])}{proxy_hint(url)}")


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
