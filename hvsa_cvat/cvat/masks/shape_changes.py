"""What is to be deleted and created on some consecutive frames of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hvsa_cvat.cvat.masks.job_shapes import JobShapes
from hvsa_cvat.cvat.masks.label_map_shapes import Proposal
from hvsa_cvat.cvat.masks.options import WriteLimits


@dataclass
class ShapeChanges:
    """A group of changes that are carried out together. Grows frame by frame until it is full."""

    limits: WriteLimits
    most: int
    """Shapes to be created, and shapes to be deleted."""
    delete: dict[int, int]
    """Id -> frame."""
    create: list[Proposal] = field(default_factory=list)
    last: int = -1
    """The last frame."""
    _numbers: int = 0
    """Numbers of the shapes to be created."""
    _on_last: int = 0
    """Shapes to be created or deleted on the last frame."""

    @classmethod
    def of(cls, shapes: JobShapes, limits: WriteLimits) -> ShapeChanges:
        """An empty group, except that the surplus copies in `shapes` are to be deleted."""
        return cls(limits, shapes_per_group(shapes, limits), dict(shapes.surplus))

    def add(self, frame: int, proposals: Sequence[Proposal], own: Mapping[str, int]) -> int:
        """Compare what a frame should have with our shapes on it; returns how many of them stay.

        `own` is fingerprint -> id.
        """
        wanted = {one.fingerprint for one in proposals}
        missing = [one for one in proposals if one.fingerprint not in own]
        unwanted = {shape: frame for print_, shape in own.items() if print_ not in wanted}
        self.delete |= unwanted
        self.create += missing
        self._numbers += sum(one.points.size for one in missing)
        self.last, self._on_last = frame, max(len(missing), len(unwanted))
        return len(proposals) - len(missing)

    @property
    def is_full(self) -> bool:
        """Whether another frame like the last one would be too much."""
        shapes = max(len(self.create), len(self.delete)) + self._on_last
        return shapes > self.most or self._numbers >= self.limits.numbers_per_group

    def batches(self) -> Iterator[tuple[Sequence[Proposal], int]]:
        """What each request creates, and the last frame that is complete after it."""
        begin = numbers = 0
        for end, one in enumerate(self.create):
            numbers += one.points.size
            is_full = (
                end - begin == self.limits.shapes_per_request
                or numbers > self.limits.numbers_per_request
            )
            if end > begin and is_full:
                yield self.create[begin:end], one.frame - 1
                begin, numbers = end, one.points.size
        if begin < len(self.create):
            yield self.create[begin:], self.last


def shapes_per_group(shapes: JobShapes, limits: WriteLimits) -> int:
    """How many shapes of a job one group may create, and delete."""
    ours = len(shapes.all_ours())
    if not ours:
        return limits.shapes_without_deletions
    return max(limits.shapes_per_group, ours // limits.groups_per_job)
