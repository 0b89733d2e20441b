"""Films as people have them: cut off, joined, with a cover before them."""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from hvsa_cvat.errors import MediaError
from hvsa_cvat.video.frames import open_frames

SIZE = (48, 64)


def picture(i: int) -> NDArray[np.uint8]:
    """Noise that moves, with a grey of 20 + i * 10 below it, so that frames can be told apart."""
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    image = np.roll(noise, 5 * i, axis=1)
    image[24:] = 20 + i * 10
    return image


def write_film(
    path: Path, frames: range, codec: str = "libx264", pixels: str = "yuv420p", **options: str
) -> None:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.height, stream.width = SIZE
        stream.pix_fmt = pixels
        stream.gop_size = 5
        stream.thread_count = 1  # the same bytes each time
        for i in frames:
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24").reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def number(image: NDArray[np.uint8]) -> int:
    return round((float(image[-8:, -8:].mean()) - 20) / 10)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("a.flv", "flv", "yuv420p"),
    ],
)
def test_a_film_that_was_cut_off_is_never_a_shorter_film(
    tmp_path: Path, name: str, codec: str, pixels: str, share: float
) -> None:
    path = tmp_path / name
    write_film(path, range(20), codec, pixels)
    assert len(open_frames(path)) == 20
    whole = path.read_bytes()
    # an odd length is never between two packets of a transport stream
    path.write_bytes(whole[: int(len(whole) * share) | 1])
    with pytest.raises(MediaError, match=f"cannot decode .*{name}"):
        open_frames(path)


def test_a_transport_stream_that_was_cut_between_two_packets_of_a_frame(tmp_path: Path) -> None:
    """The packets before the cut are whole; only the frame shows that something is missing."""
    path = tmp_path / "a.ts"
    write_film(path, range(20))
    whole = path.read_bytes()
    packets = [whole[at : at + 188] for at in range(0, len(whole), 188)]
    inside = [k for k, packet in enumerate(packets) if not packet[1] & 0x40]
    assert len(inside) > 30
    silent = []
    for k in inside:
        path.write_bytes(whole[: 188 * k])
        with suppress(MediaError):
            silent.append((k, len(open_frames(path))))
    assert silent == []


def test_a_raw_stream_that_was_cut_inside_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.h264"
    write_film(path, range(20))
    whole = path.read_bytes()
    assert len(open_frames(path)) == 20
    path.write_bytes(whole[:-8])
    with pytest.raises(MediaError, match="the last frame is not whole"):
        open_frames(path)


def test_a_matroska_film_as_recorders_write_it(tmp_path: Path) -> None:
    # Without seeking back, the sizes of segment and clusters stay open.
    write_film(tmp_path / "live.mkv", range(12), live="1", cluster_time_limit="300")
    whole = (tmp_path / "live.mkv").read_bytes()
    assert len(open_frames(tmp_path / "live.mkv")) == 12
    (tmp_path / "live.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="ends before the end that it announces"):
        open_frames(tmp_path / "live.mkv")


def test_a_fragmented_film_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_film(path, range(15), movflags="frag_keyframe+empty_moov")
    whole = path.read_bytes()
    assert len(open_frames(path)) == 15
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(MediaError, match="ends before the end that it announces"):
        open_frames(path)


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_streams_that_were_joined_are_one_film(tmp_path: Path, suffix: str) -> None:
    codec = {"ts": "libx264", "mpg": "mpeg1video"}[suffix]
    rate = {"ts": 10, "mpg": 25}[suffix]
    joined = b""
    for part in range(3):
        path = tmp_path / f"{part}.{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(rate))
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
            for i in range(4 * part, 4 * part + 4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
            container.mux(stream.encode())
        joined += path.read_bytes()
    (tmp_path / f"all.{suffix}").write_bytes(joined)
    told: list[str] = []
    frames = open_frames(tmp_path / f"all.{suffix}", tell=told.append)
    assert [number(frames[i]) for i in range(len(frames))] == list(range(12))
    assert [number(frames[i]) for i in (11, 2, 7)] == [11, 2, 7]
    assert told == []


def test_damage_in_the_middle_is_told_and_the_frames_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    write_film(path, range(20))
    content = bytearray(path.read_bytes())
    inside = (k for k in range(len(content) // 376, 999) if not content[188 * k + 1] & 0x40)
    middle = 188 * next(inside)  # a packet in which no frame begins
    content[middle + 20 : middle + 180] = bytes(160)
    path.write_bytes(content)
    told: list[str] = []
    frames = open_frames(path, tell=told.append)
    assert len(frames) == 20
    (line,) = told
    assert "of 20 frames are damaged" in line


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_cover_picture_before_the_film_is_passed_over(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=Fraction(1))
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film = container.add_stream("libx264", rate=Fraction(10))
        film.height, film.width, film.pix_fmt = *SIZE, "yuv420p"
        shown = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8), format="rgb24")
        shown = shown.reformat(format="yuvj420p")
        shown.pts = 0
        container.mux(cover.encode(shown))
        container.mux(cover.encode())
        for i in range(6):
            container.mux(film.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        container.mux(film.encode())
    frames = open_frames(path)
    assert frames.size == SIZE
    assert [number(image) for image in frames] == list(range(6))


def test_a_film_that_claims_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.y4m"
    path.write_bytes(b"YUV4MPEG2 W16000 H16000 F25:1 C420jpeg\nFRAME\n" + bytes(1000))
    with pytest.raises(MediaError, match=r"a\.y4m"):
        open_frames(path)
