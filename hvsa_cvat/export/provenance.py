"""Where the pixels of an export come from: two pictures a frame, and a table of counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from hvsa_cvat.export.masks import FrameMasks, PixelKind

FOLDER = "provenance"

_COLOURS = {
    PixelKind.UNLABELLED: (0, 0, 0),
    PixelKind.NETWORK: (117, 112, 179),
    PixelKind.CARRIED: (102, 166, 30),
    PixelKind.COMPUTED: (150, 150, 150),
    PixelKind.CONFIRMED: (230, 171, 2),
    PixelKind.PERSON: (217, 95, 2),
}


class Provenance:
    """Written frame by frame, below `provenance/`, and as a whole in `provenance.json`."""

    def __init__(self, folder: Path, head: dict[str, Any]) -> None:
        """`head` says what the masks are."""
        self._folder = folder
        self._head = head
        self._frames: list[dict[str, Any]] = []
        self._total = np.zeros(len(PixelKind), np.int64)

    def add(self, frame: FrameMasks, file: str) -> None:
        counts = np.bincount(frame.kinds.ravel(), minlength=len(PixelKind))
        self._total += counts
        self._frames.append(
            {
                "frame": frame.number,
                "file": file,
                "pixels": _by_kind(counts),
                "certainty": round(float(frame.certainty.mean()) / 255, 4),
            }
        )
        kinds = PillowImage.fromarray(frame.kinds)
        kinds.putpalette([value for kind in PixelKind for value in _COLOURS[kind]])
        _save(kinds, self._folder / FOLDER / "kinds" / f"{frame.name}.png")
        certainty = PillowImage.fromarray(frame.certainty)
        _save(certainty, self._folder / FOLDER / "certainty" / f"{frame.name}.png")

    def finish(self) -> dict[str, int]:
        """The pixels of each kind that occurs."""
        content = {
            **self._head,
            "kinds": {kind.name.lower(): int(kind) for kind in PixelKind},
            "pixels": _by_kind(self._total),
            "frames": self._frames,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (self._folder / "provenance.json").write_text(text, encoding="utf-8")
        return _by_kind(self._total)


def _by_kind(counts: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, int]:
    return {kind.name.lower(): int(counts[kind]) for kind in PixelKind if counts[kind]}


def _save(image: PillowImage.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
