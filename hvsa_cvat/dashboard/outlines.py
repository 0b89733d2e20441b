"""What people were asked about in one frame, as outlines to draw over it."""

from __future__ import annotations

from dataclasses import dataclass

from hvsa_cvat.dashboard import pictures
from hvsa_cvat.dashboard.runs import Run


@dataclass(frozen=True)
class Outline:
    """A sample that was asked for in a round."""

    round: int
    points: str
    """In the form of SVG, in pixels of the frame."""


@dataclass(frozen=True)
class Outlines:
    """Those of one frame."""

    width: int
    height: int
    """The frame's own size, in pixels."""
    drawn: tuple[Outline, ...]
    whole: tuple[int, ...]
    """The rounds that asked for the whole frame."""


def outlines_in(run: Run, frame: int) -> Outlines | None:
    """None where the frame's size is not known, because there are no masks."""
    own = pictures.frame_size(run)
    if own is None:
        return None
    drawn, whole = list[Outline](), list[int]()
    for one in run.rounds:
        request = run.request_of(one.number)
        for region in () if request is None else request.regions:
            if region.sample.frame == frame and region.points:
                pairs = zip(region.points[::2], region.points[1::2], strict=False)
                drawn.append(Outline(one.number, " ".join(f"{x:g},{y:g}" for x, y in pairs)))
            elif region.sample.frame == frame:
                whole.append(one.number)
    return Outlines(own[1], own[0], tuple(drawn), tuple(whole))
