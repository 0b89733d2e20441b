"""Colour-coded labels, as plain folders and as CVAT's export, become what every command takes."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from hvsa_cvat.datasets.palette import open_palette
from hvsa_cvat.datasets.write import Choice, write_dataset
from tests.datasets import photo, read, refused, run, save

BLACK, ROAD, CAR = (0, 0, 0), (128, 64, 128), (0, 0, 142)
LABEL_MAP = (
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n"
)


def paint(drawing: str) -> np.ndarray:
    """uint8 (H, W, 3) of `.` black, `r` road, `c` car."""
    colours = {".": BLACK, "r": ROAD, "c": CAR}
    return np.array([[colours[mark] for mark in row] for row in drawing.split()], np.uint8)


def export(folder: Path, images: bool = True) -> Path:
    """An export `Segmentation mask 1.1` of three frames, of which the last has no mask."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labelmap.txt").write_text(LABEL_MAP)
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    names = [f"frame_{i:06d}" for i in range(3)]
    (folder / "ImageSets" / "Segmentation" / "default.txt").write_text("\n".join(names) + "\n")
    for name, drawing in zip(names[:2], ("rrc r..", "rrr ccc"), strict=True):
        for kind in ("SegmentationClass", "SegmentationObject"):
            save(folder / kind / f"{name}.png", paint(drawing))
    if images:
        for value, name in enumerate(names):
            photo(folder / "JPEGImages" / f"{name}.jpg", value)
    return folder


def test_an_export_of_cvat(tmp_path: Path) -> None:
    result = run("palette", export(tmp_path / "export"), "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    classes, maps = read(tmp_path / "out")
    assert classes == ("road", "car")
    assert maps == {
        "frame_000000": [[0, 0, 1], [0, 255, 255]],
        "frame_000001": [[0, 0, 0], [1, 1, 1]],
    }
    source = tmp_path / "export" / "JPEGImages" / "frame_000001.jpg"
    assert (tmp_path / "out" / "images" / source.name).read_bytes() == source.read_bytes()
    assert "1 of 3 frames have no mask and are left out" in result.output
    assert "2 frames, 2 classes, 16.7 % of the pixels are unlabelled" in result.output


@pytest.mark.parametrize("inside", ["", "task_7/"])
def test_a_zipped_export_leaves_nothing_beside_the_folder(tmp_path: Path, inside: str) -> None:
    folder = export(tmp_path / "export")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, inside + str(path.relative_to(folder)))
    (tmp_path / "to").mkdir()

    result = run("palette", tmp_path / "export.zip", "--out", tmp_path / "to" / "out")

    assert result.exit_code == 0, result.output
    assert len(read(tmp_path / "to" / "out")[1]) == 2
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["out"]


def test_a_background_that_people_made_is_a_class(tmp_path: Path) -> None:
    folder = export(tmp_path / "export")
    (folder / "labelmap.txt").write_text("background:128,64,128::\nsky:0,0,0::\ncar:0,0,142::\n")

    run("palette", folder, "--out", tmp_path / "out")

    assert read(tmp_path / "out")[0] == ("background", "sky", "car")


