"""Writes masks in the form that CVAT's server reads from a Nuclio function.

CVAT's API has run lengths, but a Nuclio function sends every pixel of a box as 0 or 1 and then the
box. That takes two bytes per pixel, and the whole frame for a class that is scattered over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

import numpy as np

from hvsa_cvat.annotation.polygons import Window
from hvsa_cvat.types import IGNORE, LabelMap, Mask

MOST_BYTES = 32 * 2**20
"""The largest answer in bytes, which is what CVAT's own functions allow for a request."""

_MOST_PIECES = 10_000
"""The most pieces in an answer. More take long to find, and an annotator cannot edit them."""

_ITEM_BYTES = 256
"""Bytes of an item of an answer besides its pixels, with a long label."""


@dataclass(frozen=True)
class Piece:
    """Pixels of one class, in the smallest box that holds them."""

    label: int
    window: Window
    inside: Mask
    """bool (h, w): the pixels of the class among those of `window`."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom; the right and bottom pixels belong to the box."""
        rows, columns = self.window
        return columns.start, rows.start, columns.stop - 1, rows.stop - 1

    @property
    def json(self) -> str:
        """The pixels row by row as 0 and 1, then the box."""
        return f"[{_digits(self.inside)},{','.join(map(str, self.box))}]"

    @property
    def most_bytes(self) -> int:
        """An upper bound of the bytes of this piece in an answer."""
        return 2 * self.inside.size + _ITEM_BYTES


def pieces(label_map: LabelMap, most: int = MOST_BYTES) -> list[Piece] | None:
    """Pieces that cover every pixel except `IGNORE` once, in at most `most` bytes of JSON.

    At first there is one piece for each class. While that is too much, the piece with the most
    empty pixels is cut in two. A full-HD frame of many classes takes a few hundred pieces for
    32 MiB. None if more than `_MOST_PIECES` are needed, or if no cut helps.
    """
    if 2 * np.count_nonzero(label_map != IGNORE) > most:
        return None
    order = count()
    heap = [(-_empty(piece), next(order), piece) for piece in _classes(label_map)]
    heapify(heap)
    total = sum(piece.most_bytes for _, _, piece in heap)
    while total > most:
        empty, _, piece = heappop(heap)
        if empty == 0 or len(heap) >= _MOST_PIECES:
            return None
        total -= piece.most_bytes
        for half in _halves(piece):
            total += half.most_bytes
            heappush(heap, (-_empty(half), next(order), half))
    return sorted((piece for _, _, piece in heap), key=lambda piece: piece.label)


def _classes(label_map: LabelMap) -> Iterator[Piece]:
    for label in np.flatnonzero(np.bincount(label_map.ravel(), minlength=IGNORE)[:IGNORE]).tolist():
        yield from _trimmed(label, 0, 0, label_map == label)


def _halves(piece: Piece) -> Iterator[Piece]:
    """The halves of a piece, cut across its longer side; without a half that is empty."""
    top, left = (side.start for side in piece.window)
    height, width = piece.inside.shape
    if height > width:
        middle = height // 2
        yield from _trimmed(piece.label, top, left, piece.inside[:middle])
        yield from _trimmed(piece.label, top + middle, left, piece.inside[middle:])
    else:
        middle = width // 2
        yield from _trimmed(piece.label, top, left, piece.inside[:, :middle])
        yield from _trimmed(piece.label, top, left + middle, piece.inside[:, middle:])


def _trimmed(label: int, top: int, left: int, inside: Mask) -> Iterator[Piece]:
    """The piece of a mask whose first pixel lies at `top`, `left`; none if the mask is empty."""
    rows = np.flatnonzero(inside.any(axis=1)).tolist()
    columns = np.flatnonzero(inside.any(axis=0)).tolist()
    if rows:
        box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        window = (
            slice(top + rows[0], top + rows[-1] + 1),
            slice(left + columns[0], left + columns[-1] + 1),
        )
        yield Piece(label, window, box)


def rows_json(mask: Mask) -> str:
    """A mask as a list of rows of 0 and 1."""
    return "[" + ",".join(f"[{_digits(row)}]" for row in mask) + "]"


def _empty(piece: Piece) -> int:
    return piece.inside.size - int(np.count_nonzero(piece.inside))


def _digits(mask: Mask) -> str:
    """0 or 1 for each pixel, separated by commas. Much faster than a list and `json`."""
    text = np.full(2 * mask.size, ord(","), dtype=np.uint8)
    text[::2] = mask.ravel().view(np.uint8) + ord("0")
    return text[:-1].tobytes().decode("ascii")
