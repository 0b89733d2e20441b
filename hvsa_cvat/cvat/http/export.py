"""Exports: files that the server makes in the background, such as its log of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from hvsa_cvat.cvat.http.errors import Refused, Unreachable

_PATIENCE = 60.0
"""Seconds that the server may take to make a file."""


@dataclass(frozen=True)
class Export:
    """One export; see `CvatClient.export`."""

    send: Callable[..., Any]
    get: Callable[..., Any]
    download: Callable[..., Any]
    sleep: Callable[[float], None]

    def run(self, path: str, query: Mapping[str, object], target: Path) -> None:
        answer = self.send("POST", path, None, **query)
        if not isinstance(answer, dict) or "rq_id" not in answer:
            raise Refused(f"POST /api/{path}: the server names no request to wait for")
        self._download(path, self._result(path, str(answer["rq_id"])), target)

    def _result(self, path: str, request: str) -> str:
        """Where the file lies, once it is made."""
        waited = 0.0
        for pause in chain((0.25, 0.5, 1.0, 2.0), repeat(5.0)):
            state = self.get(f"requests/{quote(request, safe='')}")
            if state.get("status") == "finished" and state.get("result_url"):
                return str(state["result_url"])
            if state.get("status") == "failed":
                raise Refused(f"POST /api/{path}: the server cannot make the file")
            if waited >= _PATIENCE:
                break
            self.sleep(pause)
            waited += pause
        raise Unreachable(
            f"POST /api/{path}: the server has not made the file within {_PATIENCE:.0f} s"
        )

    def _download(self, path: str, url: str, target: Path) -> None:
        """The address names our own server; only what it says of the file is used."""
        parts = urlsplit(url)
        _, found, below = parts.path.partition("/api/")
        if not found:
            raise Refused(f"POST /api/{path}: the server names no file that can be read")
        self.download(below, target, **dict(parse_qsl(parts.query)))
