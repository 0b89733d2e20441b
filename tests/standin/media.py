"""The frames of a task: files as uploaded, arrays of a test, or a film; and their chunks."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB."""


class BadMedia(Exception):
    """The files cannot become a task; the text is what the background request reports."""


@dataclass(frozen=True)
class Picture:
    """One image file; of a film only its name and the size of its frames."""

    name: str
    width: int
    height: int
    content: bytes | Pixels = b""
    """The file as it was uploaded, or pixels that become a file when somebody asks."""

    @cached_property
    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else to_png(self.content)


class Film(Sequence[Pixels]):
    """The frames of a film, decoded as they are asked for: onwards is fast, back starts over."""

    def __init__(self, source: Path | bytes, frames: slice = slice(None)) -> None:
        self.source = source
        with self._open() as container:
            packets = sum(packet.size > 0 for packet in container.demux(video=0))
        self.numbers = range(packets)[frames]
        self.place = packets
        self.rest: Iterator[Any] = iter(())

    def _open(self) -> Any:
        if isinstance(self.source, bytes):
            return av.open(io.BytesIO(self.source))
        return av.open(str(self.source))

    def _decode(self) -> Iterator[Any]:
        with self._open() as container:
            yield from container.decode(video=0)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: Any) -> Any:
        number = self.numbers[position]
        if number < self.place:
            self.place, self.rest = 0, self._decode()
        for frame in self.rest:
            self.place += 1
            if self.place > number:
                return frame.to_ndarray(format="rgb24")
        raise IndexError(f"the film ends before frame {number}")


@dataclass(eq=False)
class Media:
    """Frames 0..size-1 of a task. `start`, `step`: source frame of frame i is start + i * step."""

    pictures: Sequence[Picture] = ()
    """One an image; for a film one that names the file."""
    film: Sequence[Pixels] = ()
    """Empty for images."""
    quality: int = 70
    wanted_chunk_size: int = 0
    """As asked for on upload; 0: the server chooses."""
    start: int = 0
    step: int = 1
    deleted: tuple[int, ...] = ()
    chunks: dict[tuple[int, ...], bytes] = field(default_factory=dict)
    """Of films, by their frames; made when first asked for."""

    def __deepcopy__(self, memo: object) -> Media:
        """Pictures, film and chunks are shared, the list of deleted frames is not."""
        return replace(self)

    @property
    def video(self) -> bool:
        return len(self.film) > 0

    @property
    def size(self) -> int:
        return len(self.film) or len(self.pictures)

    @property
    def chunk_size(self) -> int:
        if self.wanted_chunk_size:
            return self.wanted_chunk_size
        if self.video:
            return 36
        area = max([picture.width * picture.height for picture in self.pictures], default=1)
        return max(2, min(72, 36 * 1920 * 1080 // area))

    def source(self, frame: int) -> int:
        """The number that the frame had in what was uploaded."""
        return self.start + frame * self.step

    def frame(self, number: int, original: bool, chunk: Sequence[int]) -> tuple[bytes, str]:
        """One frame as a file and its content type; a film's is taken out of its `chunk`."""
        if self.video:
            frames = Film(self.chunk(chunk, True, False)[0])
            data, kind = to_png(frames[chunk.index(number)]), "png"
        else:
            picture = self.pictures[number]
            data, kind = picture.data, picture.name.rpartition(".")[2].lower()
        if not original:
            return self._jpeg(data), "image/jpeg"
        return data, f"image/{kind.replace('jpg', 'jpeg')}"

    def chunk(self, frames: Sequence[int], original: bool, zipped: bool) -> tuple[bytes, str]:
        """Several frames: a zip of the original files, or a film."""
        if self.video and not zipped:
            key = tuple(frames)
            if key not in self.chunks:
                self.chunks[key] = encode([self.film[number] for number in frames])
            return self.chunks[key], "video/mp4"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for position, number in enumerate(frames):
                data, kind = self.frame(number, original, frames)
                archive.writestr(f"{position:06d}.{kind.removeprefix('image/')}", data)
        return buffer.getvalue(), "application/zip"

    def _jpeg(self, data: bytes) -> bytes:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


def to_png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def encode(frames: Sequence[Pixels]) -> bytes:
    """H.264, yuv420p, as good as lossless, 25 fps; odd sizes grow to even ones."""
    height, width = (side + side % 2 for side in frames[0].shape[:2])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=25, options={"qp": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            more = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
            grown = np.pad(frame, more, "edge")
            film.mux(stream.encode(av.VideoFrame.from_ndarray(grown, format="rgb24")))
        film.mux(stream.encode())
    return buffer.getvalue()


def read_picture(name: str, data: bytes) -> Picture:
    """The size is that of the upright image, as its EXIF tells; a turned one is saved again."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = ImageOps.exif_transpose(image)
            if image.getexif().get(0x0112, 1) != 1:
                buffer = io.BytesIO()
                turned.save(buffer, image.format, quality=100)
                data = buffer.getvalue()
            return Picture(name, *turned.size, data)
    except OSError as error:
        raise BadMedia(f"PIL.UnidentifiedImageError: {error}") from error


def from_uploads(files: dict[str, bytes], data: dict[str, Any]) -> Media:
    """What the server's worker makes of uploaded files; `data` is the body of the last request."""
    mapping, start = data.get("job_file_mapping"), int(data.get("start_frame") or 0)
    stop, quality = data.get("stop_frame"), int(data.get("image_quality") or 70)
    step = int(str(data.get("frame_filter") or "step=1").partition("=")[2])
    chunk_size = int(data.get("chunk_size") or 0)
    wanted = slice(start, None if stop is None else int(stop) + 1, step)
    for name in ("sorting_method", "start_frame", "stop_frame", "frame_filter"):
        if mapping and data.get(name) not in (None, "lexicographical"):
            raise BadMedia(f'ValueError: "job_file_mapping" can\'t be used with "{name}"')
    films = [n for n in files if n.lower().endswith((".mp4", ".avi", ".mov", ".mkv", ".webm"))]
    if films:
        if len(files) > 1:
            raise BadMedia("ValueError: Only one video, archive, pdf, zip file can be attached")
        if mapping:
            raise BadMedia('"job_file_mapping" can\'t be used with sequence-based data like videos')
        try:
            media = from_film(Film(files[films[0]], wanted), films[0])
        except (av.FFmpegError, IndexError) as error:
            raise BadMedia(f"av.error.InvalidDataError: {error}") from error
        return replace(media, quality=quality, wanted_chunk_size=chunk_size, start=start, step=step)
    if mapping:
        names = [name for job in mapping for name in job]
    else:
        names = list(files) if data.get("sorting_method") == "predefined" else sorted(files)
        names = names[wanted]
    if unknown := sorted(set(names) - set(files)):
        raise BadMedia(f"ValueError: No such files: {', '.join(unknown)}")
    if not names:
        raise BadMedia("ValueError: No media data found")
    pictures = [read_picture(name, files[name]) for name in names]
    return Media(pictures, (), quality, chunk_size, start, step)


def from_film(film: Sequence[Pixels], name: str) -> Media:
    height, width = film[0].shape[:2]
    return Media([Picture(name, width, height)], film)


def from_arrays(frames: Sequence[Pixels], names: Sequence[str]) -> Media:
    pairs = zip(names, frames, strict=True)
    return Media([Picture(name, f.shape[1], f.shape[0], f) for name, f in pairs])


def checksum(data: bytes) -> str:
    return str(zlib.crc32(data))
