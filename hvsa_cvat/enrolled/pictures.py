"""The pictures of one frame: image, masks, and how doubtful they are. All at one small size."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.errors import SessionError
from hvsa_cvat.session.artefacts import VideoFiles
from hvsa_cvat.session.checksums import Checksums
from hvsa_cvat.session.outlook import LEVELS
from hvsa_cvat.types import Image, LabelMap, Size

Value = TypeVar("Value", np.uint8, np.float32)


def frame_image(run: Run, frame: int) -> Image:
    """The frame as the agent keeps it for its work: at the network's size or, where labels are
    carried finer, at that size."""
    video = VideoFiles(run.root, Checksums(run.root))
    for path in (video.carrying_frames, video.frames):
        if path.exists():
            return np.ascontiguousarray(_stored(path)[frame])
    raise SessionError(f"{video.frames} is missing; the next `hvsa-agent sync` makes it again")


def _stored(path: Path) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3), read from the disk where it is used."""
    try:
        frames: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SessionError(f"{path} is damaged; remove it, and sync again") from error
    return frames


def frame_size(run: Run) -> Size | None:
    """The frames' own size, by one of the masks; None where there are none."""
    for name in run.names if run.newest_shown is not None else ():
        with suppress(SessionError):
            height, width = run.files(run.newest_shown or 0).label_map(name).shape
            return height, width
    return None


def frame_masks(run: Run, number: int, frame: int) -> LabelMap:
    """uint8 (H, W): what a round shows, at the frame's own size."""
    return run.files(number).label_map(run.names[frame])


def frame_doubt(run: Run, number: int, frame: int) -> NDArray[np.float32]:
    """float32 (H, W), 0..1: how uncertain the masks of a round are, at the frame's own size."""
    levels = run.files(number).certainty_levels(run.names[frame])
    return np.asarray(1 - (levels + np.float32(0.5)) / LEVELS, np.float32)


def resized(array: NDArray[Value], size: Size) -> NDArray[Value]:
    """(H, W) at another size, without new values."""
    taken = cv2.resize(array, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(taken, array.dtype)
