"""Label maps as pictures of colours: CVAT's "Segmentation mask 1.1", and Pascal VOC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.export.forms import Contents
from hvsa_cvat.export.masks import FrameMasks
from hvsa_cvat.export.names import stem
from hvsa_cvat.types import IGNORE

_BACKGROUND = "background"
"""The class that CVAT adds for pixels on which nothing is drawn."""


class ColourMaps:
    """RGB pictures in the colours of the classes, black where there is none."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._folder = folder
        self._contents = contents
        self._names: list[str] = []
        self._table = np.zeros((IGNORE + 1, 3), np.uint8)
        self._table[: len(contents.labels)] = contents.colours

    def add(self, frame: FrameMasks, file: str) -> None:
        name = stem(file)
        self._names.append(name)
        path = self._folder / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._picture(frame.label_map).save(path)

    def finish(self) -> None:
        listing = self._folder / "ImageSets" / "Segmentation" / "default.txt"
        listing.parent.mkdir(parents=True)
        lines = [f'"{name}"' if " " in name else name for name in self._names]
        listing.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        text = "".join(f"{line}\n" for line in self._label_lines())
        (self._folder / "labelmap.txt").write_text(text, encoding="utf-8")

    def _picture(self, label_map: NDArray[np.uint8]) -> PillowImage.Image:
        return PillowImage.fromarray(self._table[label_map])

    def _label_lines(self) -> list[str]:
        contents = self._contents
        entries = list(zip(contents.labels, contents.colours, strict=True))
        if _BACKGROUND not in contents.labels.names:
            entries = [(_BACKGROUND, (0, 0, 0)), *entries]
        rows = [f"{name}:{','.join(map(str, colour))}::" for name, colour in entries]
        return ["# label:color_rgb:parts:actions", *rows]


class VocMaps(ColourMaps):
    """Pictures with a palette, whose values are class numbers: 0 for background."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        super().__init__(folder, contents)
        self._values = numbered(contents, "voc")
        palette = np.zeros((IGNORE + 1, 3), np.uint8)
        palette[1 : len(contents.labels) + 1] = contents.colours
        self._palette = palette.ravel().tolist()

    def _picture(self, label_map: NDArray[np.uint8]) -> PillowImage.Image:
        picture = PillowImage.fromarray(self._values[label_map])
        picture.putpalette(self._palette)
        return picture


def numbered(contents: Contents, form: str) -> NDArray[np.uint8]:
    """uint8 (256,): by class index the values 1, 2, ...; 255 for unlabelled pixels."""
    count = len(contents.labels)
    if count >= IGNORE:
        raise ConfigError(f"{count} classes do not fit the format {form}; take png or coco")
    table = np.full(IGNORE + 1, IGNORE, np.uint8)
    table[:count] = np.arange(1, count + 1)
    return table
