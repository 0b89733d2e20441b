"""What people were asked about in one frame: its cards, their pixels, and outlines of these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from hvsa_cvat.annotation.polygons import corners, outlines
from hvsa_cvat.cvat.state import Card, read_content
from hvsa_cvat.dashboard import pictures
from hvsa_cvat.dashboard.runs import Run
from hvsa_cvat.errors import SessionError
from hvsa_cvat.types import Mask, Size


@dataclass(frozen=True)
class Outline:
    """A connected part of a sample that was asked for in a round."""

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
        for card, mask in _cards(run, one.number, frame):
            if mask.shape == own and mask.all():
                whole.append(one.number)
            else:
                drawn += [Outline(one.number, points) for points in _outlines(card, mask)]
    return Outlines(own[1], own[0], tuple(drawn), tuple(whole))


def asked_pixels(run: Run, number: int, frame: int, own: Size, size: Size) -> Mask:
    """bool `size`: what a round asked for in a frame whose own size is `own`."""
    asked = np.zeros(own, np.uint8)
    for card, mask in _cards(run, number, frame):
        asked[card.window] |= mask
    return pictures.resized(asked, size).astype(np.bool_)


def _cards(run: Run, number: int, frame: int) -> Iterator[tuple[Card, Mask]]:
    """The cards of a round about a frame, and what they ask for, bool (height, width).

    A card whose content is missing or damaged is left out: a looker cannot mend it.
    """
    request = run.request_of(number)
    for place, card in enumerate(request.cards if request is not None else ()):
        if card.sample.frame == frame and request is not None:
            with suppress(SessionError):
                yield card, read_content(run.root / "cvat", request.key, place, run.bring) != 0


def _outlines(card: Card, mask: Mask) -> Iterator[str]:
    for _, outline in outlines(np.where(mask, np.int64(0), np.int64(-1))):
        points = corners(outline) + np.array([card.left, card.top])
        yield " ".join(f"{x},{y}" for x, y in points.tolist())
