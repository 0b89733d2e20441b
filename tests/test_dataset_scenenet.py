"""SceneNet RGB-D in its official layout, with a protobuf that the test writes byte by byte."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from tests.datasets import photo, read, refused, run

MAPPING = (
    "wnid     name                        13_classes\n"
    "4546855  wall.n.01                   Wall\n"
    "3365592  floor.n.01                  Floor\n"
    "20000036 cabinettable                Table\n"
)


def varint(value: int) -> bytes:
    head = value & 127
    return bytes([head]) if value < 128 else bytes([head | 128]) + varint(value >> 7)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def instance(index: int, wordnet: str, english: str, kind: int = 4) -> bytes:
    texts = part(2, wordnet.encode()) + part(3, english.encode())
    light = part(5, number(1, 2))  # fields that are not read stand between those that are
    return part(2, number(1, index) + (texts if wordnet else b"") + number(4, kind) + light)


def view(frame: int) -> bytes:
    return part(3, number(1, frame) + part(2, b"\x1d\0\0\x80?"))


def trajectory(path: str, frames: tuple[int, ...]) -> bytes:
    instances = instance(0, "", "", 1) + instance(1, "04546855", "wall", 2)
    instances += instance(300, "20000036", "cabinettable") + instance(4, "03365592", "floor", 2)
    instances += instance(5, "99999999", "dragon")
    layout = part(1, number(1, 3) + part(2, b"kitchen/kitchen6_layout.obj"))
    return part(1, layout + instances + b"".join(map(view, frames)) + part(4, path.encode()))


def instances_of(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(np.array(values, np.uint16)).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two trajectories of two frames, and a third one that nobody has copied."""
    folder = tmp_path / "data" / "val"
    for path in ("0/223", "0/7"):
        for frame in (0, 25):
            photo(folder / path / "photo" / f"{frame}.jpg")
            instances_of(folder / path / "instance" / f"{frame}.png", [[0, 1, 300], [4, 4, 5]])
    (folder.parent / "scenenet_rgbd_val.pb").write_bytes(
        trajectory("0/223", (0, 25)) + trajectory("0/7", (0, 25)) + trajectory("0/8", (0,))
    )
    (tmp_path / "wnid_to_class.txt").write_text(MAPPING)
    return folder


def test_a_trajectory_in_the_classes_of_the_mapping(tmp_path: Path, source: Path) -> None:
    mapping = ("--mapping", tmp_path / "wnid_to_class.txt")

    result = run("scenenet", source, *mapping, "--frames", "0_223_*", "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    assert "gives no class to dragon: their pixels are unlabelled" in result.output
    classes, maps = read(tmp_path / "out")
    assert classes == ("Floor", "Table", "Wall")
    assert list(maps) == ["0_223_0000", "0_223_0025"]
    assert maps["0_223_0025"] == [[255, 2, 1], [0, 0, 255]]
    copied = tmp_path / "out" / "images" / "0_223_0025.jpg"
    assert copied.read_bytes() == (source / "0" / "223" / "photo" / "25.jpg").read_bytes()


def test_classes_by_their_english_names(tmp_path: Path, source: Path) -> None:
    result = run("scenenet", source, "--classes", "dragon,wall", "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    classes, maps = read(tmp_path / "out")
    assert classes == ("dragon", "wall")
    assert len(maps) == 4
    assert maps["0_7_0000"] == [[255, 1, 255], [255, 255, 0]]


def test_half_copied_trajectories(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    (source / "0" / "7" / "instance" / "25.png").unlink()
    line = refused("scenenet", source, "--out", out)
    assert "instance/25.png is missing, and the protobuf lists frame 25" in line.replace("\\", "/")
    instances_of(source / "0" / "7" / "instance" / "25.png", [[0, 1, 2], [4, 4, 5]])
    line = refused("scenenet", source, "--out", out)
    assert "25.png shows instance 2, which" in line
    assert "does not describe; name the protobuf that belongs to the folder" in line
    instances_of(source / "0" / "7" / "instance" / "25.png", [[0, 1, 999], [4, 4, 5]])
    assert "shows instance 999" in refused("scenenet", source, "--out", out)
    line = refused("scenenet", source / "0", "--protobuf", source.parent / "scenenet_rgbd_val.pb",
                   "--out", out)  # fmt: skip
    assert "holds none of the 3 trajectories of" in line
    assert "such as 0/223/photo; give the folder in which these paths begin" in line


def test_a_missing_package_is_named(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    line = refused("scenenet", source, "--out", tmp_path / "out")
    assert "needs protobuf; install it by: pip install 'hvsa-cvat[datasets]'" in line


def test_protobufs_that_do_not_fit(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    pb = source.parent / "scenenet_rgbd_val.pb"
    whole = pb.read_bytes()
    pb.write_bytes(whole[:-3])
    assert "is damaged, or no protobuf of SceneNet" in refused("scenenet", source, "--out", out)
    others = (b"", part(7, whole), part(1, part(9, b"0/223")))
    for other in (*others, whole + part(1, part(2, number(1, 2**30)) + view(0) + part(4, b"0/9"))):
        pb.write_bytes(other)
        line = refused("scenenet", source, "--out", out)
        assert "does not hold the trajectories of scenenet.proto; it belongs to another" in line
    (source.parent / "scenenet_rgbd_train_0.pb").write_bytes(whole)
    line = refused("scenenet", source, "--out", out)
    assert "2 files *.pb lie in" in line
    assert "name the protobuf of its trajectories by --protobuf" in line
    line = refused("scenenet", source, "--protobuf", tmp_path / "none.pb", "--out", out)
    assert "cannot read" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("wnid name class\nwall Wall\n", "line 2: 'wall Wall' is no WordNet id"),
        ("wnid name class\n", "it names no class"),
    ],
)
def test_mappings_that_do_not_fit(tmp_path: Path, source: Path, text: str, line: str) -> None:
    path = tmp_path / "mapping.txt"
    path.write_text(text)
    out = ("--out", tmp_path / "out")
    assert line in refused("scenenet", source, "--mapping", path, *out)
    twice = ("--mapping", path, "--mapping", path)
    assert "scenenet takes one --mapping" in refused("scenenet", source, *twice, *out)
    none = ("--mapping", tmp_path / "none.txt")
    assert "it cannot be read as text" in refused("scenenet", source, *none, *out)
