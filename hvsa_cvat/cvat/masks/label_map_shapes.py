"""Label maps to the shapes that we propose: each pixel with a class lies in one of them at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.polygons import encode_polygons
from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.job_frames import Holders
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


@dataclass(frozen=True)
class _Kinds:
    """Class index -> itself, or IGNORE where it becomes another kind of shape or none."""

    as_mask: NDArray[np.uint8]
    as_polygon: NDArray[np.uint8]

    @classmethod
    def of(cls, kinds: Mapping[int, str]) -> _Kinds:
        """`kinds` is `mask` or `polygon` by class index."""
        found = cls(*(np.full(IGNORE + 1, IGNORE, dtype=np.uint8) for _ in range(2)))
        for index, kind in kinds.items():
            (found.as_polygon if kind == "polygon" else found.as_mask)[index] = index
        return found


class Proposer:
    """Makes the shapes of a frame; knows which class becomes which kind of shape.

    A frame that several jobs hold gets polygons in each of them, wherever the label takes both
    kinds: an export of the task merges polygons that are alike, and shows masks twice. A class
    whose label takes masks only is shown by the first job alone.
    """

    def __init__(self, task: WatchedTask, labels: TaskLabels, kind: Kind) -> None:
        """`kind` is for classes whose label takes both; the others get the kind of their label."""
        self._task = task
        self._labels = labels
        shown = {
            index: label.type
            for index, label in enumerate(task.classes)
            if index not in task.background
        }
        either = kind.removesuffix("s")
        self._alone = _Kinds.of({i: either if t == "any" else t for i, t in shown.items()})
        self._first = _Kinds.of({i: "polygon" if t == "any" else t for i, t in shown.items()})
        self._further = _Kinds.of({i: "polygon" for i, t in shown.items() if t != "mask"})
        self.first_only = [task.classes[i].name for i, t in shown.items() if t == "mask"]
        """Names of the classes that only the first job of a frame shows."""

    def propose(
        self, frame: int, label_map: LabelMap, people: Mask, holders: Holders
    ) -> list[Proposal]:
        """The shapes of the frame with this number. Pixels of `people` and background stay free."""
        free = np.where(people, np.uint8(IGNORE), label_map)
        kinds = {
            Holders.ALONE: self._alone,
            Holders.FIRST: self._first,
            Holders.FURTHER: self._further,
        }[holders]
        found = [
            self._proposal(frame, index, points, mask_shape)
            for index, points in encode_masks(kinds.as_mask[free]).items()
        ]
        as_polygons = kinds.as_polygon[free]
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
