"""Human-in-the-loop video semantic segmentation for CVAT.

The names in `__all__` are the public interface; docs/api.md shows them at work. Every other module,
class and function is private: it may change in any release without a note.

A name is imported when it is first used, because PyTorch takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvsa_cvat.annotation.clicks import AnnotationRules
    from hvsa_cvat.config import TrainingConfig
    from hvsa_cvat.errors import HvsaError
    from hvsa_cvat.ports import AnnotationServer, FrameSource, SegmentMaps
    from hvsa_cvat.segmentation.finetune import finetune
    from hvsa_cvat.segmentation.network import SegmentationNetwork
    from hvsa_cvat.segmentation.pairs import TrainingData
    from hvsa_cvat.segmentation.predict import predict
    from hvsa_cvat.segmentation.scoring import score_segments
    from hvsa_cvat.selection.pool import Pool
    from hvsa_cvat.selection.strategy import Query, select
    from hvsa_cvat.simulation.annotator import SimulatedServer
    from hvsa_cvat.types import IGNORE, Answers, Clicks, FrameAnnotation, LabelSet, Sample
    from hvsa_cvat.video.arrays import ArrayFrames
    from hvsa_cvat.video.flow import compute_flow
    from hvsa_cvat.video.flow_estimators import DisFlow
    from hvsa_cvat.video.frames import open_frames
    from hvsa_cvat.video.segments import Rectangles, WholeFrames

__version__ = "0.1.0"

__all__ = [
    "IGNORE",
    "AnnotationRules",
    "AnnotationServer",
    "Answers",
    "ArrayFrames",
    "Clicks",
    "DisFlow",
    "FrameAnnotation",
    "FrameSource",
    "HvsaError",
    "LabelSet",
    "Pool",
    "Query",
    "Rectangles",
    "Sample",
    "SegmentMaps",
    "SegmentationNetwork",
    "SimulatedServer",
    "TrainingConfig",
    "TrainingData",
    "WholeFrames",
    "__version__",
    "compute_flow",
    "finetune",
    "open_frames",
    "predict",
    "score_segments",
    "select",
]

_HOMES = {
    "hvsa_cvat.annotation.clicks": ("AnnotationRules",),
    "hvsa_cvat.config": ("TrainingConfig",),
    "hvsa_cvat.errors": ("HvsaError",),
    "hvsa_cvat.ports": ("AnnotationServer", "FrameSource", "SegmentMaps"),
    "hvsa_cvat.segmentation.finetune": ("finetune",),
    "hvsa_cvat.segmentation.network": ("SegmentationNetwork",),
    "hvsa_cvat.segmentation.pairs": ("TrainingData",),
    "hvsa_cvat.segmentation.predict": ("predict",),
    "hvsa_cvat.segmentation.scoring": ("score_segments",),
    "hvsa_cvat.selection.pool": ("Pool",),
    "hvsa_cvat.selection.strategy": ("Query", "select"),
    "hvsa_cvat.simulation.annotator": ("SimulatedServer",),
    "hvsa_cvat.types": (
        "IGNORE",
        "Answers",
        "Clicks",
        "FrameAnnotation",
        "LabelSet",
        "Sample",
    ),
    "hvsa_cvat.video.arrays": ("ArrayFrames",),
    "hvsa_cvat.video.flow": ("compute_flow",),
    "hvsa_cvat.video.flow_estimators": ("DisFlow",),
    "hvsa_cvat.video.frames": ("open_frames",),
    "hvsa_cvat.video.segments": ("Rectangles", "WholeFrames"),
}
"""The module of each public name: the imports above, for the interpreter."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
