"""Lists of names in one text: comma separated, although a name may hold commas itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def split_names(value: Any) -> Any:
    """The parts of a comma separated text; what is no text is returned as it is."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def join_names(parts: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The `parts` with those put together again that are pieces of a `known` name with commas."""
    pieces = {name: _pieces(name) for name in sorted(known, key=len, reverse=True)}
    joined: list[str] = []
    rest = list(parts)
    while rest:
        found = next((n for n, p in pieces.items() if n == rest[0] or p == rest[: len(p)]), None)
        joined.append(rest[0] if found is None else found)
        del rest[: 1 if found is None or found == rest[0] else len(pieces[found])]
    return tuple(joined)


def _pieces(name: str) -> list[str]:
    return [piece.strip() for piece in name.split(",")]
