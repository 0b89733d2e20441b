import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hvsa_cvat.errors import HvsaError, MediaError
from hvsa_cvat.video.folder import natural_key
from hvsa_cvat.video.frames import open_frames, resized_frames


def save(path: Path, color: tuple[int, ...] = (200, 100, 50), size=(4, 6), **options) -> None:
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[len(color)]
    fill = color if len(color) > 1 else color[0]
    Image.new(mode, (size[1], size[0]), fill).save(path, **options)


def write_video(
    path: Path,
    length: int,
    size=(48, 64),
    codec="libx264",
    stamps=None,
    rotation=0,
    **options: str,
) -> None:
    """Frame i is a flat grey of 20 + i * 10 % 200, so that frames can be told apart."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10), options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 5
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(length):
            frame = av.VideoFrame.from_ndarray(picture(i, size), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[i], Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def picture(i: int, size=(48, 64)) -> NDArray[np.uint8]:
    image = np.full((*size, 3), 20 + i * 10 % 200, np.uint8)
    image[: size[0] // 2, : size[1] // 2] = (200, 0, 0)  # top left is red
    return image


def shade(image: NDArray[np.uint8]) -> int:
    """Which frame of `write_video` this is (of the first 20)."""
    return round((float(image[-8:, -8:].mean()) - 20) / 10)


def test_folder_in_natural_order_without_other_files(tmp_path):
    for name in ("f10.png", "f2.PNG", "f1.jpg", ".hidden.png", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("notes")
        else:
            save(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    frames = open_frames(tmp_path)
    assert list(frames.names) == ["f1", "f2", "f10"]
    assert len(frames) == 3
    assert frames.size == (4, 6)
    assert frames[1].shape == (4, 6, 3)
    assert frames[1].dtype == np.uint8
    assert frames[1][0, 0].tolist() == [200, 100, 50]
    with pytest.raises(IndexError):
        frames[3]


@given(st.lists(st.text(st.sampled_from("a1_02"), min_size=1), unique=True))
def test_natural_order_is_total(names):
    backwards = sorted(names, key=natural_key, reverse=True)
    assert backwards[::-1] == sorted(names, key=natural_key)


def test_natural_order_examples():
    names = ["b", "a10", "a2", "a02", "10", "2"]
    assert sorted(names, key=natural_key) == ["2", "10", "a02", "a2", "a10", "b"]


def test_pixel_formats_become_rgb(tmp_path):
    save(tmp_path / "a_grey.png", (7,))
    save(tmp_path / "b_alpha.png", (10, 20, 30, 0))
    Image.new("RGB", (6, 4), (1, 2, 3)).quantize(4).save(tmp_path / "c_palette.png", transparency=0)
    Image.fromarray(np.full((4, 6), 70000, np.int32)).save(tmp_path / "f_wide.tif")
    Image.new("1", (6, 4), 1).save(tmp_path / "g_bits.bmp")
    Image.new("CMYK", (6, 4)).save(tmp_path / "h_print.tif")
    got = [image[2, 3].tolist() for image in open_frames(tmp_path)]
    assert got == [
        [7] * 3,
        [10, 20, 30],
        [1, 2, 3],
        [255] * 3,
        [255] * 3,
        [255] * 3,
    ]


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    image.save(tmp_path / "a.png", exif=exif)
    frames = open_frames(tmp_path)
    assert frames.size == (6, 4)
    assert np.argwhere(frames[0][..., 0]).tolist() == [[0, 3]]


def test_folder_errors(tmp_path):
    with pytest.raises(MediaError, match="nothere"):
        open_frames(tmp_path / "nothere")
    with pytest.raises(MediaError, match="no images in"):
        open_frames(tmp_path)
    save(tmp_path / "a.png")
    save(tmp_path / "a.jpg")
    with pytest.raises(MediaError, match=r"a.jpg and a.png"):
        open_frames(tmp_path)
    (tmp_path / "a.jpg").unlink()
    save(tmp_path / "b.png", size=(5, 6))
    with pytest.raises(MediaError, match=r"b.png is 6x5 but a.png is 6x4"):
        open_frames(tmp_path)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(MediaError, match=r"b.png"):
        open_frames(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_a_cut_image_is_an_error_not_a_grey_half(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=f"a.{suffix}"):
        open_frames(tmp_path)[0]


def test_floating_point_image_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(MediaError, match="8 or 16 bits"):
        open_frames(tmp_path)[0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b_frames.mp4", {"bf": "3"}),
        ("open_group.mp4", {"bf": "2", "x264-params": "open-gop=1"}),
        ("no_index.h264", {"bf": "0"}),
        ("matroska.mkv", {}),
    ],
)
def test_video_in_any_order(tmp_path, name, options):
    write_video(tmp_path / name, 18, **options)
    frames = open_frames(tmp_path / name)
    assert len(frames) == 18
    assert frames.size == (48, 64)
    assert frames.names[0] == "frame_000000"
    assert frames.names[17] == "frame_000017"
    in_order = [image.copy() for image in frames]
    assert [shade(image) for image in in_order] == list(range(18))
    assert in_order[0][4, 4, 0] > 150  # red first: RGB
    assert in_order[0][4, 4, 2] < 60
    jumps = [17, 0, 9, 9, 8, 10, 3, 16, 5, 6, 17, 4]
    assert all(np.array_equal(frames[i], in_order[i]) for i in jumps)
    assert np.array_equal(frames[-1], in_order[17])
    with pytest.raises(IndexError):
        frames[18]


def test_video_at_uneven_times(tmp_path):
    stamps = [0, 1, 5, 6, 20, 21, 22, 40]
    write_video(tmp_path / "a.mp4", 8, stamps=stamps)
    frames = open_frames(tmp_path / "a.mp4")
    assert [shade(frames[i]) for i in reversed(range(8))] == list(reversed(range(8)))


def test_video_of_one_frame_and_odd_size(tmp_path):
    write_video(tmp_path / "a.avi", 1, size=(33, 47), codec="mjpeg", strict="unofficial")
    frames = open_frames(tmp_path / "a.avi")
    assert len(frames) == 1
    assert frames[0].shape == (33, 47, 3)


def test_rotated_video_is_turned_upright(tmp_path):
    write_video(tmp_path / "a.mp4", 2, rotation=90)
    frames = open_frames(tmp_path / "a.mp4")
    assert frames.size == (64, 48)
    image = frames[0]
    assert image.shape == (64, 48, 3)
    corners = {(y, x): image[y, x, 0] > 150 for y in (8, 56) for x in (8, 40)}
    assert sum(corners.values()) == 1
    with av.open(str(tmp_path / "a.mp4")) as container:
        turned = next(container.decode(video=0)).rotation
    # Counter-clockwise moves what was top left to the bottom left.
    assert corners[(56, 8) if turned % 360 == 90 else (8, 40)]


def test_video_errors_name_the_file(tmp_path, capfd):
    write_video(tmp_path / "good.mp4", 10)
    whole = (tmp_path / "good.mp4").read_bytes()
    cases = {
        "cut.mp4": whole[: len(whole) // 2],
        "garbage.mp4": os.urandom(2000),
        "text.txt": b"hello " * 500,
        "empty.mp4": b"",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=name):
            open_frames(tmp_path / name)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(MediaError, match=r"sound.wav holds no video"):
        open_frames(tmp_path / "sound.wav")
    assert capfd.readouterr() == ("", "")


def test_a_video_cut_short_after_its_index_is_an_error(tmp_path, capfd):
    write_video(tmp_path / "a.mp4", 18)
    with av.open(str(tmp_path / "a.mp4")) as source:
        path = tmp_path / "fast.mp4"
        with av.open(str(path), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    whole = path.read_bytes()
    assert len(open_frames(path)) == 18
    path.write_bytes(whole[: len(whole) - (len(whole) - whole.index(b"mdat")) // 2])
    with pytest.raises(MediaError, match=r"fast.mp4"):
        open_frames(path)
    assert capfd.readouterr() == ("", "")


class Counting:
    """A source that counts its reads."""

    def __init__(self, frames: list[NDArray[np.uint8]]) -> None:
        self.frames = frames
        self.reads = 0
        self.names = [f"frame_{i:06d}" for i in range(len(frames))]
        self.size = frames[0].shape[:2]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, frame: int) -> NDArray[np.uint8]:
        self.reads += 1
        return self.frames[frame]


def test_resized_frames_are_written_once(tmp_path):
    checker = np.indices((8, 12)).sum(axis=0) % 2 * 200
    source = Counting([np.dstack([checker] * 3).astype(np.uint8)] * 3)
    cache = tmp_path / "deep" / "frames.npy"
    steps = []
    small = resized_frames(source, (4, 6), cache, lambda *step: steps.append(step))
    assert small.shape == (3, 4, 6, 3)
    assert small.dtype == np.uint8
    assert (small == 100).all()  # averaged, not sampled
    assert steps[-1] == ("resizing frames", 3, 3)
    assert not small.flags.writeable
    assert source.reads == 3
    resized_frames(source, (4, 6), cache)
    assert source.reads == 3
    assert resized_frames(source, (16, 13), cache).shape == (3, 16, 13, 3)
    cache.write_bytes(cache.read_bytes()[:100])
    assert resized_frames(source, (8, 12), cache)[0].tolist() == source.frames[0].tolist()


def test_resized_frames_leave_nothing_behind_on_failure(tmp_path):
    class Broken(Counting):
        def __getitem__(self, frame: int) -> NDArray[np.uint8]:
            raise MediaError("a.png cannot be read")

    with pytest.raises(HvsaError, match=r"a.png"):
        resized_frames(Broken([np.zeros((4, 4, 3), np.uint8)]), (2, 2), tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []
