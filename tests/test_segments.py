from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from hvsa_cvat.errors import ConfigError, MediaError
from hvsa_cvat.video.segments import (
    Granularity,
    MapFiles,
    MergedSuperpixels,
    Rectangles,
    Superpixels,
    WholeFrames,
    build_segments,
    granularity_by_round,
)


class Frames:
    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.names = [f"frame_{i:06d}" for i in range(len(images))]
        self.size = images.shape[1:3]
        self.reads = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, frame: int) -> np.ndarray:
        self.reads += 1
        return self.images[frame]


def noise(length=2, size=(30, 40), seed=0) -> Frames:
    rng = np.random.default_rng(seed)
    images = ndimage.gaussian_filter(rng.normal(size=(length, *size, 3)), (0, 3, 3, 0))
    images = np.interp(images, (images.min(), images.max()), (0, 255))
    return Frames(images.astype(np.uint8))


def drawn(text: str) -> np.ndarray:
    return np.array([[int(c) for c in line] for line in text.split()])


def assert_partition(segments, length, size) -> None:
    assert len(segments) == length
    for frame in range(length):
        segment_map = segments[frame]
        assert segment_map.dtype == np.int32
        assert segment_map.shape == size
        assert np.unique(segment_map).tolist() == list(range(segments.count(frame)))
    with pytest.raises(IndexError):
        segments[length]


def assert_connected(segment_map) -> None:
    for i in range(segment_map.max() + 1):
        assert ndimage.label(segment_map == i)[1] == 1


sides = st.integers(1, 23)


