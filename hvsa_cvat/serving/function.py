"""The network as a function for CVAT's own tools: its SDK, its command line, its agents.

    cvat-cli task auto-annotate 12 --function-module hvsa_cvat.serving.function \\
        -p checkpoint=str:kitchen.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cvat_sdk.auto_annotation as cvataa
from PIL import Image as PillowImage
from PIL import ImageOps

from hvsa_cvat.annotation.polygons import encode_polygons
from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.serving.model import SegmentationModel
from hvsa_cvat.video.images import rgb_image


def create(checkpoint: str, device: str = "auto") -> Detector:
    """The function of a checkpoint that hvsa-agent wrote; `device` is auto, cpu or cuda.

    CVAT's tools call it with the parameters of their option -p.
    """
    return Detector(SegmentationModel(Path(checkpoint), device))


class Detector:
    """Every pixel its class: one mask a class and image, or polygons."""

    def __init__(self, model: SegmentationModel) -> None:
        self._model = model
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(name, label, type="mask")
                for label, name in enumerate(model.labels)
            ]
        )

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: PillowImage.Image
    ) -> Sequence[cvataa.DetectionAnnotation]:
        """Pixels of less confidence than `context.conf_threshold` belong to no shape."""
        upright = ImageOps.exif_transpose(image)
        prediction = self._model.predict(rgb_image(upright, Path(context.frame_name)))
        label_map = prediction.above(context.conf_threshold or 0)
        if context.conv_mask_to_poly:
            return [cvataa.polygon(*polygon) for polygon in encode_polygons(label_map)]
        return [cvataa.mask(*mask) for mask in encode_masks(label_map).items()]
