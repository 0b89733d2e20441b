import io
import os
import resource
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hvsa_cvat.cvat.frames import open_task_frames
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.media import TaskMedia, read_media
from hvsa_cvat.errors import HvsaError, MediaError
from hvsa_cvat.ports import FrameSource, silent
from tests.standin import Fault, ProcessDied, StandIn
from tests.standin.media import Media, Picture, Pixels, encode
from tests.standin.model import Task


@pytest.fixture
def cvat() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def client(cvat: StandIn) -> Iterator[CvatClient]:
    with connect(cvat) as client:
        yield client


def connect(cvat: StandIn) -> CvatClient:
    credentials = Credentials(token=cvat.admin.token)
    return CvatClient(Address(cvat.url), credentials, sleep=lambda seconds: None)


def picture(number: int, size: tuple[int, int] = (32, 48)) -> Pixels:
    """Flat grey that tells the number, and a red corner that tells which way is up."""
    image = np.full((*size, 3), 20 + 3 * number, np.uint8)
    image[: size[0] // 2, : size[1] // 2] = (200, 0, 0)
    return image


def number_of(image: Pixels) -> int:
    """Which `picture` this is."""
    return round((float(image[-6:, -6:].mean()) - 20) / 3)


def clip(length: int, size: tuple[int, int] = (32, 48)) -> list[Pixels]:
    return [picture(number, size) for number in range(length)]


class Served(Media):
    """Media in small chunks, or in place of each chunk something that a test wants sent."""

    chunk_size = 4
    stretched = False
    sent: bytes | None = None

    def chunk(self, frames: Sequence[int], original: bool, zipped: bool) -> tuple[bytes, str]:
        if self.sent is not None:
            return self.sent, "application/octet-stream"
        if not self.stretched:
            return super().chunk(frames, original, zipped)
        # as the real server makes odd sizes even
        height, width = (side + side % 2 for side in self.film[0].shape[:2])
        grown = [cv2.resize(self.film[number], (width, height)) for number in frames]
        return encode(grown), "video/mp4"


def make(cvat: StandIn, *, chunk_size: int = 4, **options: object) -> Task:
    task = cvat.add_task("clip", ["road"], **options)  # type: ignore[arg-type]
    task.media = Served(**vars(task.media))
    task.media.chunk_size = chunk_size
    return task


def media_of(client: CvatClient, task: Task) -> TaskMedia:
    return read_media(client, client.get(f"tasks/{task.id}"))


def open_frames(client: CvatClient, task: Task, cache: Path) -> FrameSource:
    return open_task_frames(client, media_of(client, task), cache, silent)


def fetched(cvat: StandIn) -> int:
    """How many chunks have been asked for since the last call."""
    asked = [request for request in cvat.requests if request.query.get("type") == "chunk"]
    cvat.requests.clear()
    return len(asked)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def delete(client: CvatClient, task: Task, numbers: Sequence[int]) -> None:
    client.change("PATCH", f"tasks/{task.id}/data/meta", {"deleted_frames": list(numbers)})


def test_a_film_of_several_chunks_in_any_order(cvat, client, tmp_path):
    task = make(cvat, video=clip(10))
    steps: list[tuple[str, int, int]] = []
    media = media_of(client, task)
    frames = open_task_frames(client, media, tmp_path, lambda *step: steps.append(step))
    assert steps == [("fetching frames", done, 10) for done in (4, 8, 10)]
    assert media.kind == "video"
    assert (frames.size, len(frames)) == ((32, 48), 10)
    assert list(frames.names) == [f"frame_{number:06d}" for number in range(10)]
    assert [number_of(image) for image in frames] == list(range(10))
    assert [number_of(frames[i]) for i in (9, 0, 5, 5, 4, 6, 3, -1)] == [9, 0, 5, 5, 4, 6, 3, 9]
    image = frames[7]
    assert (image.shape, image.dtype) == ((32, 48, 3), np.uint8)
    assert np.abs(image[4, 4].astype(int) - (200, 0, 0)).max() < 8
    assert np.abs(image.astype(int) - picture(7)).mean() < 2
    with pytest.raises(IndexError):
        frames[10]


def test_reading_in_order_asks_for_nothing_more(cvat, client, tmp_path):
    frames = open_frames(client, make(cvat, video=clip(10)), tmp_path)
    assert fetched(cvat) == 3
    assert len(list(frames)) == 10
    assert cvat.requests == []


@pytest.mark.parametrize("size", [(33, 47), (32, 47), (33, 48)])
def test_a_film_of_one_frame_and_odd_size(cvat, client, tmp_path, size):
    frames = open_frames(client, make(cvat, video=clip(1, size)), tmp_path)
    assert (len(frames), frames.size) == (1, size)
    assert frames[0].shape == (*size, 3)
    assert number_of(frames[0]) == 0


def test_an_odd_size_that_was_stretched_is_put_back(cvat, client, tmp_path):
    across, down = np.meshgrid(np.arange(191), np.arange(143))
    waves = 128 + 100 * np.sin(across / 3) * np.cos(down / 4)
    original = np.repeat(waves[..., np.newaxis], 3, axis=2).astype(np.uint8)
    task = make(cvat, video=[original])
    task.media.stretched = True
    image = open_frames(client, task, tmp_path)[0]
    assert image.shape == original.shape
    assert np.abs(image.astype(int) - original)[:, -20:].mean() < 4


def test_numbers_are_those_of_the_task_where_its_source_starts_later_and_is_stepped(
    cvat, client, tmp_path
):
    task = make(cvat, video=clip(6), start_frame=2, step=3)
    media = media_of(client, task)
    assert media.numbers == (0, 1, 2, 3, 4, 5)
    assert [media.position(number) for number in (0, 5, 6, 17)] == [0, 5, None, None]
    frames = open_task_frames(client, media, tmp_path, silent)
    assert [number_of(image) for image in frames] == [0, 1, 2, 3, 4, 5]


def test_deleted_frames_are_left_out_and_their_chunks_not_fetched(cvat, client, tmp_path):
    task = make(cvat, video=clip(14))
    delete(client, task, [0, 5, 8, 9, 10, 11])
    media = media_of(client, task)
    assert media.numbers == (1, 2, 3, 4, 6, 7, 12, 13)
    assert [media.position(number) for number in (1, 4, 5, 6, 13)] == [0, 3, None, 4, 7]
    steps: list[tuple[str, int, int]] = []
    frames = open_task_frames(client, media, tmp_path, lambda *step: steps.append(step))
    assert fetched(cvat) == 3
    assert steps[-1] == ("fetching frames", 8, 8)
    assert frames.names[:4] == ("frame_000001", "frame_000002", "frame_000003", "frame_000004")
    assert [number_of(image) for image in frames] == [1, 2, 3, 4, 6, 7, 12, 13]

    delete(client, task, [5])
    frames = open_frames(client, task, tmp_path)
    assert fetched(cvat) == 1
    assert [number_of(image) for image in frames] == [n for n in range(14) if n != 5]


def test_frames_that_jobs_share_are_read_once(cvat, client, tmp_path):
    task = make(cvat, video=clip(20), job_size=8, overlap=3)
    media = media_of(client, task)
    served = [number for chunk in media.chunks for number in chunk.numbers]
    assert served == list(range(20))
    frames = open_task_frames(client, media, tmp_path, silent)
    assert [number_of(image) for image in frames] == list(range(20))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_frame_in_use_is_read_under_its_number(data, tmp_path_factory):
    length = data.draw(st.integers(1, 30))
    task_options = {
        "chunk_size": data.draw(st.integers(1, 12)),
        "job_size": data.draw(st.integers(0, 12)),
        "overlap": data.draw(st.integers(0, 5)),
    }
    kept = sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1)))
    images = [np.full((2, 3, 3), number, np.uint8) for number in range(length)]
    with StandIn() as cvat, connect(cvat) as client:
        task = make(cvat, frames=images, **task_options)
        delete(client, task, sorted(set(range(length)) - set(kept)))
        frames = open_frames(client, task, tmp_path_factory.mktemp("cache"))
        assert list(frames.names) == [f"frame_{number:06d}" for number in kept]
        assert [int(image[0, 0, 0]) for image in frames] == kept
        order = data.draw(st.permutations(range(len(kept))))
        assert [int(frames[i][1, 2, 1]) for i in order] == [kept[i] for i in order]


