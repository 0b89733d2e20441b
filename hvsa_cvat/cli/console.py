"""What people see: results on stdout, progress and errors on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from hvsa_cvat.ports import Progress

OUT = Console()
ERR = Console(stderr=True)


@contextmanager
def bars() -> Iterator[Progress]:
    """Progress bars on stderr, one a step; a step that is done makes room for the next."""
    shown_bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=ERR,
        transient=True,
        disable=not ERR.is_terminal,  # bars in a log file are noise
    )
    shown: dict[str, Any] = {}

    def progress(step: str, done: int, total: int) -> None:
        if step not in shown:
            shown[step] = shown_bars.add_task(step)
        shown_bars.update(shown[step], completed=done, total=total)
        if done >= total:
            shown_bars.remove_task(shown.pop(step))

    with shown_bars:
        yield progress
