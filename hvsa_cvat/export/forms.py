"""What every format gets, and what it must do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hvsa_cvat.export.masks import FrameMasks
from hvsa_cvat.types import LabelSet, Size

Colour = tuple[int, int, int]
"""Red, green, blue."""


@dataclass(frozen=True)
class Contents:
    """What is exported, but for the masks."""

    title: str
    """Name of the task."""
    task: int
    labels: LabelSet
    colours: tuple[Colour, ...]
    """One for each class, all different and none of them black."""
    size: Size
    frames: int


class MaskWriter(Protocol):
    """Writes masks into a folder, one frame after another."""

    def add(self, frame: FrameMasks, file: str) -> None:
        """`file`: name of the image, with its ending, perhaps in a folder."""

    def finish(self) -> None:
        """Write what is written last."""


class MakeWriter(Protocol):
    def __call__(self, folder: Path, contents: Contents) -> MaskWriter: ...
