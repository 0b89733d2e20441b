"""The labels of a child task, as they are when its jobs are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hvsa_cvat.cvat.request.guide import tag_name
from hvsa_cvat.cvat.shapes import Json


@dataclass(frozen=True)
class ChildLabels:
    """The labels of a child task, by the server's ids."""

    classes: dict[int, int]
    """Label id -> class index of the parent task."""
    names: dict[int, str]
    """Label id -> name, of all labels."""
    tag: int | None
    """The label of the tag that a card has until somebody has checked it; None where somebody has
    deleted it."""

    @classmethod
    def of(cls, labels: Iterable[Json], names: Sequence[str]) -> ChildLabels:
        """`labels` are the server's, `names` the classes of the parent task."""
        rows = [label for label in labels if not label.get("has_parent")]
        index = {name: i for i, name in enumerate(names)}
        wanted = tag_name(names)
        return cls(
            {row["id"]: index[row["name"]] for row in rows if row["name"] in index},
            {row["id"]: row["name"] for row in rows},
            next((row["id"] for row in rows if row["name"] == wanted), None),
        )

    def name(self, label_id: int) -> str:
        return self.names.get(label_id, f"number {label_id}")

    def ids(self) -> dict[int, int]:
        """Label id by class index."""
        return {index: label_id for label_id, index in self.classes.items()}
