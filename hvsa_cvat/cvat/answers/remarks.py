"""What is told about the reading of a job: what was left out or decided, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Ignored:
    """Something in a job that says nothing about the pixels that were asked for."""

    what: str
    """Such as `polygon 3 on frame 0`."""
    why: str


Remark = Ignored | str
"""Something that is ignored, or a whole sentence about something else."""

TakeRemark = Callable[[Remark], object]


def remark_lines(remarks: Iterable[Remark]) -> Iterator[str]:
    """One line per remark, but a single line for everything that is ignored for the same reason."""
    alike: dict[str, list[str]] = {}
    for remark in remarks:
        if isinstance(remark, Ignored):
            alike.setdefault(remark.why, []).append(remark.what)
        else:
            alike.setdefault(remark, [])
    for reason, things in alike.items():
        if not things:
            yield reason
        elif len(things) == 1:
            yield f"{things[0]} is ignored: {reason}"
        else:
            yield f"{things[0]} is ignored: {reason}; so are {len(things) - 1} more"
