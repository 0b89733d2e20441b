"""What is sent to the server, how often it may be sent, and an attempt that failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from urllib.parse import urlencode

Json = dict[str, Any]
"""A JSON object, as the server has it."""


@dataclass(frozen=True)
class Request:
    """What is sent; `path` is relative to `/api/`."""

    method: str
    path: str
    body: bytes | None = field(default=None, repr=False)
    query: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False
    """Whether it is sent without login and organisation."""


class Policy(Enum):
    """What may be sent again."""

    READ = auto()
    """After every failure that may pass."""
    REPEATABLE = auto()
    """The same, but an answer 500 is final: it would come again, and its work may be heavy."""
    ONCE = auto()
    """Only after a failure in which the server surely did nothing."""


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


def encode(body: Any) -> bytes | None:
    """Compact JSON."""
    if body is None:
        return None
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def query_text(query: Mapping[str, object]) -> str:
    """The query of a URL, with its question mark; empty where there is none."""
    pairs = {name: _as_text(value) for name, value in query.items() if value is not None}
    return f"?{urlencode(pairs)}" if pairs else ""


def _as_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | dict | list | tuple) else str(value)
