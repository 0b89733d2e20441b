"""Label maps of class values that are not yet 0, 1, 2, ..., with a table of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hvsa_cvat.datasets.labelled import UNKNOWN, Dataset, IndexMap
from hvsa_cvat.datasets.pairs import pair_names, pair_reader, plain_pairs
from hvsa_cvat.errors import ConfigError, MediaError
from hvsa_cvat.plain_text import decode_text
from hvsa_cvat.types import IGNORE
from hvsa_cvat.video.index_map import read_index_map

_LINE = re.compile(r"(\d+)\s*[\s:,;=]\s*(\S.*)")
_NOT_LISTED = -2


def open_indices(folder: Path, mappings: Sequence[Path], images: Path | None) -> Dataset:
    """Images and 8-bit PNGs of the same names, in images/ and labels/. The mapping names the class
    of each value that occurs; several values may be one class."""
    if len(mappings) != 1:
        raise ConfigError(
            "indices needs one table of lines `value name`; name it by --mapping FILE"
        )
    names = _read_values(mappings[0])
    classes = tuple(dict.fromkeys(names.values()))
    table = np.full(IGNORE + 1, _NOT_LISTED, np.int32)
    table[IGNORE] = UNKNOWN
    for value, name in names.items():
        table[value] = classes.index(name)
    pairs = plain_pairs(folder, images)
    read = partial(_read, table=table, source=mappings[0])
    return Dataset(classes, pair_names(pairs), pair_reader(pairs, read))


def _read_values(path: Path) -> Mapping[int, str]:
    try:
        lines = [line.strip() for line in decode_text(path.read_bytes()).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--mapping {path}: it cannot be read as text ({error})") from error
    names: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line or f"{line} ".startswith("# "):
            continue
        match = _LINE.fullmatch(line)
        if match is None or int(match[1]) >= IGNORE:
            raise ConfigError(
                f"--mapping {path}, line {number}: {line!r} is no value from 0 to {IGNORE - 1} "
                "with a name; write it as `7 road`"
            )
        if names.setdefault(int(match[1]), match[2]) != match[2]:
            raise ConfigError(
                f"--mapping {path}, line {number}: {match[1]} is {names[int(match[1])]!r} and "
                f"{match[2]!r}; give each value one name"
            )
    if not names:
        raise ConfigError(f"--mapping {path}: it names no class; write lines such as `7 road`")
    return names


def _read(path: Path, table: IndexMap, source: Path) -> IndexMap:
    values = read_index_map(path)
    indices: IndexMap = table[values]
    wrong = indices == _NOT_LISTED
    if wrong.any():
        value = int(values[wrong][0])
        y, x = (int(place) for place in np.argwhere(wrong)[0])
        raise MediaError(
            f"{path} holds the value {value} ({int((values == value).sum())} pixels, the first at "
            f"x={x}, y={y}), which is not in {source}; add a line there, for example `{value} void`"
        )
    return indices
