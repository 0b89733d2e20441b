"""What a pass did with one task."""

from __future__ import annotations

import errno
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hvsa_cvat.cvat.answers.unfinished_job import UnfinishedJob
from hvsa_cvat.errors import HvsaError


@dataclass(frozen=True)
class TaskReport:
    """What a pass did with one task, and what the task waits for."""

    task: int
    name: str
    moved: tuple[str, ...] = ()
    """Phases that were finished, such as `round 2: finetune`."""
    open_jobs: tuple[UnfinishedJob, ...] = ()
    """Jobs that are assigned and not finished."""
    done: bool = False
    """Whether all rounds are over."""
    next_command: str | None = None
    """How to go on where all rounds are over; None where nothing is advised or left."""
    enrolled: bool = False
    """Whether this pass enrolled it, as a new task of an enrolled project."""
    unpublished: bool = False
    """Whether masks wait for jobs that somebody is at work on."""
    paused: bool = False
    """Whether it was left out, because people paused it."""
    held_by: str | None = None
    """Another agent that works on the task."""
    error: str | None = None
    """Why the pass stopped, in one line."""
    unreachable: bool = False
    """Whether it stopped because the server did not answer."""
    computing: str | None = None
    """The phase that is computed for it now, such as `round 2: finetune`, or that waits for it."""
    queued: bool = False
    """Whether `computing` waits until a worker is free."""

    def after(self, before: TaskReport) -> TaskReport:
        """This report, with what an earlier part of the same pass has moved."""
        return replace(self, name=self.name or before.name, moved=(*before.moved, *self.moved))


def one_line(error: BaseException) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split())


def told(error: Exception, folder: Path) -> str:
    """One line about any error; the traceback of one that nobody foresaw goes into `folder`."""
    if isinstance(error, HvsaError):
        return one_line(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the disk of {folder}; free space"
    file = folder / "unexpected.txt"
    with suppress(OSError):
        text = "".join(traceback.format_exception(error))
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    name = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{name}; this should not happen: please report it, with {file}"
