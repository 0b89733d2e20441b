"""The frames of a task that are worth a look: those whose masks are most probably wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from hvsa_cvat.enrolled.doubtful import Doubt, Ranking, expected_wrong, frames_to_judge, wrong_given
from hvsa_cvat.enrolled.links import frame_link
from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.ports import Progress, silent


@dataclass(frozen=True)
class FrameToReview:
    """One frame. `wrong` is area times uncertainty: the share of its pixels that are expected to be
    wrong."""

    frame: int
    """Its position in the video."""
    name: str
    """`frame_` and CVAT's number of the frame."""
    wrong: float
    link: str
    """Opens the very frame in CVAT."""


@dataclass(frozen=True)
class ReviewList:
    """The frames of one task to look at first, the worst first."""

    task: int
    round: int | None
    """The round whose masks are judged; None where there are none yet."""
    frames: tuple[FrameToReview, ...]


def review_list(
    url: str,
    task: int,
    run: Run,
    most: int,
    progress: Progress = silent,
    leave_out: Callable[[int], bool] = lambda frame: False,
) -> ReviewList:
    """At most `most` frames, apart from each other. `url` is the address of the server; `leave_out`
    says of which frames nothing is to be told."""
    number = run.newest_shown
    if number is None:
        return ReviewList(task, None, ())
    judged = judge(run, number, frames_to_judge(len(run.names)), progress)
    ranking = Ranking((), [one for one in judged if not leave_out(one.frame)])
    return ReviewList(
        task,
        number,
        tuple(
            FrameToReview(
                one.frame, run.names[one.frame], one.wrong, frame_link(url, task, run, one.frame)
            )
            for one in ranking.worst(len(run.names), most)
        ),
    )


def judge(run: Run, number: int, frames: Sequence[int], progress: Progress = silent) -> list[Doubt]:
    """The frames of a round with the share of their pixels that are expected to be wrong; those
    whose masks cannot be read are left out."""
    wrong, found = wrong_given(run, number), []
    for done, frame in enumerate(frames, 1):
        with suppress(HvsaError):
            found.append(Doubt(frame, expected_wrong(run, number, frame, wrong)))
        progress("judging frames", done, len(frames))
    return found
