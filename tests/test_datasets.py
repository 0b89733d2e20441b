import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from hvsa_cvat.errors import MediaError
from hvsa_cvat.simulation.datasets import check_labels, open_labels, tell_unseen
from hvsa_cvat.types import IGNORE, Image, LabelSet, Size

LABELS = LabelSet(("road", "sky", "car"))


class Frames:
    """Two black frames of 3x2 pixels."""

    def __init__(self, names: tuple[str, ...] = ("a", "b")) -> None:
        self.names = names
        self.size: Size = (2, 3)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, frame: int) -> Image:
        return np.zeros((2, 3, 3), np.uint8)


def indices(drawing: str) -> np.ndarray:
    rows = [[IGNORE if c == "." else int(c) for c in row] for row in drawing.split()]
    return np.array(rows, np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    PillowImage.fromarray(pixels).save(path)


def test_label_maps_are_matched_by_name(tmp_path: Path) -> None:
    save(tmp_path / "b.PNG", indices("111 222"))
    save(tmp_path / "a.png", indices("001 02."))
    (tmp_path / "notes.txt").write_text("x")
    maps = open_labels(tmp_path, Frames(), LABELS)
    seen: list[tuple[str, int, int]] = []
    check_labels(maps, lambda *progress: seen.append(progress))
    assert seen == [("checking labels", 1, 2), ("checking labels", 2, 2)]
    assert len(maps) == 2
    assert maps[0].tolist() == indices("001 02.").tolist()
    assert maps[1].tolist() == indices("111 222").tolist()
    assert maps[0].dtype == np.uint8


def test_palettes_and_few_bits_give_indices(tmp_path: Path) -> None:
    coloured = PillowImage.fromarray(indices("012 210"))
    coloured.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9])
    assert coloured.mode == "P"
    coloured.save(tmp_path / "a.png")
    PillowImage.fromarray(indices("010 101").astype(bool)).save(tmp_path / "b.png")
    maps = open_labels(tmp_path, Frames(), LABELS)
    assert maps[0].tolist() == [[0, 1, 2], [2, 1, 0]]
    assert maps[1].tolist() == [[0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_is_not_stretched(tmp_path: Path, bits: int) -> None:
    # One row, classes 0 1 2, padded to whole bytes: a PNG that Pillow itself cannot write.
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    row = {2: bytes([0b00011000]), 4: bytes([0x01, 0x20])}[bits]
    header = struct.pack(">IIBBBBB", 3, 2, bits, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress((b"\0" + row) * 2)) + chunk(b"IEND", b"")
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png)
    assert open_labels(tmp_path, Frames(), LABELS)[0].tolist() == [[0, 1, 2], [0, 1, 2]]


def test_another_ignore_index_becomes_ours(tmp_path: Path) -> None:
    save(tmp_path / "a.png", indices("003 111"))
    save(tmp_path / "b.png", indices("00. 111"))
    maps = open_labels(tmp_path, Frames(), LabelSet(("road", "sky"), ignore_index=3))
    assert maps[0].tolist() == indices("00. 111").tolist()
    assert maps[1].tolist() == indices("00. 111").tolist()


def test_frames_of_a_video_file_are_matched_in_natural_order(tmp_path: Path) -> None:
    save(tmp_path / "x10.png", indices("111 111"))
    save(tmp_path / "x9.png", indices("000 000"))
    video = Frames(("frame_000000", "frame_000001"))
    assert open_labels(tmp_path, video, LABELS)[1].tolist() == indices("111 111").tolist()
    with pytest.raises(MediaError, match=r"2 label maps for 2 frames: a\.png is missing"):
        open_labels(tmp_path, Frames(), LABELS)


def test_names_that_start_at_one_are_not_matched_by_chance(tmp_path: Path) -> None:
    for i in (1, 2):
        save(tmp_path / f"frame_{i:06d}.png", indices("000 000"))
    with pytest.raises(MediaError, match=r"frame_000000\.png is missing"):
        open_labels(tmp_path, Frames(("frame_000000", "frame_000001")), LABELS)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"no folder of label maps at .*nowhere"):
        open_labels(tmp_path / "nowhere", Frames(), LABELS)
    with pytest.raises(MediaError, match="no PNG files in"):
        open_labels(tmp_path, Frames(), LABELS)
    save(tmp_path / "a.png", indices("000 000"))
    with pytest.raises(MediaError, match=r"1 label maps for 2 frames: b\.png is missing"):
        open_labels(tmp_path, Frames(), LABELS)
    save(tmp_path / "b.png", indices("000 000"))
    save(tmp_path / "c.png", indices("000 000"))
    with pytest.raises(MediaError, match=r"c\.png belongs to no frame"):
        open_labels(tmp_path, Frames(), LABELS)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", indices("000 000"))
    bad = tmp_path / "b.png"
    save(bad, indices("00 00"))
    maps = open_labels(tmp_path, Frames(), LABELS)
    with pytest.raises(MediaError, match=r"b\.png is 2x2 but its frame is 3x2"):
        check_labels(maps)
    save(bad, indices("007 113"))
    with pytest.raises(MediaError, match=r"b\.png holds class index 7 but there are 3 classes"):
        check_labels(maps)
    save(bad, np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(MediaError, match=r"b\.png holds colours, not class indices"):
        check_labels(maps)
    save(bad, np.zeros((2, 3), np.uint16))
    with pytest.raises(MediaError, match=r"b\.png holds 16-bit values"):
        check_labels(maps)
    save(bad, np.arange(6, dtype=np.uint8).reshape(2, 3))
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(MediaError, match=r"cannot read the image .*b\.png"):
        check_labels(maps)
    bad.write_bytes(b"")
    with pytest.raises(MediaError, match=r"cannot read the image .*b\.png"):
        check_labels(maps)


def test_masks_of_0_and_255_are_not_taken_for_unlabelled_pixels(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.png", indices("00. ..0"))
    for names in (("background", "object"), ("object",)):
        labels = LabelSet(names)
        values = check_labels(open_labels(tmp_path, Frames(), labels))
        with pytest.raises(MediaError, match=r"no values but 0 and 255.*save .*object.* as 1"):
            tell_unseen(values, labels, list[str]().append)


def test_classes_that_no_label_map_shows_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", indices("00. 111"))
    save(tmp_path / "b.png", indices("001 111"))
    told: list[str] = []
    tell_unseen(check_labels(open_labels(tmp_path, Frames(), LABELS)), LABELS, told.append)
    assert [line.partition(":")[0] for line in told] == ["no label map shows car"]
    save(tmp_path / "b.png", indices("002 111"))
    tell_unseen(check_labels(open_labels(tmp_path, Frames(), LABELS)), LABELS, told.append)
    assert len(told) == 1


def test_a_label_map_that_is_no_png_but_is_called_so_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", indices("001 111"))
    PillowImage.fromarray(indices("001 111")).save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").rename(tmp_path / "b.png")
    with pytest.raises(MediaError, match=r"b.png is a JPEG file in spite of its name"):
        check_labels(open_labels(tmp_path, Frames(), LABELS))


def test_a_label_map_whose_link_is_dead_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", indices("001 111"))
    (tmp_path / "b.png").symlink_to(tmp_path / "moved" / "b.png")
    with pytest.raises(MediaError, match=r"b.png is a link to .*moved"):
        open_labels(tmp_path, Frames(), LABELS)