@given(length=st.integers(1, 3), height=sides, width=sides, rows=sides, cols=sides)
def test_grids_partition_every_frame(length, height, width, rows, cols):
    assert_partition(WholeFrames(length, (height, width)), length, (height, width))
    grid = Rectangles(length, (height, width), rows, cols)
    assert_partition(grid, length, (height, width))
    assert np.bincount(grid[0].ravel()).max() <= rows * cols
    assert grid.count(0) == -(-height // rows) * -(-width // cols)


def test_grid_by_hand():
    grid = Rectangles(1, (3, 5), 2, 3)
    assert np.array_equal(grid[0], drawn("00011 00011 22233"))
    assert grid.border_is_free
    whole = WholeFrames(2, (2, 3))
    assert np.array_equal(whole[1], drawn("000 000"))
    assert whole.count(0) == 1
    assert not whole.border_is_free


@pytest.mark.parametrize("number", [1, 2, 20, 60, 1200])
def test_superpixels_partition_every_frame(tmp_path, number):
    source = noise()
    superpixels = Superpixels(source, number, tmp_path)
    assert_partition(superpixels, 2, (30, 40))
    assert_connected(superpixels[1])
    if number < 1000:
        assert number / 2 <= superpixels.count(0) <= number * 2


def test_superpixels_are_computed_once(tmp_path):
    source = noise()
    first = Superpixels(source, 20, tmp_path / "maps")[1]
    assert source.reads == 1
    again = Superpixels(source, 20, tmp_path / "maps")
    assert np.array_equal(again[1], first)
    assert source.reads == 1
    (tmp_path / "maps" / "000001.npz").write_bytes(b"cut")
    assert np.array_equal(Superpixels(source, 20, tmp_path / "maps")[1], first)
    assert source.reads == 2


def halves(frame: int) -> np.ndarray:
    """float32 (2, 3, 4): the left half differs from the right."""
    features = np.zeros((2, 3, 4), np.float32)
    features[0, :, :2] = 5
    features[1, :, 2:] = 1
    return features


def test_merged_superpixels_follow_the_features(tmp_path):
    images = np.zeros((2, 30, 40, 3), np.uint8)
    images[:, :, 20:] = 90
    images[:, :15] += 60  # an edge in the image that the features do not know
    merged = MergedSuperpixels(Frames(images), 2, tmp_path, halves)
    assert_partition(merged, 2, (30, 40))
    left = np.zeros((30, 40), bool)
    left[:, :20] = True
    assert np.array_equal(merged[0] == merged[0][0, 0], left)


@pytest.mark.parametrize("number", [1, 7, 30])
def test_merged_superpixels_give_the_number_and_stay_connected(tmp_path, number):
    rng = np.random.default_rng(0)
    merged = MergedSuperpixels(
        noise(), number, tmp_path, lambda frame: rng.random((5, 8, 10), dtype=np.float32)
    )
    assert_partition(merged, 2, (30, 40))
    assert merged.count(0) == number
    assert_connected(merged[0])


def test_merged_superpixels_of_a_tiny_frame(tmp_path):
    source = Frames(np.zeros((1, 2, 3, 3), np.uint8))
    merged = MergedSuperpixels(source, 6, tmp_path, lambda frame: np.zeros((4, 1, 1), np.float32))
    assert_partition(merged, 1, (2, 3))


def test_given_maps_of_every_format(tmp_path):
    ids = drawn("002 002 992")
    wide = ids.astype(np.uint16) * 1000
    colors = np.zeros((3, 3, 3), np.uint8)
    colors[..., 1] = ids  # id = 256 G
    colors[0, 0] = (0, 0, 1)
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(wide).save(tmp_path / "b.png")
    Image.fromarray(colors).save(tmp_path / "c.png")
    np.save(tmp_path / "d.npy", ids - 5)
    maps = MapFiles(tmp_path, ["a", "b", "c", "d"], (3, 3))
    assert_partition(maps, 4, (3, 3))
    assert maps.border_is_free
    for frame in (0, 1, 3):
        assert np.array_equal(maps[frame], drawn("001 001 221"))
    assert np.array_equal(maps[2], drawn("301 001 221"))


def test_given_maps_errors_name_the_file(tmp_path):
    with pytest.raises(MediaError, match=r"a.png or a.npy"):
        MapFiles(tmp_path, ["a"], (3, 3))
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    Image.new("RGBA", (3, 3)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "d.npy").write_bytes(b"no array")
    np.save(tmp_path / "e.npy", np.zeros((3, 3)))
    maps = MapFiles(tmp_path, ["a", "b", "c", "d", "e"], (3, 3))
    for frame, problem in enumerate(
        [
            r"a.png has the size 3x4, but the frames have 3x3",
            r"b.png is a RGBA image",
            r"c.png",
            r"d.npy",
            r"e.npy holds float64 values",
        ]
    ):
        with pytest.raises(MediaError, match=problem):
            maps[frame]


TEXTS = [
    "frame",
    "rectangle:16",
    "rectangle:20x30",
    "superpixel:300",
    "superpixel-merged:300",
    "maps:some/dir",
]


@pytest.mark.parametrize("text", TEXTS)
def test_granularity_as_text(text):
    granularity = Granularity.parse(text)
    assert str(granularity) == text
    assert Granularity.parse(str(granularity)) == granularity


def test_granularity_values():
    assert Granularity.parse("rectangle:20x30").size == (20, 30)
    assert Granularity.parse("rectangle:16x16") == Granularity.parse("rectangle:16")
    assert Granularity.parse(" superpixel:7 ").number == 7
    assert Granularity.parse("maps:a:b").folder == Path("a:b")


def test_granularity_by_round():
    small, frame = Granularity.parse("rectangle:16"), Granularity.parse("frame")
    assert granularity_by_round("frame", 2) == (frame, frame)
    assert granularity_by_round("rectangle:16, frame", 3) == (small, frame, frame)
    assert granularity_by_round("frame,rectangle:16", 2) == (frame, small)
    with pytest.raises(ConfigError, match="for 2 rounds, but the number of rounds is 1; name at"):
        granularity_by_round("frame,frame", 1)
    with pytest.raises(ConfigError, match="'' is not one of frame"):
        granularity_by_round("frame,", 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "frames",
        "frame:1",
        "frame:",
        "rectangle",
        "rectangle:",
        "rectangle:0",
        "rectangle:3x0",
        "rectangle:-3",
        "rectangle:3x4x5",
        "superpixel",
        "superpixel:0",
        "superpixel:-1",
        "superpixel:many",
        "superpixel-merged:0",
        "maps",
        "maps:",
    ],
)
def test_granularity_errors_list_the_forms(text):
    with pytest.raises(ConfigError, match="is not one of frame, rectangle:16"):
        Granularity.parse(text)


def test_build(tmp_path):
    source = noise()
    Image.new("L", (40, 30)).save(tmp_path / "frame_000000.png")
    Image.new("L", (40, 30)).save(tmp_path / "frame_000001.png")
    kinds = {
        "frame": WholeFrames,
        "rectangle:30x40": Rectangles,
        "superpixel:20": Superpixels,
        "superpixel-merged:20": MergedSuperpixels,
        f"maps:{tmp_path}": MapFiles,
    }
    for text, kind in kinds.items():
        segments = build_segments(Granularity.parse(text), source, tmp_path / "kept", halves)
        assert type(segments) is kind
        assert_partition(segments, 2, (30, 40))
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
        "superpixel-20",
        "superpixel-merged-20",
    ]
    for text in ("rectangle:31", "rectangle:10x41"):
        with pytest.raises(ConfigError, match=r"do not fit into frames of 30x40"):
            build_segments(Granularity.parse(text), source, tmp_path)
    with pytest.raises(ConfigError, match=r"superpixel:1201 asks for more.*30x40"):
        build_segments(Granularity.parse("superpixel:1201"), source, tmp_path)
    with pytest.raises(ValueError, match="features"):
        build_segments(Granularity.parse("superpixel-merged:3"), source, tmp_path)