def test_names_with_blanks_as_cvat_lists_them(tmp_path: Path) -> None:
    folder = export(tmp_path / "export")
    photo(folder / "JPEGImages" / "my film" / "a b.jpg")
    save(folder / "SegmentationClass" / "my film" / "a b.png", paint("rrr ccc"))
    (folder / "ImageSets" / "Segmentation" / "default.txt").write_text('"my film/a b"\n')

    result = run("palette", folder, "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    assert "my film_a b" in read(tmp_path / "out")[1]


def test_frames_that_lie_elsewhere(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", images=False)
    line = refused("palette", folder, "--out", tmp_path / "out")
    assert "masks but no frames; export the task again with 'Save images' on" in line
    for name in ("frame_000000", "frame_000001", "frame_000002"):
        photo(tmp_path / "frames" / f"{name}.png")

    options = ("palette", folder, "--images", tmp_path / "frames", "--out", tmp_path / "out")
    assert run(*options).exit_code == 0

    assert len(read(tmp_path / "out")[1]) == 2


def test_the_black_background_is_a_class_for_those_who_ask(tmp_path: Path) -> None:
    folder = export(tmp_path / "export")

    run("palette", folder, "--classes", "car,background", "--out", tmp_path / "out")

    classes, maps = read(tmp_path / "out")
    assert classes == ("car", "background")
    assert maps["frame_000000"] == [[255, 255, 0], [255, 1, 1]]


@pytest.mark.parametrize(
    "table",
    [
        "road 128 64 128\ncar 0 0 142\nroad 0 0 0\n",
        "# mine\n128 64 128\troad\n0 0 142\tcar\n0, 0, 0, road\n",
        "name,r,g,b\nroad,128,64,128\ncar,0,0,142\nroad,0,0,0\n",
        "\ufeffroad:128,64,128\r\ncar:0,0,142::\r\nroad:0,0,0:left,right:turn\r\n",
    ],
)
def test_plain_folders_with_a_table(tmp_path: Path, table: str) -> None:
    (tmp_path / "table.txt").write_text(table)
    photo(tmp_path / "src" / "images" / "day" / "a.png")
    save(tmp_path / "src" / "labels" / "day" / "a.png", paint("r.c ccc"))

    result = run(
        "palette", tmp_path / "src", "--palette", tmp_path / "table.txt", "--out", tmp_path / "out"
    )

    assert result.exit_code == 0, result.output
    assert read(tmp_path / "out") == (("road", "car"), {"day_a": [[0, 0, 1], [1, 1, 1]]})


def plain(folder: Path, drawing: str = "rrc ccc") -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "labelmap.txt").write_text(LABEL_MAP)
    for name in "ab":
        photo(folder / "images" / f"{name}.png")
        save(folder / "labels" / f"{name}.png", paint(drawing))
    return folder


def test_label_maps_with_a_palette_of_their_own_are_read_by_colour(tmp_path: Path) -> None:
    folder = plain(tmp_path / "src")
    coloured = PillowImage.fromarray(np.array([[1, 0, 0], [1, 1, 1]], np.uint8))
    coloured.putpalette([*CAR, *ROAD])
    coloured.save(folder / "labels" / "a.png")

    assert run("palette", folder, "--out", tmp_path / "out").exit_code == 0

    assert read(tmp_path / "out")[1]["a"] == [[1, 2, 2], [1, 1, 1]]


def test_size_and_pattern(tmp_path: Path) -> None:
    folder = plain(tmp_path / "src")
    for name in "ab":
        photo(folder / "images" / f"{name}.png", 7, (40, 60))
        save(folder / "labels" / f"{name}.png", np.tile(paint("rc"), (40, 30, 1)))
    out = tmp_path / "out"

    result = run("palette", folder, "--size", "32x64", "--frames", "b*", "--out", out)

    assert result.exit_code == 0, result.output
    _, maps = read(out)
    assert list(maps) == ["b"]
    assert np.shape(maps["b"]) == (32, 64)
    assert set(np.ravel(maps["b"])) == {1, 2}
    with PillowImage.open(out / "images" / "b.png") as image:
        assert image.size == (64, 32)
    line = refused("palette", folder, "--frames", "c*", "--out", tmp_path / "none")
    assert "--frames 'c*' is the name of none of 2 frames, which are called a to b" in line


def test_a_class_without_a_pixel_is_named(tmp_path: Path) -> None:
    result = run("palette", plain(tmp_path / "src"), "--out", tmp_path / "out")
    assert "no frame shows background" in result.output


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("road:1,2,3::\ncar:1,2,3::\n", "'road' and 'car' have one colour, 1,2,3"),
        ("road:1,2,3::\ncar\n", "line 2: 'car' is no class with a colour"),
        ("road:1,2,300::\n", "line 1: 'road:1,2,300::' has a value above 255"),
        ("# nothing\n", "names no class"),
        ("car:0,0,142::\n", "a.png holds the colour 128,64,128 (2 pixels, the first at x=0, y=0)"),
        ("road:128,64,128::\n", "add it there, for example as `void:0,0,142::`"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, table: str, line: str) -> None:
    folder = plain(tmp_path / "src")
    (folder / "labelmap.txt").write_text(table)
    assert line in refused("palette", folder, "--out", tmp_path / "out")


def test_half_copied_folders_name_the_file(tmp_path: Path) -> None:
    folder = plain(tmp_path / "src")
    (folder / "labels" / "b.png").unlink()
    line = refused("palette", folder, "--out", tmp_path / "out")
    assert "b.png has no label map b.png (1 label maps for 2 images)" in line
    (folder / "images" / "b.png").unlink()
    save(folder / "labels" / "c.png", paint("rr"))
    assert "c.png has no image c" in refused("palette", folder, "--out", tmp_path / "out")
    save(folder / "images" / "c.png", paint("rr rr"))
    line = refused("palette", folder, "--out", tmp_path / "out")
    assert "c.png is 2x1 but its image c.png is 2x2" in line
    (folder / "labels" / "c.png").write_bytes(b"\x89PNG")
    assert "cannot read the image" in refused("palette", folder, "--out", tmp_path / "out")


def test_an_export_that_was_half_unpacked(tmp_path: Path) -> None:
    folder = export(tmp_path / "export")
    (folder / "JPEGImages" / "frame_000002.jpg").unlink()
    line = refused("palette", folder, "--out", tmp_path / "out")
    assert "default.txt lists 'frame_000002', which is not in" in line


def test_places_that_do_not_fit(tmp_path: Path) -> None:
    folder = plain(tmp_path / "src")
    out = tmp_path / "out"
    assert "no data set at" in refused("palette", tmp_path / "nowhere", "--out", out)
    (tmp_path / "empty").mkdir()
    line = refused("palette", tmp_path / "empty", "--out", out)
    assert "holds no labelmap.txt; name the table of colours by --palette" in line
    table = folder / "labelmap.txt"
    line = refused("palette", tmp_path / "empty", "--palette", table, "--out", out)
    assert "holds neither labels/ nor SegmentationClass/" in line
    line = refused("palette", table, "--out", out)
    assert "labelmap.txt is not a folder, or a zip file of one, which palette is" in line
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 cut off")
    assert "cannot unpack" in refused("palette", tmp_path / "bad.zip", "--out", out)
    line = refused("camvid", folder, "--palette", table, "--out", out)
    assert "--palette goes with palette, not with camvid" in line
    assert "is there already" in refused("palette", folder, "--out", folder / "images")
    line = refused("palette", folder, "--classes", "Road,car", "--out", out)
    assert "no class 'Road' ('Road' only looks like 'road': rename one of them)" in line
    line = refused("palette", folder, "--classes", "background", "--out", out)
    assert "no pixel of 2 frames is labelled as background" in line


def test_classes_that_could_not_be_read_back(tmp_path: Path) -> None:
    folder = plain(tmp_path / "src")
    (folder / "labelmap.txt").write_text("# comment\n0 car:0,0,142::\n1 road:128,64,128::")
    line = refused("palette", folder, "--out", tmp_path / "out")
    assert "rename those that begin with '#' or a number" in line


def test_the_share_that_is_done_is_told(tmp_path: Path) -> None:
    found = open_palette(plain(tmp_path / "src"), None, None)
    told: list[tuple[str, int, int]] = []
    write_dataset(found, Choice(), tmp_path / "out", lambda *step: told.append(step))
    assert told == [("importing frames", 1, 2), ("importing frames", 2, 2)]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run("palette", plain(tmp_path / "src"), "--out", tmp_path / "out").exit_code == 0
    assert len(read(tmp_path / "out")[1]) == 2
