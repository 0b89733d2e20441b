"""Masks as "CVAT for images 1.1" has them: annotations.xml, one mask for each class and source."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.export.forms import Colour, Contents
from hvsa_cvat.export.masks import FrameMasks, PixelKind
from hvsa_cvat.types import IGNORE

_SOURCES = {
    "manual": (PixelKind.PERSON,),
    "semi-auto": (PixelKind.CONFIRMED,),
    "auto": (PixelKind.NETWORK, PixelKind.CARRIED, PixelKind.COMPUTED),
}
"""CVAT's word for where a shape comes from."""


class CvatXml:
    """The masks of a frame cover each pixel once, so their order tells nothing."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._contents = contents
        self._path = folder / "annotations.xml"
        self._unwritten = io.StringIO()
        self._xml = XMLGenerator(self._unwritten, "utf-8", short_empty_elements=True)
        self._xml.startDocument()
        self._xml.startElement("annotations", AttributesImpl({}))
        self._text("version", "1.1")
        self._describe()

    def add(self, frame: FrameMasks, file: str) -> None:
        height, width = frame.label_map.shape
        head = {
            "id": str(frame.number),
            "name": file,
            "width": str(width),
            "height": str(height),
        }
        with self._element("image", head):
            for source, kinds in _SOURCES.items():
                theirs = np.where(np.isin(frame.kinds, kinds), frame.label_map, np.uint8(IGNORE))
                for index, points in encode_masks(theirs).items():
                    self._mask(self._contents.labels.names[index], source, points)
        self._write()

    def finish(self) -> None:
        self._xml.endElement("annotations")
        self._xml.endDocument()
        self._write()

    def _write(self) -> None:
        """The masks of a long video need not fit into memory."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._unwritten.getvalue())
        self._unwritten.seek(0)
        self._unwritten.truncate()

    def _mask(self, label: str, source: str, points: list[int]) -> None:
        *runs, left, top, right, bottom = points
        values = {
            "label": label,
            "source": source,
            "occluded": "0",
            "rle": ", ".join(map(str, runs)),
            "left": str(left),
            "top": str(top),
            "width": str(right - left + 1),
            "height": str(bottom - top + 1),
            "z_order": "0",
        }
        with self._element("mask", values):
            pass

    def _describe(self) -> None:
        contents = self._contents
        with self._element("meta"), self._element("task"):
            self._text("id", str(contents.task))
            self._text("name", contents.title)
            self._text("size", str(contents.frames))
            with self._element("labels"):
                for name, colour in zip(contents.labels, contents.colours, strict=True):
                    with self._element("label"):
                        self._text("name", name)
                        self._text("color", _hexadecimal(colour))
                        self._text("type", "any")
                        self._text("attributes", "")
            height, width = contents.size
            with self._element("original_size"):
                self._text("width", str(width))
                self._text("height", str(height))

    @contextmanager
    def _element(self, name: str, values: dict[str, str] | None = None) -> Iterator[None]:
        self._xml.startElement(name, AttributesImpl(values or {}))
        yield
        self._xml.endElement(name)
        self._xml.ignorableWhitespace("\n")

    def _text(self, name: str, text: str) -> None:
        with self._element(name):
            self._xml.characters(text)


def _hexadecimal(colour: Colour) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)
