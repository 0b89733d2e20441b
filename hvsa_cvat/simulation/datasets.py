"""Videos whose truth is known: one label map a frame, in a folder of PNG files."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Protocol

import numpy as np

from hvsa_cvat.errors import MediaError
from hvsa_cvat.ports import FrameSource, Progress, silent
from hvsa_cvat.types import IGNORE, LabelMap, LabelSet, Size
from hvsa_cvat.video.folder import list_files
from hvsa_cvat.video.frames import Tell
from hvsa_cvat.video.index_map import read_index_map


class LabelMaps(Protocol):
    """The label map of every frame of a video; a list will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int, /) -> LabelMap: ...


class LabelFolder:
    """Label maps read when asked for, uint8 (H, W), unlabelled pixels as `IGNORE`."""

    def __init__(self, paths: Sequence[Path], sizes: Sequence[Size], labels: LabelSet) -> None:
        self._paths = tuple(paths)
        self._sizes = tuple(sizes)
        self._labels = labels

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, frame: int, /) -> LabelMap:
        path = self._paths[frame]
        label_map = read_index_map(path)
        if label_map.shape != self._sizes[frame]:
            (height, width), (h, w) = label_map.shape, self._sizes[frame]
            raise MediaError(
                f"{path} is {width}x{height} but its frame is {w}x{h}; "
                "export labels and frames at one size"
            )
        if self._labels.ignore_index != IGNORE:
            label_map[label_map == self._labels.ignore_index] = IGNORE
        wrong = label_map[(label_map >= len(self._labels)) & (label_map != IGNORE)]
        if wrong.size:
            raise MediaError(
                f"{path} holds class index {wrong.max()} but there are {len(self._labels)} classes "
                f"(0 to {len(self._labels) - 1}, {self._labels.ignore_index} for unlabelled); "
                "name all classes or mend the file"
            )
        return label_map


def open_labels(
    folder: Path, frames: FrameSource, labels: LabelSet, sizes: Sequence[Size] | None = None
) -> LabelFolder:
    """The label maps of `frames`: one PNG a frame, of the frame's name.

    `sizes`, one a frame, where the frames are no video and have several.

    A video file does not name its frames; there the natural order of the files will do as well,
    when there are as many as frames and none has a frame's name.
    """
    if not folder.is_dir():
        raise MediaError(f"no folder of label maps at {folder}; check the path")
    found = [p for p in list_files(folder) if p.suffix.lower() == ".png"]
    if not found:
        raise MediaError(f"no PNG files in {folder}; expected one label map a frame")
    files = {p.stem: p for p in found}
    names = list(frames.names)
    sizes = sizes or [frames.size] * len(names)
    numbered = names == [f"frame_{i:06d}" for i in range(len(names))]
    if numbered and len(files) == len(names) and files.keys().isdisjoint(names):
        return LabelFolder(list(files.values()), sizes, labels)
    counts = f"{folder} holds {len(files)} label maps for {len(names)} frames"
    for name in names:
        if name not in files:
            raise MediaError(f"{counts}: {name}.png is missing; add it")
    for stem, path in files.items():
        if stem not in set(names):
            raise MediaError(f"{counts}: {path.name} belongs to no frame; move it elsewhere")
    return LabelFolder([files[name] for name in names], sizes, labels)


def check_labels(label_maps: LabelMaps, progress: Progress = silent) -> frozenset[int]:
    """Read every label map once, so that a bad file shows before a long run starts; the values
    that occur, `IGNORE` among them."""
    values: set[int] = set()
    for frame in range(len(label_maps)):
        values.update(np.unique(label_maps[frame]).tolist())
        progress("checking labels", frame + 1, len(label_maps))
    if values <= {IGNORE}:
        raise MediaError("the labels know no pixel of any frame; export them again")
    return frozenset(values)


def tell_unseen(values: Set[int], labels: LabelSet, tell: Tell) -> None:
    """Name the classes that no label map shows, `values` being what `check_labels` returns.

    `MediaError` where nothing but 0 and 255 occurs: those are masks of one object.
    """
    unseen = [name for index, name in enumerate(labels) if index not in values]
    if values == {0, IGNORE} and labels.ignore_index == IGNORE:
        meant = f"{unseen[0]!r}" if unseen else "an object"
        raise MediaError(
            f"the label maps hold no values but 0 and 255, and 255 means unlabelled; save {meant} "
            "as 1 (masks of 0 and 255 divided by 255), and name a class for 0"
        )
    if unseen:
        tell(
            f"no label map shows {', '.join(unseen)}: check the order of the classes, for a "
            "class without a pixel is not learned"
        )
