"""Label maps of a video for one job after the other, where jobs overlap.

The label maps come once, in order of time. Those of frames that a later job holds, too, are kept
until then, compressed: a label map shrinks to a hundredth.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from hvsa_cvat.cvat.masks.job_frames import JobFrames
from hvsa_cvat.types import LabelMap


class FrameFeed:
    """Gives out label maps by job; the jobs come in order of their first frames."""

    def __init__(self, label_maps: Iterable[tuple[int, LabelMap]], jobs: Sequence[JobFrames]):
        """`label_maps` are (frame number, label map), ascending; `jobs` are those to be written."""
        self._coming = iter(label_maps)
        self._last = jobs[-1]
        self._needed_later = {frame for one in jobs for frame in one.repeated}
        self._kept: dict[int, tuple[tuple[int, ...], bytes]] = {}

    def of(self, job: JobFrames) -> Iterator[tuple[int, LabelMap]]:
        """Frame number and label map of each frame of a job.

        The last job reads all label maps to their end, so that it hears of superfluous ones.
        """
        first = job.frames[0]
        self._kept = {frame: one for frame, one in self._kept.items() if frame >= first}
        for frame in job.frames:
            yield frame, self._kept_map(frame) if frame in self._kept else self._next(frame)
        if job is self._last:
            self.rest()

    def rest(self) -> None:
        """Read what no job asked for, so that `label_maps` come to their end."""
        for _ in self._coming:
            pass

    def _next(self, wanted: int) -> LabelMap:
        for frame, label_map in self._coming:
            if frame in self._needed_later:
                self._kept[frame] = label_map.shape, zlib.compress(label_map.tobytes(), 1)
            if frame == wanted:
                return label_map
        raise ValueError(f"no label map of frame {wanted}")

    def _kept_map(self, frame: int) -> LabelMap:
        shape, packed = self._kept[frame]
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)
