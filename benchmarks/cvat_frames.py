"""The frames of a video task by whole chunks, beside one request a frame.

    python -m benchmarks.cvat_frames                        # a film in the stand-in of tests/
    CVAT_HOST=http://... CVAT_ACCESS_TOKEN=... python -m benchmarks.cvat_frames --task 12

Chunks come first, so that a server that has none yet makes them there, then once more into another
empty cache, then from that cache; single frames last, evenly from the whole film, which the server
takes from the chunks that it keeps. Prints milliseconds a frame, downloaded and decoded, how many
times faster chunks are, and what the cache takes on disk.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import click
import cv2
import numpy as np

from hvsa_cvat.config import parse_size
from hvsa_cvat.cvat.frames import open_task_frames
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.media import TaskMedia, read_media
from hvsa_cvat.ports import silent
from hvsa_cvat.types import Size
from hvsa_cvat.video.images import read_image
from tests.standin import StandIn


@click.command()
@click.option("--task", type=int, help="A video task of the server at CVAT_HOST.")
@click.option("--frames", "length", default=72, show_default=True, help="Of the stand-in's film.")
@click.option("--size", default="720x1280", show_default=True, help="Of the stand-in's film.")
@click.option("--single", default=12, show_default=True, help="So many frames one by one.")
def main(task: int | None, length: int, size: str, single: int) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if task is None:
            host, token, task = stack.enter_context(film_task(folder, length, parse_size(size)))
        else:
            host, token = os.environ["CVAT_HOST"], os.environ["CVAT_ACCESS_TOKEN"]
        client = stack.enter_context(CvatClient(Address(host), Credentials(token=token)))
        media = read_media(client, client.get(f"tasks/{task}"))
        cache = folder / "second"
        ways = {
            "chunks, first time": by_chunk(client, media, folder / "first"),
            "chunks": by_chunk(client, media, cache),
            "from the cache": by_chunk(client, media, cache),
        }
        slow = one_by_one(client, media, single, folder / "frame.png")
        disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    frames, (height, width) = len(media.numbers), media.size
    print(
        f"{frames} frames of {width}x{height} in {len(media.chunks)} chunks, milliseconds a frame"
    )
    print(f"one by one          {slow:7.1f}")
    for way, fast in ways.items():
        print(f"{way:<20}{fast:7.1f}   {slow / fast:.0f} times faster")
    decoded = frames * height * width * 3
    print(f"the cache takes {disk / 1e6:.0f} MB, decoded frames would take {decoded / 1e6:.0f} MB")


def by_chunk(client: CvatClient, media: TaskMedia, cache: Path) -> float:
    start = time.perf_counter()
    frames = open_task_frames(client, media, cache, silent)
    for position in range(len(frames)):
        frames[position]
    return 1000 * (time.perf_counter() - start) / len(media.numbers)


def one_by_one(client: CvatClient, media: TaskMedia, count: int, file: Path) -> float:
    path = f"tasks/{media.task}/data/"
    places = np.linspace(0, len(media.numbers) - 1, count).astype(int)
    start = time.perf_counter()
    for place in places:
        number = media.numbers[place]
        client.download(path, file, type="frame", quality="original", number=number)
        read_image(file)
    return 1000 * (time.perf_counter() - start) / count


@contextmanager
def film_task(folder: Path, length: int, size: Size) -> Iterator[tuple[str, str, int]]:
    """Address, token and task of a stand-in with a film."""
    path = folder / "film.mp4"
    write_film(path, length, size)
    with StandIn() as cvat:
        task = cvat.add_task("film", ["any"], video=path)
        yield cvat.url, cvat.admin.token, task.id


def write_film(path: Path, length: int, size: Size) -> None:
    """A view that moves over a picture of coarse and fine patches."""
    rng = np.random.default_rng(0)
    height, width = (side + 3 * length for side in size)
    picture = np.zeros((height, width, 3), np.float32)
    for grain in (4, 16, 64, 256):
        coarse = rng.normal(0, 20, (height // grain + 2, width // grain + 2, 3))
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(picture + 128, 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for i in range(length):
            view = np.ascontiguousarray(picture[3 * i :, 3 * i :][: size[0], : size[1]])
            film.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        film.mux(stream.encode())


if __name__ == "__main__":
    main()
