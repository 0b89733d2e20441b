"""Label maps in the form in which CVAT's server takes masks from a Nuclio function.

That form is not the run lengths of its API but every pixel of a box as 0 or 1, then the box: two
bytes a pixel. A class that is scattered over a frame needs the whole frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

import numpy as np

from hvsa_cvat.annotation.polygons import Window
from hvsa_cvat.types import IGNORE, LabelMap, Mask

MOST = 32 * 2**20
"""Bytes that an answer may have: what CVAT's functions allow for a request."""

_MANY = 10_000
"""Pieces that an answer may have: more are found slowly, and nobody can work with them."""

_BESIDE = 256
"""Bytes of an answer's item beside its pixels, with a long label."""


@dataclass(frozen=True)
class Piece:
    """Pixels of one class, in the smallest box around them."""

    label: int
    window: Window
    inside: Mask
    """The pixels, in `window`."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom pixel, inclusive."""
        rows, columns = self.window
        return columns.start, rows.start, columns.stop - 1, rows.stop - 1

    @property
    def json(self) -> str:
        """The pixels row by row as 0 and 1, then the box."""
        return f"[{_digits(self.inside)},{','.join(map(str, self.box))}]"

    @property
    def rows_json(self) -> str:
        """A list of rows of 0 and 1."""
        return "[" + ",".join(f"[{_digits(row)}]" for row in self.inside) + "]"

    @property
    def most_bytes(self) -> int:
        """Of its item in an answer."""
        return 2 * self.inside.size + _BESIDE


def pieces(label_map: LabelMap, most: int = MOST) -> list[Piece] | None:
    """Pieces that cover every pixel once, `IGNORE` left out, in at most `most` bytes of JSON.

    One piece a class. If that is too much, the piece with the most empty pixels is cut in two, and
    so on: 32 MiB hold a full-HD frame of many classes in a few hundred. None if they would be
    more than `_MANY`, or no cuts help.
    """
    if 2 * np.count_nonzero(label_map != IGNORE) > most:
        return None
    order = count()
    heap = [(-_empty(piece), next(order), piece) for piece in _classes(label_map)]
    heapify(heap)
    total = sum(piece.most_bytes for _, _, piece in heap)
    while total > most:
        empty, _, piece = heappop(heap)
        if empty == 0 or len(heap) >= _MANY:
            return None
        total -= piece.most_bytes
        for half in _halves(piece):
            total += half.most_bytes
            heappush(heap, (-_empty(half), next(order), half))
    return sorted((piece for _, _, piece in heap), key=lambda piece: piece.label)


def _classes(label_map: LabelMap) -> Iterator[Piece]:
    for label in np.flatnonzero(np.bincount(label_map.ravel(), minlength=IGNORE)[:IGNORE]).tolist():
        yield from trimmed(label, 0, 0, label_map == label)


def _halves(piece: Piece) -> Iterator[Piece]:
    """Cut across its longer side; an empty half is left out."""
    top, left = (side.start for side in piece.window)
    height, width = piece.inside.shape
    if height > width:
        middle = height // 2
        yield from trimmed(piece.label, top, left, piece.inside[:middle])
        yield from trimmed(piece.label, top + middle, left, piece.inside[middle:])
    else:
        middle = width // 2
        yield from trimmed(piece.label, top, left, piece.inside[:, :middle])
        yield from trimmed(piece.label, top, left + middle, piece.inside[:, middle:])


def trimmed(label: int, top: int, left: int, inside: Mask) -> Iterator[Piece]:
    """The piece of a mask whose first pixel lies at `top`, `left`; none where it is empty."""
    rows = np.flatnonzero(inside.any(axis=1)).tolist()
    columns = np.flatnonzero(inside.any(axis=0)).tolist()
    if rows:
        box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        window = (
            slice(top + rows[0], top + rows[-1] + 1),
            slice(left + columns[0], left + columns[-1] + 1),
        )
        yield Piece(label, window, box)


def _empty(piece: Piece) -> int:
    return piece.inside.size - int(np.count_nonzero(piece.inside))


def _digits(mask: Mask) -> str:
    """0 or 1 for each pixel, commas between; many times as fast as a list through `json`."""
    text = np.full(2 * mask.size, ord(","), dtype=np.uint8)
    text[::2] = mask.ravel().view(np.uint8) + ord("0")
    return text[:-1].tobytes().decode("ascii")
