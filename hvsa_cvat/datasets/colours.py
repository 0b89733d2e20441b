"""Tables that give a colour to each class, and label maps that are painted in these colours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.datasets.labelled import UNKNOWN, IndexMap
from hvsa_cvat.errors import ConfigError, MediaError
from hvsa_cvat.plain_text import decode_text
from hvsa_cvat.video.images import opened_image

Colour = tuple[int, int, int]
"""Red, green, blue; each 0 to 255."""

_LINES = (
    re.compile(r"(?P<name>.+?)\s*:\s*(?P<rgb>\d+\s*,\s*\d+\s*,\s*\d+)\s*(?::[^:]*:[^:]*)?"),
    re.compile(r"(?P<rgb>\d+[\s,;]+\d+[\s,;]+\d+)[\s,;]+(?P<name>.*\D.*)"),
    re.compile(r"(?P<name>.*\D.*?)[\s,;]+(?P<rgb>\d+[\s,;]+\d+[\s,;]+\d+)"),
)
"""CVAT's `road:128,64,128::`, CamVid's `128 64 128 road`, and `road 128 64 128`."""

_HEADINGS = frozenset(("name,r,g,b", "r,g,b,name"))


@dataclass(frozen=True)
class Palette:
    """The classes and their colours. A class may have several colours."""

    source: str
    """Where the table is, for messages."""
    classes: tuple[str, ...]
    colours: tuple[tuple[Colour, int], ...]
    """Each colour with its class index, or with `UNKNOWN` where its pixels are unlabelled."""

    def read(self, path: Path) -> IndexMap:
        """The label map in a colour-coded PNG. `MediaError` for a colour without a class."""
        numbers = _read_numbers(path)
        known, places = self._table
        nearest = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        wrong = known[nearest] != numbers
        if wrong.any():
            raise MediaError(_unknown_colour(path, self.source, numbers, wrong))
        return places[nearest]

    def colour_of(self, name: str) -> Colour | None:
        """The first colour of a class; None where there is no such class."""
        return next((c for c, place in self.colours if self.classes[place] == name), None)

    def grouped(self, groups: Mapping[str, str | None]) -> Palette:
        """Classes put together: `groups` gives each its new name; None for unlabelled pixels."""
        classes = tuple(dict.fromkeys(name for name in groups.values() if name is not None))
        index: dict[str | None, int] = {name: k for k, name in enumerate(classes)}
        index[None] = UNKNOWN
        new = tuple((colour, index[groups[self.classes[old]]]) for colour, old in self.colours)
        return Palette(self.source, classes, new)

    @cached_property
    def _table(self) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """The colours as numbers 0xRRGGBB, ascending, and the class index of each."""
        pairs = sorted((r << 16 | g << 8 | b, place) for (r, g, b), place in self.colours)
        numbers, places = zip(*pairs, strict=True)
        return np.array(numbers, np.uint32), np.array(places, np.int32)


def make_palette(source: str, entries: Iterable[tuple[str, Colour]]) -> Palette:
    """`ConfigError` where two classes have one colour."""
    owners: dict[Colour, str] = {}
    for name, colour in entries:
        if owners.setdefault(colour, name) != name:
            raise ConfigError(
                f"{source}: {owners[colour]!r} and {name!r} have one colour, {_shown(colour)}; "
                "give each class a colour of its own"
            )
    classes = tuple(dict.fromkeys(owners.values()))
    colours = tuple((colour, classes.index(name)) for colour, name in owners.items())
    return Palette(source, classes, colours)


def read_palette(path: Path) -> Palette:
    """A text file of a class and its colour a line; comments begin with `# `."""
    try:
        lines = [line.strip() for line in decode_text(path.read_bytes()).splitlines()]
    except OSError as error:
        raise ConfigError(f"cannot read the colour table {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the colour table {path} is no UTF-8 text; save it as text") from error
    entries = [
        _entry(path, number, line)
        for number, line in enumerate(lines, 1)
        if line and not _is_heading(line)
    ]
    if not entries:
        raise ConfigError(f"the colour table {path} names no class; write a line `NAME:R,G,B::`")
    return make_palette(str(path), entries)


def _is_heading(line: str) -> bool:
    """A comment begins with `# `; a class may be called `#1`."""
    return f"{line} ".startswith("# ") or line.replace(" ", "").lower() in _HEADINGS


def _entry(path: Path, number: int, line: str) -> tuple[str, Colour]:
    match = next((m for m in (form.fullmatch(line) for form in _LINES) if m), None)
    if match is None:
        raise ConfigError(
            f"{path}, line {number}: {line!r} is no class with a colour; write `NAME:R,G,B::`, "
            "for example road:128,64,128::"
        )
    red, green, blue = (int(value) for value in re.findall(r"\d+", match["rgb"]))
    if max(red, green, blue) > 255:
        raise ConfigError(f"{path}, line {number}: {line!r} has a value above 255; mend the colour")
    return match["name"], (red, green, blue)


def _read_numbers(path: Path) -> NDArray[np.uint32]:
    """uint32 (H, W): the colours of a PNG as numbers 0xRRGGBB."""
    with opened_image(path) as image:
        if image.format != "PNG":
            raise MediaError(
                f"{path} is a {image.format} file in spite of its name, which may change colours; "
                "export the label maps as PNG"
            )
        pixels = np.array(image.convert("RGB")).astype(np.uint32)
    return pixels @ np.array((1 << 16, 1 << 8, 1), np.uint32)


def _unknown_colour(
    path: Path, source: str, numbers: NDArray[np.uint32], wrong: NDArray[np.bool_]
) -> str:
    y, x = (int(place) for place in np.argwhere(wrong)[0])
    number = int(numbers[y, x])
    colour = number >> 16, number >> 8 & 255, number & 255
    count = int((numbers == number).sum())
    return (
        f"{path} holds the colour {_shown(colour)} ({count} pixels, the first at x={x}, y={y}), "
        f"which is no class of {source}; add it there, for example as "
        f"`void:{_shown(colour)}::`, or paint these pixels anew"
    )


def _shown(colour: Colour) -> str:
    return ",".join(str(value) for value in colour)
