"""Label maps to the shapes that we propose: each pixel with a class lies in exactly one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.polygons import encode_polygons
from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.cvat.http.client import Json
from hvsa_cvat.cvat.masks.options import Kind
from hvsa_cvat.cvat.masks.task_labels import TaskLabels
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.types import IGNORE, LabelMap, Mask


@dataclass(frozen=True)
class Proposal:
    """A shape as it should be on the server."""

    frame: int
    """Number."""
    label_id: int
    points: NDArray[np.int32]
    """The numbers that the server gets, as an array because a list takes ten times the memory."""
    fingerprint: str
    make: Callable[[int, int, Sequence[int]], Json]

    def to_json(self) -> Json:
        return self.make(self.frame, self.label_id, self.points.tolist())


class Proposer:
    """Makes the shapes of a frame; knows which class becomes which kind of shape."""

    def __init__(self, task: WatchedTask, labels: TaskLabels, kind: Kind) -> None:
        """`kind` is for classes whose label takes both; the others get the kind of their label."""
        self._task = task
        self._labels = labels
        # Class index -> itself, or IGNORE where it becomes another kind of shape or none.
        self._as_mask = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        self._as_polygon = self._as_mask.copy()
        for index, label in enumerate(task.classes):
            if index not in task.background:
                either = kind.removesuffix("s")
                is_polygon = (either if label.type == "any" else label.type) == "polygon"
                (self._as_polygon if is_polygon else self._as_mask)[index] = index

    def propose(self, frame: int, label_map: LabelMap, people: Mask) -> list[Proposal]:
        """The shapes of the frame with this number. Pixels of `people` and background stay free."""
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


def mask_shape(frame: int, label_id: int, points: Sequence[int]) -> Json:
    """A mask of ours, ready to be sent."""
    return _shape("mask", frame, label_id, points)


def polygon_shape(frame: int, label_id: int, points: Sequence[float]) -> Json:
    """A polygon of ours, ready to be sent."""
    return _shape("polygon", frame, label_id, points)


def _shape(kind: str, frame: int, label_id: int, points: Sequence[float]) -> Json:
    return {
        "type": kind,
        "frame": frame,
        "label_id": label_id,
        "points": points,
        "source": "auto",
        "group": 0,
        "z_order": 0,
        "rotation": 0.0,
        "occluded": False,
        "outside": False,
        "attributes": [],
    }
