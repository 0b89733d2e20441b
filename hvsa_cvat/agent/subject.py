"""What the work of this moment is about, for logs that programs read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_subject: ContextVar[Mapping[str, int | str]] = ContextVar("subject")


@contextmanager
def about(**known: int | str) -> Iterator[None]:
    """While the block runs, lines of the log are about this task, round or phase."""
    token = _subject.set({**subject(), **known})
    try:
        yield
    finally:
        _subject.reset(token)


def subject() -> Mapping[str, int | str]:
    """What the work is about, as far as it is known: `task`, `round` and `phase`."""
    return _subject.get({})
