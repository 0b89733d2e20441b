"""The frames whose masks are most probably wrong.

Reading the masks of a long video takes a while, so a thread of low priority does it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.session import doubt

_JUDGED = 400
"""Frames of a long video that are judged, at even distances; neighbours have much the same masks.
Each takes about 20 ms at 1280x720."""

_APART = 60
"""A worst frame hides its neighbours within this fraction of the video."""

_KEPT = 32
"""Rankings in memory."""

_NICENESS = 5


@dataclass(frozen=True)
class Doubt:
    """One frame, and the share of its pixels that are expected to be wrong."""

    frame: int
    wrong: float


@dataclass
class Ranking:
    """The frames of one round that have been judged so far."""

    frames: Sequence[int]
    """Those to be judged."""
    judged: list[Doubt] = field(default_factory=list)
    done: int = 0
    """How many of `frames` are judged, or could not be."""

    @property
    def complete(self) -> bool:
        return self.done == len(self.frames)

    def worst(self, length: int, most: int) -> list[Doubt]:
        """The frames with the largest shares, apart from each other; at most `most`. `length` is
        that of the video."""
        apart, chosen = length // _APART, list[Doubt]()
        for one in sorted(self.judged, key=lambda one: -one.wrong):
            if len(chosen) == most:
                break
            if all(abs(one.frame - other.frame) > apart for other in chosen):
                chosen.append(one)
        return chosen


def frames_to_judge(length: int) -> list[int]:
    """Those of a video of so many frames, at even distances."""
    even = np.linspace(0, length - 1, min(length, _JUDGED)).astype(int)
    return [int(frame) for frame in np.unique(even)]


def wrong_given(run: Run, number: int) -> NDArray[np.float64]:
    """float64 (C, LEVELS), see `session.doubt`."""
    return doubt.wrong_given(run.files(number), run.current.number, len(run.session.labels))


def expected_wrong(run: Run, number: int, frame: int, wrong: NDArray[np.float64]) -> float:
    """The share of the pixels of a frame that are expected to be wrong."""
    return doubt.expected_wrong(run.files(number), run.names[frame], wrong)


class Rankings:
    """Judges the frames of the rounds that somebody looks at, one round after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, int, float], Ranking] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, "doubtful", initializer=_lower_priority)

    def close(self) -> None:
        """End the thread after the frame that it reads now."""
        with self._lock:
            self._kept.clear()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def of(self, run: Run, number: int) -> Ranking:
        """The ranking of a round, as far as it is; judging begins with the first call."""
        shown = run.rounds[number].shown
        key = run.root, number, shown.timestamp() if shown is not None else 0.0
        with self._lock:
            ranking = self._kept.get(key)
            if ranking is None:
                ranking = self._kept[key] = Ranking(frames_to_judge(len(run.names)))
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
                self._worker.submit(self._judge, key, run, number, ranking)
            self._kept.move_to_end(key)
        return ranking

    def _judge(self, key: tuple[Path, int, float], run: Run, number: int, ranking: Ranking) -> None:
        wrong = wrong_given(run, number)
        for frame in ranking.frames:
            if self._kept.get(key) is not ranking:
                return
            with suppress(HvsaError):
                share = expected_wrong(run, number, frame, wrong)
                ranking.judged.append(Doubt(frame, share))
            ranking.done += 1


def _lower_priority() -> None:
    """Of this thread alone, where the system can do that."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
