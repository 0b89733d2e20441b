"""The ways in which a CVAT server can fail us.

* ServerError            the base, from `hvsa_cvat.errors`
  x NotFound             404: it does not exist, or not for this account and organisation
  x Forbidden            403: this account may not
  x Unauthorized         401: the server does not know us, or no longer
  x Refused              any other answer that sending again would not change
  x Uncertain            a write was sent once, and may or may not have been carried out
  x Unreachable          no usable answer, however often it was right to ask
    + Untrusted          the server's certificate is not one that we trust

After the first four nothing was carried out.
"""

from __future__ import annotations

from typing import Any

from hvsa_cvat.errors import ServerError


class NotFound(ServerError):
    """404: it does not exist, or not for this account and organisation."""


class Forbidden(ServerError):
    """403: this account may not."""


class Unauthorized(ServerError):
    """401: the server does not know us, or no longer."""


class Refused(ServerError):
    """Any other answer that sending again would not change. Nothing was carried out."""

    def __init__(self, message: str, status: int | None = None, answer: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer
        """The body, parsed, where it is JSON."""


class Unreachable(ServerError):
    """No usable answer, however often it was right to ask."""


class Untrusted(Unreachable):
    """The server's certificate is not one that we trust."""


class Uncertain(ServerError):
    """A write was sent once, and may or may not have been carried out."""
