"""The labels of a child task, as they are when its jobs are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hvsa_cvat.cvat.request.guide import tag_name
from hvsa_cvat.cvat.shapes import Json
from hvsa_cvat.errors import ServerError


class TagLost(ServerError):
    """The label of the tag is gone from a child task: nobody can tell which cards were checked."""


@dataclass(frozen=True)
class ChildLabels:
    """The labels of a child task, by the server's ids."""

    classes: dict[int, int]
    """Label id -> class index of the parent task."""
    names: dict[int, str]
    """Label id -> name, of all labels."""
    tag: int
    """The label of the tag that a card has until somebody has checked it."""

    @classmethod
    def of(
        cls, labels: Iterable[Json], names: Sequence[str], tag: int | None
    ) -> ChildLabels | None:
        """None where the label of the tag is gone.

        `labels` are the server's, `names` the classes of the parent task. `tag` is that of the
        request: a label that people rename keeps its id, and its tags mean what they meant.
        """
        rows = {label["id"]: label for label in labels if not label.get("has_parent")}
        index = {name: i for i, name in enumerate(names)}
        if tag is None:
            wanted = tag_name(names)
            tag = next((number for number, row in rows.items() if row["name"] == wanted), None)
        if tag is None or tag not in rows:
            return None
        return cls(
            {number: index[row["name"]] for number, row in rows.items() if row["name"] in index},
            {number: row["name"] for number, row in rows.items()},
            tag,
        )

    def name(self, label_id: int) -> str:
        return self.names.get(label_id, f"number {label_id}")

    def ids(self) -> dict[int, int]:
        """Label id by class index."""
        return {index: label_id for label_id, index in self.classes.items()}