def test_images_are_the_originals_to_the_pixel(cvat, client, tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (5, 7, 3), np.uint8) for _ in range(6)]
    frames = open_frames(client, make(cvat, frames=images), tmp_path)
    assert all(np.array_equal(got, image) for got, image in zip(frames, images, strict=True))


def turned(size: tuple[int, int], orientation: int) -> bytes:
    """An image file, white in its first pixel, that is to be turned before it is shown."""
    image = Image.new("RGB", size[::-1])
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("announced", "orientation", "white"),
    [((6, 4), 6, [0, 3]), ((4, 6), 6, [0, 0]), ((4, 6), 3, [3, 5])],
    ids=["turned by us", "the server heeds no tag", "upside down"],
)
def test_rotated_images_as_the_server_shows_them(
    cvat, client, tmp_path, announced, orientation, white
):
    task = make(cvat, frames=clip(1))
    height, width = announced
    task.media.pictures = [Picture("a.png", width, height, turned((4, 6), orientation))]
    image = open_frames(client, task, tmp_path)[0]
    assert image.shape[:2] == announced
    assert np.argwhere(image[..., 0]).tolist() == [white]


def test_deep_grey_is_read_as_the_server_shows_it(cvat, client, tmp_path):
    deep = np.linspace(300, 4095, 24).astype(np.uint16).reshape(4, 6)  # of a sensor of 12 bits
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "PNG")
    task = make(cvat, frames=clip(1))
    task.media.pictures = [Picture("a.png", 6, 4, buffer.getvalue())]
    image = open_frames(client, task, tmp_path)[0]
    assert image[0, 0].tolist() == [0, 0, 0]
    assert image[-1, -1].tolist() == [255, 255, 255]
    assert (np.diff(image[..., 0].ravel().astype(int)) > 0).all()


