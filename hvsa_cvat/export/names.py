"""Names and colours that hold in every format: no two alike, and no path that leads elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray


def frame_files(names: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    """A path for each frame, with an ending: `files` as they were uploaded to CVAT, which finds
    frames by them. Where they cannot be used so, the names of the frames."""
    stems = [str(PurePosixPath(file).with_suffix("")) if file else "" for file in files]
    usable = len(files) == len(names) and all(map(_is_plain, files))
    if usable and len({stem.casefold() for stem in stems}) == len(stems):
        return tuple(files)
    return tuple(f"{name}.png" for name in names)


def _is_plain(file: str) -> bool:
    path = PurePosixPath(file)
    return (
        bool(path.name)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in file
        and file.isprintable()
        and bool(path.suffix)
    )


def stem(file: str) -> str:
    """`street/a.jpg` -> `street/a`."""
    return str(PurePosixPath(file).with_suffix(""))


def own_colours(colours: NDArray[np.uint8]) -> tuple[tuple[int, int, int], ...]:
    """(red, green, blue) of each class: those given, but each once and none black, which stands
    for pixels without a class."""
    found: list[tuple[int, int, int]] = []
    spare = (_voc_colour(index) for index in range(1, 2**16))
    for colour in map(tuple, colours.tolist()):
        while not any(colour) or colour in found:
            colour = next(spare)
        found.append(colour)
    return tuple(found)


def _voc_colour(index: int) -> tuple[int, int, int]:
    """The colours of Pascal VOC: the bits of the index, spread over the three channels."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue
