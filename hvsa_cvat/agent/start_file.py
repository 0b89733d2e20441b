"""The network that a session started from, as a file in its folder."""

from __future__ import annotations

from pathlib import Path

from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.errors import SessionError
from hvsa_cvat.segmentation.checkpoint_info import known_classes
from hvsa_cvat.session.checksums import Checksums
from hvsa_cvat.types import LabelSet, Size

START_FILE = "start.safetensors"


def start_checkpoint(
    folder: Path, options: EnrollOptions, size: Size, checksums: Checksums
) -> Path:
    """The checkpoint in the folder of a session, fetched where only other machines have it.

    Earlier versions copied official state dicts as they were: such a copy is converted here.
    """
    path = folder / START_FILE
    if path.exists():
        return path
    if checksums.knows(path):
        return checksums.check(path)
    others = list(folder.glob("start.*"))
    if others:
        # imported here, because it needs PyTorch
        from hvsa_cvat.segmentation.official import convert_official, is_official

        for official in filter(is_official, others):
            convert_official(official, path, size, align_corners=options.align_corners)
            return path
    raise SessionError(
        f"{folder} lacks the network that the session started from; restore the folder from a copy"
    )


def knows_all_classes(checkpoint: Path, labels: LabelSet) -> bool:
    """Whether a checkpoint knows every class."""
    return len(known_classes(checkpoint, labels)) == len(labels)
