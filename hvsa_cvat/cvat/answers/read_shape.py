"""One shape of a job as the pixels that it covers."""

from __future__ import annotations

from dataclasses import dataclass

from hvsa_cvat.annotation.polygons import Window
from hvsa_cvat.cvat.answers.remarks import Ignored, TakeRemark
from hvsa_cvat.cvat.shapes import Json, fill_shape
from hvsa_cvat.errors import AnnotationError
from hvsa_cvat.types import Mask, Size


@dataclass(frozen=True)
class Drawn:
    """A shape that covers pixels of a picture."""

    label: int
    """Class index."""
    shape: Json
    window: Window
    inside: Mask
    """bool, of the window's size."""


def read_shape(label: int, shape: Json, size: Size, remark: TakeRemark) -> Drawn | None:
    """A shape as the pixels it covers; None, and a remark, where it covers none or is damaged."""
    try:
        filled = fill_shape(shape, size)
    except AnnotationError as error:
        remark(str(error))
        return None
    if filled is None:
        remark(Ignored(shape_name(shape), "it covers no pixels"))
        return None
    return Drawn(label, shape, *filled)


def shape_name(shape: Json) -> str:
    """A shape or track, for people."""
    if "track_id" in shape:
        return f"track {shape['track_id']}"
    return f"{shape['type']} {shape['id']} on frame {shape['frame']}"
