"""What people see: results on stdout, progress and warnings on stderr."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from hvsa_cvat.ports import Progress

OUT = Console()
ERR = Console(stderr=True)

_LINE_SECONDS = 60.0
"""A log file gets a line about progress this often."""

_CONTROLS = {"Cc", "Zl", "Zp"}
"""Unicode categories: control characters, line and paragraph separators."""

_DIRECTIONS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reorder the text after them."""


def say(line: str) -> None:
    """Print one line of the result."""
    OUT.print(escape(printable(line)), soft_wrap=True, highlight=False)


def warn(line: str) -> None:
    """Print one line on stderr."""
    ERR.print(escape(printable(line)), soft_wrap=True, highlight=False)


def say_with_time(line: str) -> None:
    """Print one line that begins with the time of day."""
    say(f"{time.strftime('%H:%M:%S')} {line}")


def printable(text: str) -> str:
    """The text with escapes in place of what would move the cursor or begin a new line.

    Names of tasks, labels and files come from other people.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _CONTROLS or character in _DIRECTIONS
        else character
        for character in text
    )


@contextmanager
def progress_bars(log: Callable[[str], None] = warn) -> Iterator[Progress]:
    """Progress bars on a terminal, one for each step; elsewhere a line a minute by `log`."""
    if not ERR.is_terminal:
        yield progress_lines(time.monotonic, log)
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=ERR,
        transient=True,
    )
    shown: dict[str, Any] = {}

    def progress(step: str, done: int, total: int) -> None:
        if step not in shown:
            shown[step] = bars.add_task(step)
        bars.update(shown[step], completed=done, total=total)
        if done >= total:
            bars.remove_task(shown.pop(step))

    with bars:
        yield progress


def progress_lines(clock: Callable[[], float], log: Callable[[str], None]) -> Progress:
    """Progress for a log file: one line a minute. `clock` gives seconds."""
    last = clock()

    def progress(step: str, done: int, total: int) -> None:
        nonlocal last
        if done < total and clock() - last >= _LINE_SECONDS:
            last = clock()
            log(f"{step}: {100 * done // total} % ({done} of {total})")

    return progress
