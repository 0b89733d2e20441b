"""Whether the frames of a task stand in the order of their numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise


def order_warning(task: int, names: Sequence[str]) -> str | None:
    """One line that names two frames of which the later has the smaller number; None in order.

    CVAT sorts images by the letters of their names unless told otherwise: frame_10 comes before
    frame_2, time jumps, and nothing can be carried from frame to frame. Only names that are alike
    but for their last number are compared.
    """
    for before, after in pairwise(names):
        (head, number, tail), (other, following, end) = _parts(before), _parts(after)
        if number is None or following is None or (head, tail) != (other, end):
            continue
        if number > following:
            return (
                f"task {task}: frame {before!r} comes before {after!r}, so the frames are not in "
                "order of time; make the task anew with sorting method Natural, or number the "
                "files with leading zeros"
            )
    return None


def _parts(name: str) -> tuple[str, int | None, str]:
    """What stands before the last number of a name, the number, and what stands behind."""
    stem, dot, suffix = name.rpartition(".")
    found = re.fullmatch(r"(.*?)(\d+)(\D*)", stem if dot else name, re.DOTALL)
    return (found[1], int(found[2]), found[3] + dot + suffix) if found else (name, None, "")
