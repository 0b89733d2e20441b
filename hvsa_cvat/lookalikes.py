"""Names that look alike and are not the same: to say which other name was perhaps meant."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def find_twin(name: str, others: Iterable[str]) -> str | None:
    """The first of `others` that differs from `name` only in what the eye passes over.

    That is upper and lower case, blanks, `_` and `-`, invisible characters, and the forms in which
    Unicode writes one letter.
    """
    seen = _as_seen(name)
    return next((other for other in others if other != name and _as_seen(other) == seen), None)


def twin_hint(name: str, others: Iterable[str]) -> str:
    """What to add to a message that does not know `name`; empty without a twin."""
    twin = find_twin(name, others)
    if twin is None:
        return ""
    mine, theirs = spelled(name), spelled(twin)
    return f" ({mine} only looks like {theirs}: rename one of them)"


def spelled(name: str) -> str:
    """The name in quotes; characters that cannot be told apart by eye show their numbers."""
    plain = name.isprintable() and unicodedata.is_normalized("NFC", name)
    hidden = any(unicodedata.category(letter) == "Cf" for letter in name)
    return repr(name) if plain and not hidden else ascii(name)


def _as_seen(name: str) -> str:
    letters = unicodedata.normalize("NFKC", name).casefold()
    visible = (letter for letter in letters if unicodedata.category(letter) not in ("Cf", "Cc"))
    return "".join(letter for letter in visible if not letter.isspace() and letter not in "_-")
