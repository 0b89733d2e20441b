"""Masks as COCO has them: one annotation for each frame and class, in run lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.export.forms import Contents
from hvsa_cvat.export.masks import FrameMasks, PixelKind
from hvsa_cvat.types import IGNORE, Mask

_BY_PEOPLE = (PixelKind.PERSON, PixelKind.CONFIRMED)


class Coco:
    """`annotations/instances_default.json`, as CVAT names it."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        try:
            from pycocotools import mask
        except ImportError as error:
            raise ConfigError(
                "writing coco needs pycocotools; install it by: pip install 'hvsa-cvat[export]'"
            ) from error
        self._encoder = mask
        self._folder = folder
        self._contents = contents
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, frame: FrameMasks, file: str) -> None:
        height, width = frame.label_map.shape
        image = {"id": len(self._images) + 1, "file_name": file, "width": width, "height": height}
        self._images.append(image)
        for index in np.unique(frame.label_map).tolist():
            if index != IGNORE:
                self._annotations.append(self._annotation(frame, index, image["id"]))

    def finish(self) -> None:
        content = {
            "info": {"description": self._contents.title},
            "licenses": [{"id": 0, "name": "", "url": ""}],
            "categories": [
                {"id": number, "name": name, "supercategory": ""}
                for number, name in enumerate(self._contents.labels, 1)
            ],
            "images": self._images,
            "annotations": self._annotations,
        }
        path = self._folder / "annotations" / "instances_default.json"
        path.parent.mkdir()
        path.write_text(json.dumps(content), encoding="utf-8")

    def _annotation(self, frame: FrameMasks, index: int, image: int) -> dict[str, Any]:
        mask: Mask = frame.label_map == index
        encoded = self._encoder.encode(np.asfortranarray(mask.astype(np.uint8)))
        people = float(np.isin(frame.kinds[mask], _BY_PEOPLE).mean())
        return {
            "id": len(self._annotations) + 1,
            "image_id": image,
            "category_id": index + 1,
            "segmentation": {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")},
            "area": int(mask.sum()),
            "bbox": self._encoder.toBbox(encoded).tolist(),
            "iscrowd": 0,
            "attributes": {
                "source": "manual" if people == 1 else "auto",
                "people": round(people, 4),
                "certainty": round(float(frame.certainty[mask].mean()) / 255, 4),
            },
        }
