"""What an answer of the server means: its data, or an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any

import urllib3

from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Refused, Unauthorized, Untrusted
from hvsa_cvat.cvat.http.exchange import Failure
from hvsa_cvat.cvat.http.limits import LARGEST_JSON
from hvsa_cvat.cvat.http.proxy import proxy_hint
from hvsa_cvat.errors import ServerError

_BLOCK = 2**16
"""Bytes of an answer that are read at once."""
_DEEPEST_WORDS = 10
"""Levels of an error body that are told."""

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


def read_blocks(response: urllib3.BaseHTTPResponse, most: int) -> Iterator[bytes]:
    """The body in blocks, inflated where it comes packed; `Failure` where it has more than `most`
    bytes."""
    announced = response.headers.get("Content-Length", "")
    taken = int(announced) if re.fullmatch("[0-9]{1,18}", announced) else 0
    if taken <= most:
        taken = 0
        # urllib3 inflates no more than is asked for
        while taken <= most and (block := response.read(_BLOCK)):
            taken += len(block)
            yield block
    if taken > most:
        raise Failure(f"an answer of more than {most / 2**20:.0f} MiB", lasting=True)


def read_headers(response: urllib3.BaseHTTPResponse) -> urllib3.HTTPHeaderDict:
    """Its headers; the body is read and dropped."""
    for _ in read_blocks(response, LARGEST_JSON):
        pass
    return response.headers


def read_json(response: urllib3.BaseHTTPResponse, most: int = LARGEST_JSON) -> Any:
    """The JSON of its body, None where that is empty."""
    content = b"".join(read_blocks(response, most))
    if not content:
        return None
    try:
        return json.loads(content)
    except RecursionError as error:
        raise Failure("an answer that nests too deeply", lasting=True) from error
    except ValueError as error:
        raise Failure("an answer that is not JSON") from error


def _try_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _words(answer: Any, deepest: int = _DEEPEST_WORDS) -> str:
    """What an error body says, whatever its form: JSON, a web page or text."""
    if deepest == 0:
        return "..."
    if isinstance(answer, dict):
        silent = ("detail", "non_field_errors")
        said = {key: _words(value, deepest - 1) for key, value in answer.items()}
        return "; ".join(v if key in silent else f"{key}: {v}" for key, v in said.items())
    if isinstance(answer, list):
        return ", ".join(_words(part, deepest - 1) for part in answer)
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
    except (ValueError, OverflowError):
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