# The cache


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_the_cache_survives_our_own_pushes(cvat, client, tmp_path):
    task = make(cvat, video=clip(10))
    open_frames(client, task, tmp_path)
    assert fetched(cvat) == 3
    before = client.get(f"tasks/{task.id}")["updated_date"]
    shape = {"type": "rectangle", "frame": 0, "points": [0, 0, 1, 1]}
    shape["label_id"] = cvat.label(task, "road")
    body = {"version": 0, "tags": [], "tracks": [], "shapes": [shape]}
    client.send("PATCH", f"jobs/{task.jobs[0].id}/annotations", body, action="create")
    assert client.get(f"tasks/{task.id}")["updated_date"] != before
    steps: list[object] = []
    media = media_of(client, task)
    frames = open_task_frames(client, media, tmp_path, lambda *step: steps.append(step))
    assert [number_of(image) for image in frames] == list(range(10))
    assert fetched(cvat) == 0
    assert steps == []


def test_chunks_of_another_date_are_dropped(cvat, client, tmp_path):
    task, other = make(cvat, video=clip(10)), make(cvat, video=clip(3))
    open_frames(client, task, tmp_path)
    open_frames(client, other, tmp_path)
    fetched(cvat)
    assert len(files(tmp_path)) == 4
    task.media.film = clip(20)[10:]
    task.media.chunks.clear()
    task.chunks_updated = cvat.world.now()
    frames = open_frames(client, task, tmp_path)
    assert fetched(cvat) == 3
    assert [number_of(image) for image in frames] == list(range(10, 20))
    assert len(files(tmp_path)) == 4
    open_frames(client, other, tmp_path)
    assert fetched(cvat) == 0


def test_servers_do_not_share_chunks(cvat, client, tmp_path):
    open_frames(client, make(cvat, video=clip(2)), tmp_path)
    with StandIn() as second, connect(second) as its_client:
        task = make(second, video=clip(7)[5:])
        frames = open_frames(its_client, task, tmp_path)
        assert [number_of(image) for image in frames] == [5, 6]
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", [0, 1, 2])
def test_a_killed_fetch_goes_on_where_it_was(cvat, client, tmp_path, when, request_number):
    task = make(cvat, video=clip(10))
    media = media_of(client, task)
    with pytest.raises(ProcessDied), cvat.process_dies(request_number, when):
        open_task_frames(client, media, tmp_path, silent)
    assert len(files(tmp_path)) == request_number
    fetched(cvat)
    steps: list[tuple[str, int, int]] = []
    frames = open_task_frames(client, media, tmp_path, lambda *step: steps.append(step))
    assert fetched(cvat) == 3 - request_number
    assert [done for _, done, _ in steps] == [4, 8, 10][request_number:]
    assert [number_of(image) for image in frames] == list(range(10))


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_damage_before_a_new_start_is_found_too(cvat, client, tmp_path, damage):
    task = make(cvat, video=clip(10))
    open_frames(client, task, tmp_path)
    damage(files(tmp_path)[1])
    fetched(cvat)
    frames = open_frames(client, task, tmp_path)
    assert [number_of(image) for image in frames] == list(range(10))
    assert fetched(cvat) == 1


