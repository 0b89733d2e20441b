"""Masks as Cityscapes has them: gtFine/SPLIT/CITY/..._gtFine_labelIds.png and the colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from hvsa_cvat.datasets.cityscapes import IDS
from hvsa_cvat.export.colour_maps import numbered
from hvsa_cvat.export.forms import Contents
from hvsa_cvat.export.masks import FrameMasks
from hvsa_cvat.export.names import stem
from hvsa_cvat.types import IGNORE

_SPLIT = "train"


class Cityscapes:
    """The ids are those of Cityscapes where all classes are its own; else 1, 2, ..., as
    label_colors.txt tells. 0 is unlabelled."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._folder = folder
        self._contents = contents
        self._city = f"task{contents.task}"
        names = contents.labels.names
        self._known = all(name in IDS for name in names)
        self._ids = numbered(contents, "cityscapes")
        if self._known:
            self._ids[: len(names)] = [IDS[name] for name in names]
        self._ids[IGNORE] = 0
        self._colours = np.zeros((IGNORE + 1, 3), np.uint8)
        self._colours[: len(names)] = contents.colours

    def add(self, frame: FrameMasks, file: str) -> None:
        name = stem(file).replace("/", "_")
        start = self._folder / "gtFine" / _SPLIT / self._city / f"{self._city}_{name}_gtFine"
        start.parent.mkdir(parents=True, exist_ok=True)
        ids = PillowImage.fromarray(self._ids[frame.label_map])
        ids.save(start.with_name(f"{start.name}_labelIds.png"))
        colours = PillowImage.fromarray(self._colours[frame.label_map])
        colours.save(start.with_name(f"{start.name}_color.png"))

    def finish(self) -> None:
        """`red green blue name` a line; the first one has the id 0."""
        if self._known:
            return
        entries = [((0, 0, 0), "unlabeled")]
        entries += zip(self._contents.colours, self._contents.labels, strict=True)
        lines = [f"{' '.join(map(str, colour))} {name}\n" for colour, name in entries]
        (self._folder / "label_colors.txt").write_text("".join(lines), encoding="utf-8")
