"""Label maps that are saved as images of class indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hvsa_cvat.errors import MediaError
from hvsa_cvat.types import LabelMap
from hvsa_cvat.video.images import opened_image

_STRETCHED_GREY = {"L;2": 85, "L;4": 17}
"""Pillow stretches grey of 2 and 4 bits to 0..255, by these factors."""


def read_index_map(path: Path) -> LabelMap:
    """uint8 (H, W) as stored: palette indices, not colours."""
    with opened_image(path) as image:
        if image.format != "PNG":
            raise MediaError(
                f"{path} is a {image.format} file in spite of its name, which may change class "
                "indices; save the label maps as PNG"
            )
        mode = image.mode
        tiles = getattr(image, "tile", [])
        stretched = _STRETCHED_GREY.get(str(tiles[0].args), 1) if tiles and mode == "L" else 1
        pixels = np.array(image)
    if mode not in ("1", "L", "P"):
        kind = "16-bit values" if mode.startswith("I") else "colours"
        raise MediaError(
            f"{path} holds {kind}, not class indices; save it as 8-bit grey or with a palette"
        )
    return pixels.astype(np.uint8) // np.uint8(stretched)