def test_what_a_killed_process_left_half_written_does_not_count(cvat, client, tmp_path):
    task = make(cvat, video=clip(10))
    open_frames(client, task, tmp_path)
    whole = files(tmp_path)
    half = whole[1].read_bytes()[:100]
    whole[1].unlink()
    for name in ("arrived.mp4", ".arrived-partial-abc.mp4"):
        (whole[0].parent / name).write_bytes(half)
    fetched(cvat)
    frames = open_frames(client, task, tmp_path)
    assert fetched(cvat) == 1
    assert [number_of(image) for image in frames] == list(range(10))
    assert files(tmp_path) == whole


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
@pytest.mark.parametrize("kind", ["video", "frames"])
def test_a_damaged_file_is_fetched_again(cvat, client, tmp_path, damage, kind):
    task = make(cvat, **{kind: clip(10)})
    open_frames(client, task, tmp_path)
    second = next(path for path in files(tmp_path) if "_1-" in path.name)
    frames = open_frames(client, task, tmp_path)
    fetched(cvat)
    damage(second)
    assert [number_of(image) for image in frames] == list(range(10))
    frames = open_frames(client, task, tmp_path)
    assert [number_of(image) for image in frames] == list(range(10))
    assert fetched(cvat) == 1
    assert len(files(tmp_path)) == 3


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_clear_line(cvat, client, tmp_path):
    task = make(cvat, video=clip(10))
    with room_for(500), pytest.raises(HvsaError, match=r"cannot write .*free space") as caught:
        open_frames(client, task, tmp_path)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == []
    assert len(open_frames(client, task, tmp_path)) == 10


# What the server may do


def test_a_server_that_is_still_building_a_chunk_is_waited_for(cvat, client, tmp_path):
    task = make(cvat, video=clip(10))
    media = media_of(client, task)
    cvat.requests.clear()
    cvat.faults = {1: Fault.BUSY, 2: Fault.BUSY, 4: Fault.RESET}
    frames = open_task_frames(client, media, tmp_path, silent)
    assert fetched(cvat) == 6
    assert [number_of(image) for image in frames] == list(range(10))


def test_chunks_that_change_while_they_are_fetched(cvat, client, tmp_path):
    task = make(cvat, video=clip(10))
    media = media_of(client, task)
    task.chunks_updated = cvat.world.now()
    with pytest.raises(MediaError, match=rf"frames of task {task.id} changed .*; run again"):
        open_task_frames(client, media, tmp_path, silent)
    assert files(tmp_path) == []
    assert len(open_frames(client, task, tmp_path)) == 10


def zipped(*images: Pixels) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index, image in enumerate(images):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            archive.writestr(f"{index:06d}.png", png.getvalue())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "sent", "reason"),
    [
        ("video", encode(clip(2)), "sent 2 frames as chunk 0, not 3 frames of 48x32; try again"),
        ("video", encode(clip(4)), "sent more than 3 frames as chunk 0"),
        ("video", encode(clip(3, (34, 48))), "sent frames of 48x34 as chunk 0"),
        ("video", encode(clip(3))[:-200], "sent no sound film as chunk 0"),
        ("video", b"", "sent no sound film as chunk 0"),
        ("video", zipped(*clip(3)), "sent no sound film as chunk 0"),
        ("frames", zipped(*clip(2)), "sent 2 frames as chunk 0"),
        ("frames", zipped(*clip(3, (8, 9))), r"frame 0 of task \d+ is 9x8 but .* announces 48x32"),
        ("frames", encode(clip(3)), "sent no sound zip as chunk 0"),
        ("frames", zipped(*clip(3))[:-30], "sent no sound zip as chunk 0"),
    ],
)
def test_a_chunk_that_is_not_what_was_announced(cvat, client, tmp_path, capfd, kind, sent, reason):
    task = make(cvat, **{kind: clip(3)})
    task.media.sent = sent
    with pytest.raises(MediaError, match=reason) as caught:
        open_frames(client, task, tmp_path)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_a_damaged_image_is_named_and_may_be_deleted(cvat, client, tmp_path):
    task = make(cvat, frames=clip(5))
    pictures = list(task.media.pictures)
    pictures[2] = Picture("c.png", 48, 32, pictures[2].data[:60])
    task.media.pictures = pictures
    with pytest.raises(MediaError, match=rf"frame 2 of task {task.id}: .*; export it again or"):
        open_frames(client, task, tmp_path)
    delete(client, task, [2])
    frames = open_frames(client, task, tmp_path)
    assert [number_of(image) for image in frames] == [0, 1, 3, 4]
