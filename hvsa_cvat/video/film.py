"""The frames of one video file."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import av
import numpy as np

from hvsa_cvat.errors import MediaError
from hvsa_cvat.ports import Progress
from hvsa_cvat.types import Image, Size
from hvsa_cvat.video.container import is_cut_short
from hvsa_cvat.video.folder import check_size
from hvsa_cvat.video.images import MOST_PIXELS

_JOINABLE = ("mpegts", "mpeg")
"""Formats whose files may be joined byte by byte; FFmpeg calls the packet at each joint corrupt."""


class Film:
    """A `FrameSource`. One decoder is kept at its place; a jump reopens the file at the nearest
    key frame."""

    def __init__(self, path: Path, progress: Progress, tell: Callable[[str], None]) -> None:
        self._path = path
        stamps: list[int | None] = []
        keys: list[int] = []
        damaged: list[int] = []
        size: Size | None = None
        if is_cut_short(path):
            raise MediaError(_damaged(path, "it ends before the end that it announces"))
        for frame, expected in decode_video(path):
            here = (frame.height, frame.width)
            if frame.rotation % 180:
                here = here[::-1]
            size = size or here
            check_size(path, here, size, "its first frame")
            if frame.is_corrupt:
                damaged.append(len(stamps))
            if frame.key_frame:
                keys.append(len(stamps))
            stamps.append(frame.pts)
            progress("reading video", len(stamps), max(expected, len(stamps)))
        if size is None:
            raise MediaError(f"{path} holds no frames; export the video again")
        self._size = size
        self._names = tuple(f"frame_{i:06d}" for i in range(len(stamps)))
        self._stamps = [s for s in stamps if s is not None]
        ordered = all(a < b for a, b in itertools.pairwise(self._stamps))
        # Without a time stamp of its own a frame cannot be found again by seeking.
        seekable = ordered and len(self._stamps) == len(stamps)
        self._keys = sorted({0, *keys}) if seekable else [0]
        if not self._ends_whole():
            raise MediaError(_damaged(path, "the last frame is not whole"))
        _tell_damage(path, damaged, len(stamps), tell)
        self._decoder: Iterator[av.VideoFrame] = iter(())
        self._next = len(stamps)
        self._last: tuple[int, Image] | None = None

    @property
    def names(self) -> Sequence[str]:
        return self._names

    @property
    def size(self) -> Size:
        return self._size

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, frame: int) -> Image:
        frame = range(len(self))[frame]
        if self._last is None or self._last[0] != frame:
            self._last = frame, self._read(frame)
        return self._last[1]

    def _ends_whole(self) -> bool:
        """Whether the last frame is whole; where it is not, more frames are missing.

        Several threads at once hand out the last frames before they have marked them as damaged.
        So those after the last key frame are decoded again, one by one. The first frames after a
        seek may be marked for want of the frames before, so damage must show from the start, too.
        """
        for key in dict.fromkeys((self._keys[-1], 0)):
            last = None
            start = self._stamps[key] if key else None
            for last, _ in decode_video(self._path, start, threads="NONE"):  # noqa: B007
                pass
            if last is not None and not last.is_corrupt:
                return True
        return False

    def _read(self, frame: int) -> Image:
        key = self._keys[bisect.bisect_right(self._keys, frame) - 1]
        if not key <= self._next <= frame:
            self._open_at(key)
        for decoded in self._decoder:
            self._next += 1
            if self._next > frame:
                return upright_image(decoded)
        raise MediaError(f"{self._path} changed while it was in use; start again")

    def _open_at(self, key: int) -> None:
        """Let the decoder's next frame be the key frame `key`."""
        if key:
            decoder = (frame for frame, _ in decode_video(self._path, self._stamps[key]))
            for first in decoder:
                # What an open group shows before its key frame lacks its references: skip it.
                if first.pts is not None and first.pts >= self._stamps[key]:
                    break
            else:
                first = None
            if first is not None and first.pts == self._stamps[key]:
                self._decoder, self._next = itertools.chain((first,), decoder), key
                return
        self._decoder, self._next = (frame for frame, _ in decode_video(self._path)), 0


def decode_video(
    path: Path,
    seek: int | None = None,
    *,
    most_pixels: int = MOST_PIXELS,
    form: str | None = None,
    threads: Literal["AUTO", "NONE"] = "AUTO",
) -> Iterator[tuple[av.VideoFrame, int]]:
    """Frames with the container's own guess of how many there are, from the key frame at or
    before the time stamp `seek`.

    Larger frames than `most_pixels` are not decoded. `form` is FFmpeg's name of the container, any
    where it is None. With several threads, damage in the last frames may not be marked.
    """
    most = {"max_pixels": str(most_pixels)}
    try:
        # The whitelist keeps a playlist dressed up as a video from reaching into the network.
        # FFmpeg decodes some frames while it opens a file, so the limit is given twice.
        options = {"protocol_whitelist": "file", **most}
        with av.open(str(path), format=form, options=options) as container:
            stream = _choose_stream(path, container)
            stream.thread_type = threads
            stream.codec_context.options = most
            if seek is not None:
                container.seek(seek, stream=stream)
            cut = False
            for packet in container.demux(stream):
                cut = packet.is_corrupt if packet.size else cut
                if cut and container.format.name not in _JOINABLE:
                    break
                for frame in packet.decode():
                    yield frame, stream.frames
            if cut:
                raise MediaError(_damaged(path, "a packet is cut short"))
    except av.FFmpegError as error:
        raise MediaError(_damaged(path, error.strerror or str(error))) from error


def _choose_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The film itself: drones and shops put a cover picture before it."""
    # FFmpeg draws plain text as a film of a terminal.
    best = None if container.format.name == "tty" else container.streams.best("video")
    if not isinstance(best, av.VideoStream):
        raise MediaError(f"{path} holds no video; expected a video or a folder of images")
    if best.disposition & av.stream.Disposition.attached_pic:
        raise MediaError(f"{path} holds a cover picture and no video; expected a video")
    return best


def _tell_damage(
    path: Path, damaged: Sequence[int], length: int, tell: Callable[[str], None]
) -> None:
    if damaged:
        tell(
            f"{path}: {len(damaged)} of {length} frames are damaged and may look wrong, the first "
            f"is frame {damaged[0]}; copy the video again if they matter"
        )


def _damaged(path: Path, reason: str) -> str:
    return (
        f"cannot decode {path} as a video: {reason}; it may be cut short or damaged, "
        "copy it again or re-encode it with ffmpeg"
    )


def upright_image(frame: av.VideoFrame) -> Image:
    """A decoded frame as RGB, turned as the video says that it is to be shown."""
    # PyAV gives the angle counter-clockwise, as rot90 takes it.
    image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    return np.ascontiguousarray(image, dtype=np.uint8)
