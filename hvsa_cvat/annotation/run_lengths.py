"""Label maps to run lengths: one mask per class, in CVAT's format."""

from __future__ import annotations

import numpy as np

from hvsa_cvat.types import IGNORE, LabelMap


def encode_masks(label_map: LabelMap) -> dict[int, list[int]]:
    """The `points` of one CVAT mask for each class present, `IGNORE` left out.

    Row-major run lengths inside the class's box, background first (0 if the first pixel is set) and
    all of them up to the box's last pixel; then left, top, right, bottom, inclusive. Together the
    masks cover every labelled pixel once.
    """
    width = label_map.shape[1]
    breaks = np.ones(label_map.shape, dtype=np.bool_)
    np.not_equal(label_map[:, 1:], label_map[:, :-1], out=breaks[:, 1:])
    start = np.flatnonzero(breaks)
    value = label_map.ravel()[start]
    count = np.bincount(value, minlength=IGNORE)[:IGNORE]
    labels = np.flatnonzero(count)
    if labels.size == 0:
        return {}
    count = count[labels]
    last = np.cumsum(count) - 1
    first = last + 1 - count
    # Stable: the runs of one class stay in order of the image. IGNORE, the greatest, comes last.
    order = np.argsort(value, kind="stable")[: last[-1] + 1]
    length = (np.append(start[1:], label_map.size) - start)[order]
    row, left = np.divmod(start[order], width)

    box_left = np.minimum.reduceat(left, first)
    box_right = np.maximum.reduceat(left + length, first) - 1
    box_top, box_bottom = row[first], row[last]
    box_width = box_right - box_left + 1
    begin = (row - np.repeat(box_top, count)) * np.repeat(box_width, count)
    begin += left - np.repeat(box_left, count)
    end = begin + length

    # A run that reaches the right side of its box goes on at the left side of the next row.
    is_new = np.append(True, begin[1:] != end[:-1])
    is_new[first] = True
    begin, end = begin[is_new], end[np.append(is_new[1:], True)]
    last = np.cumsum(np.add.reduceat(is_new, first, dtype=np.intp)) - 1
    first = np.append(0, last[:-1] + 1)
    runs = np.empty((begin.size, 2), dtype=np.intp)
    runs[1:, 0] = begin[1:] - end[:-1]
    runs[first, 0] = begin[first]
    runs[:, 1] = end - begin
    rest = box_width * (box_bottom - box_top + 1) - end[last]
    tails = np.stack([rest, box_left, box_top, box_right, box_bottom], axis=1).tolist()

    # Converted at once and cut up as lists: this and `json.dumps` are most of the time.
    numbers = runs.ravel().tolist()
    cuts = zip(labels.tolist(), (2 * first).tolist(), (2 * last + 2).tolist(), tails, strict=True)
    return {
        label: numbers[begins:ends] + (tail if tail[0] else tail[1:])
        for label, begins, ends, tail in cuts
    }
