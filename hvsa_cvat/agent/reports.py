"""What a pass did with one task."""

from __future__ import annotations

from dataclasses import dataclass

from hvsa_cvat.cvat.answers.unfinished import UnfinishedJob


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
    held_by: str | None = None
    """Another agent that works on the task."""
    error: str | None = None
    """Why the pass stopped, in one line."""
    unreachable: bool = False
    """Whether it stopped because the server did not answer."""


def one_line(error: BaseException) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split())
