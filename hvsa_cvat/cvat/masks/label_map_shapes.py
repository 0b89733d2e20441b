"""Label maps to the shapes that we propose: each pixel that shows a class in one shape, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.cvat.masks.ownership import TaskLabels
from hvsa_cvat.cvat.shapes import Json, encode_masks, encode_polygons, mask_shape, polygon_shape
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.types import IGNORE, LabelMap, Mask

Kind = Literal["masks", "polygons"]


@dataclass(frozen=True)
class Proposal:
    """A shape as it should be on the server."""

    frame: int
    """Number."""
    label_id: int
    points: NDArray[np.int32]
    """As the server has them; a list takes ten times the memory."""
    fingerprint: str
    make: Callable[[int, int, Sequence[int]], Json]

    def to_json(self) -> Json:
        return self.make(self.frame, self.label_id, self.points.tolist())


class Proposer:
    """Knows which class becomes which kind of shape."""

    def __init__(self, task: WatchedTask, labels: TaskLabels, kind: Kind) -> None:
        """`kind` is for the classes whose label takes both; the others have their label's."""
        self._task = task
        self._labels = labels
        # class index -> itself, or IGNORE where it is shown otherwise or not at all
        self._as_mask = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        self._as_polygon = self._as_mask.copy()
        for index, label in enumerate(task.classes):
            if index not in task.background:
                either = kind.removesuffix("s")
                is_polygon = (either if label.type == "any" else label.type) == "polygon"
                (self._as_polygon if is_polygon else self._as_mask)[index] = index

    def propose(self, frame: int, label_map: LabelMap, people: Mask) -> list[Proposal]:
        """The shapes of one frame, by number. Pixels of `people` and background stay free."""
        free = np.where(people, np.uint8(IGNORE), label_map)
        found = [
            self._proposal(frame, index, points, mask_shape)
            for index, points in encode_masks(self._as_mask[free]).items()
        ]
        as_polygons = self._as_polygon[free]
        if (as_polygons != IGNORE).any():
            found += [
                self._proposal(frame, index, points, polygon_shape)
                for index, points in encode_polygons(as_polygons)
            ]
        return found

    def _proposal(
        self,
        frame: int,
        index: int,
        points: Sequence[int],
        make: Callable[[int, int, Sequence[int]], Json],
    ) -> Proposal:
        label = self._task.classes[index].id
        fingerprint = self._labels.fingerprint(make(frame, label, points))
        return Proposal(frame, label, np.array(points, dtype=np.int32), fingerprint, make)
