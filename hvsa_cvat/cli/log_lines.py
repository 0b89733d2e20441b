"""The log of commands that run for long: lines for people, or JSON for programs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from hvsa_cvat.agent.subject import subject
from hvsa_cvat.cli.console import progress_bars, progress_lines, say, say_with_time
from hvsa_cvat.ports import Progress

if TYPE_CHECKING:
    from hvsa_cvat.agent.settings import LogFormat

log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="json: one JSON object a line, for programs. Default: text.",
)


@dataclass(frozen=True)
class LogLines:
    """Writes lines to stdout."""

    form: LogFormat = "text"
    timed: bool = False
    """Whether lines for people begin with the time of day."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""

    def info(self, line: str) -> None:
        self._write("info", line)

    def warning(self, line: str) -> None:
        self._write("warning", line)

    def error(self, line: str) -> None:
        self._write("error", line)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Bars on a terminal; elsewhere, and for programs, a line a minute."""
        if self.form == "json":
            yield progress_lines(time.monotonic, self.info)
        else:
            with progress_bars(self.info) as bars:
                yield bars

    def _write(self, level: str, line: str) -> None:
        if self.form == "json":
            click.echo(json_line(self.clock(), level, line))
        else:
            (say_with_time if self.timed else say)(line)


@contextmanager
def warnings_to(tell: Callable[[str], None]) -> Iterator[None]:
    """Give warnings of parts that know of no command, such as the database, to `tell`."""

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(record.getMessage())

    loggers = [logging.getLogger(f"hvsa_cvat.{part}") for part in ("database", "objects")]
    handler = Told(logging.WARNING)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def json_line(now: float, level: str, message: str) -> str:
    """One line of ASCII: time in UTC, level, message, and what the work is about where that is
    known. `now`: seconds since 1970."""
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    text = json.dumps({"time": at, "level": level, "message": message, **subject()})
    return text.replace("\x7f", "\\u007f")  # the one control character that JSON leaves as it is
