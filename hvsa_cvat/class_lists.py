"""Class names from an option: named in it, or read from the file that it names."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.plain_text import decode_text, expand_home
from hvsa_cvat.types import LabelSet

_CVAT_HEADING = "# label:color_rgb:parts:actions"
"""First line of the labelmap.txt of CVAT's export `Segmentation mask`."""
_NAME_COLUMNS = frozenset(("name", "class", "label", "class_name", "label_name", "category"))
_INDEX_COLUMNS = frozenset(
    ("id", "index", "value", "class_id", "label_id", "class_index", "number")
)
_HEADINGS = frozenset(
    f"{name}{end}" for name in ("classes", "labels", "names") for end in ("", ":")
)
_STRUCTURED = frozenset((".json", ".toml", ".xml", ".yaml", ".yml"))
_LISTS = frozenset((".csv", ".list", ".lst", ".names", ".tsv", ".txt")) | _STRUCTURED
_FORMS = "give a text file with one class a line, or names separated by commas"

_Row = tuple[str | None, str]
"""The index that stands before a name, if one does, and the name."""


def read_classes(text: str) -> LabelSet:
    """Comma separated names, or a file: one name a line, `0 floor`, CSV, CVAT's labelmap.txt.

    What could be read in two ways is a `ConfigError`: a heading taken for a class would move all
    class indices by one.
    """
    path = expand_home(text)
    if _is_file(path) or (path.suffix.lower() in _LISTS and "," not in text):
        return LabelSet(tuple(_read_list(path)))
    return LabelSet(tuple(name.strip() for name in text.split(",")))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # many names make a path that is too long
        return False


def _read_list(path: Path) -> Sequence[str]:
    if path.suffix.lower() in _STRUCTURED:
        raise ConfigError(f"--classes {str(path)!r}: no list that can be read; {_FORMS}")
    lines = [line.strip() for line in _decoded(path).splitlines()]
    if lines[:1] == [_CVAT_HEADING]:
        return [line.rsplit(":", 3)[0] for line in lines[1:] if line]
    kept = [(number, line) for number, line in enumerate(lines, 1) if line]
    kept = _without_headings(path, kept)
    if path.suffix.lower() in (".csv", ".tsv") or _looks_like_table(kept):
        return _in_order(path, _table(path, [line for _, line in kept]))
    return _in_order(path, [_row(line) for _, line in kept])


def _decoded(path: Path) -> str:
    try:
        return decode_text(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"--classes {str(path)!r}: the file cannot be read ({error.strerror}); {_FORMS}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--classes {str(path)!r}: the file cannot be read, it is no UTF-8 text; {_FORMS}"
        ) from error


def _without_headings(path: Path, lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """A comment or a heading above the names is left out; anywhere else it is asked about."""
    while lines and (lines[0][1].startswith("# ") or lines[0][1].lower() in _HEADINGS):
        lines = lines[1:]
    for number, line in lines:
        if line.startswith("#"):
            raise ConfigError(
                f"--classes {str(path)!r}: line {number} begins with '#': {line!r}; remove it if "
                "it is a comment, or give the names separated by commas if it is a class"
            )
    return lines


def _looks_like_table(lines: Sequence[tuple[int, str]]) -> bool:
    """Whether every line holds an index and a comma, or the first names the columns so."""
    first = {cell.strip().lower() for cell in lines[0][1].split(",")} if lines else set()
    return len(first) > 1 and bool(first & _NAME_COLUMNS and first & _INDEX_COLUMNS)


def _table(path: Path, lines: Sequence[str]) -> list[_Row]:
    """Rows of a table; its columns are told by their titles, or there are at most two."""
    text = "\n".join(lines)
    delimiter = max("\t;,", key=text.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    titles = [cell.lower().replace(" ", "_") for cell in rows[0]] if rows else []
    names = [place for place, title in enumerate(titles) if title in _NAME_COLUMNS]
    if names:
        indices = [place for place, title in enumerate(titles) if title in _INDEX_COLUMNS]
        return [(_cell(row, indices), _cell(row, names) or "") for row in rows[1:]]
    if len(rows) == 1:
        return [(None, name) for name in rows[0]]
    if all(len(row) == 1 for row in rows):
        return [(None, row[0]) for row in rows]
    for index, name in ((0, 1), (1, 0)):
        if all(len(row) == 2 and row[index].isdecimal() for row in rows):
            return [(row[index], row[name]) for row in rows]
    raise ConfigError(
        f"--classes {str(path)!r}: no column of the table is titled 'name' or 'class'; {_FORMS}"
    )


def _cell(row: Sequence[str], places: Sequence[int]) -> str | None:
    return row[places[0]] if places and places[0] < len(row) else None


def _row(line: str) -> _Row:
    """`0 floor`, `0: floor` or `0,floor`; or a name alone."""
    numbered = re.fullmatch(r"(\d+)\s*[\s:,;.=]\s*(\S.*)", line)
    return (numbered[1], numbered[2]) if numbered else (None, line)


def _in_order(path: Path, rows: Sequence[_Row]) -> Sequence[str]:
    """The names by their indices where all have one; else as they stand, with what is before."""
    if not rows:
        raise ConfigError(f"--classes {str(path)!r} names no class; {_FORMS}")
    if any(index is None for index, _ in rows):
        return [name if index is None else f"{index} {name}" for index, name in rows]
    named = {int(index): name for index, name in rows if index is not None and index.isdecimal()}
    if sorted(named) != list(range(len(rows))):
        raise ConfigError(
            f"--classes {str(path)!r}: the classes are numbered "
            f"{', '.join(str(index) for index, _ in rows[:4])}..., but class indices begin with 0 "
            f"and leave none out; {_FORMS}"
        )
    return [named[index] for index in range(len(rows))]
