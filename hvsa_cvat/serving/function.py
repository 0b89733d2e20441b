"""The network as an auto-annotation function for CVAT's SDK, command line and agents.

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
    """Make the function from a checkpoint that hvsa-agent wrote. `device` is auto, cpu or cuda.

    CVAT's tools call this with the parameters of their option -p.
    """
    return Detector(SegmentationModel(Path(checkpoint), device))


class Detector:
    """Gives every pixel a class: one mask for each class in an image, or polygons."""

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
        """The shapes of an image. Pixels with a confidence below the threshold are in no shape."""
        upright = ImageOps.exif_transpose(image)
        prediction = self._model.predict(rgb_image(upright, Path(context.frame_name)))
        label_map = prediction.above(context.conf_threshold or 0)
        if context.conv_mask_to_poly:
            return [cvataa.polygon(*polygon) for polygon in encode_polygons(label_map)]
        return [cvataa.mask(*mask) for mask in encode_masks(label_map).items()]
