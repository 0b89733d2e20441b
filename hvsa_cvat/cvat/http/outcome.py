"""What came of an exchange with the server, for counting."""

from __future__ import annotations

from enum import StrEnum

from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Refused, Unauthorized, Untrusted
from hvsa_cvat.cvat.http.exchange import Failure


class Outcome(StrEnum):
    """What came of one exchange. The names are those of `/metrics`."""

    ANSWERED = "2xx"
    REDIRECTED = "3xx"
    REFUSED = "4xx"
    BROKEN = "5xx"
    UNREACHABLE = "unreachable"
    """No usable answer: no connection, none in time, or a web page in place of data."""
    RETRIED = "retried"
    """Counted beside the one above, for each time that an exchange is repeated."""


def outcome_of(error: Exception) -> Outcome:
    """What an exchange was that ended in this error. An error of our own, such as a full disk,
    does not take the answer back."""
    status = getattr(error, "status", None)
    if isinstance(error, Unauthorized | Forbidden | NotFound):
        return Outcome.REFUSED
    if isinstance(error, Refused | Failure) and status is not None:
        found = {3: Outcome.REDIRECTED, 4: Outcome.REFUSED, 5: Outcome.BROKEN}
        return found.get(status // 100, Outcome.UNREACHABLE)
    if isinstance(error, Failure | Untrusted):
        return Outcome.UNREACHABLE
    return Outcome.ANSWERED
