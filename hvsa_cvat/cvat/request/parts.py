"""The masks that people see on a card: label maps cut into parts that can be corrected one by one.

A mask a connected part, because a part of the wrong class then takes one key. Specks are not worth
a mask of their own; those of one class are one mask together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.cvat.cards import enlarge
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.label_map_shapes import mask_shape
from hvsa_cvat.cvat.state import UNMASKED, Card, Part
from hvsa_cvat.types import IGNORE, LabelMap, Mask

SPECK_OF_FRAME = 0.001
SPECK_OF_REGION = 0.01
"""Parts below these shares of what is asked for are specks."""


@dataclass(frozen=True)
class CardContent:
    """What one card asks for and shows."""

    pixels: NDArray[np.int32]
    """int32 (height, width), in pixels of the frame: 0 where nothing is asked, `UNMASKED`, or the
    number of a part."""
    labels: dict[int, int]
    """Class index by the number of the part."""


def cut_parts(label_map: LabelMap, wanted: Mask, first: int, speck: float) -> CardContent:
    """The parts of `label_map` inside `wanted`, numbered from `first`. `IGNORE` has no part."""
    shown = wanted & (label_map != IGNORE)
    keys = np.where(shown, label_map.astype(np.int32) + 1, 0)
    found = measure.label(keys, background=0, connectivity=1)  # type: ignore[no-untyped-call]
    count = int(found.max())
    area = np.bincount(found.ravel(), minlength=count + 1)
    label_of = np.zeros(count + 1, np.int64)
    label_of[found[shown]] = label_map[shown]
    # a speck stands for the first speck of its class
    stands_for = np.arange(count + 1)
    specks = np.flatnonzero(area < speck * wanted.sum())
    for label in np.unique(label_of[specks[specks > 0]]):
        alike = specks[(specks > 0) & (label_of[specks] == label)]
        stands_for[alike] = alike[0]
    kept = np.unique(stands_for[1:])
    number_of = np.full(count + 1, UNMASKED, np.int32)
    number_of[kept] = first + np.arange(len(kept), dtype=np.int32)
    pixels = np.where(wanted, number_of[stands_for[found]], 0).astype(np.int32)
    numbers = range(first, first + len(kept))
    return CardContent(pixels, dict(zip(numbers, label_of[kept].tolist(), strict=True)))


def whole_part(label: int, wanted: Mask, number: int) -> CardContent:
    """All of `wanted` as one part."""
    return CardContent(np.where(wanted, np.int32(number), np.int32(0)), {number: label})


def no_parts(wanted: Mask) -> CardContent:
    return CardContent(np.where(wanted, np.int32(UNMASKED), np.int32(0)), {})


def part_shapes(
    card: Card, content: NDArray[np.int32], parts: dict[int, Part], label_ids: dict[int, int]
) -> Iterator[Json]:
    """The masks of a card as they are sent; their groups say which parts they are.

    `parts` are those of the card by number, `label_ids` the server's ids by class index.
    """
    windows = ndimage.find_objects(np.maximum(content, 0))
    for number, part in parts.items():
        rows, columns = windows[number - 1]
        inside = enlarge(content[rows, columns] == number, card.factor)
        (points,) = encode_masks(np.where(inside, np.uint8(0), np.uint8(IGNORE))).values()
        left, top = columns.start * card.factor, rows.start * card.factor
        box = [points[-4] + left, points[-3] + top, points[-2] + left, points[-1] + top]
        shape = mask_shape(part.card, label_ids[part.label], [*points[:-4], *box])
        yield {**shape, "group": number}
