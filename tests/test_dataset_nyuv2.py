"""The MATLAB file of NYU Depth V2, written here as the official one is, becomes frames."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image as PillowImage
from scipy.io import savemat

from tests.datasets import read, refused, run

NAMES = ("wall", "floor", "book", "bunk bed", "bottle")
# 3 frames of 2x3 pixels; 0 is unlabelled
LABELS = np.array([[[0, 1, 2], [3, 4, 5]], [[1, 1, 1], [2, 2, 2]], [[5, 5, 5], [5, 5, 0]]])


def cells(file: h5py.File, key: str, texts: tuple[str, ...]) -> None:
    """A cell array of texts, as MATLAB stores it."""
    group = file.require_group("#refs#")
    references = []
    for text in texts:
        one = group.create_dataset(
            f"{key}{len(references)}", data=[[ord(c)] for c in text], dtype="u2"
        )
        references.append(one.ref)
    file.create_dataset(key, data=np.array([references], dtype=h5py.ref_dtype))


def write(path: Path, labels: np.ndarray = LABELS, leave_out: str = "") -> Path:
    images = np.stack([np.full((2, 3, 3), 40 * k + 20, np.uint8) for k in range(len(labels))])
    images[:, 0, 2] = (200, 10, 30)
    with h5py.File(path, "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["labels"] = labels.astype(np.uint16).transpose(0, 2, 1)
        cells(file, "names", NAMES)
        cells(file, "scenes", ("kitchen_0004", "kitchen_0004", "office_0001"))
        if leave_out:
            del file[leave_out]
    return path


def fine(path: Path, classes: int = len(NAMES)) -> Path:
    """A small `classMapping40.mat`: the last class has no new one."""
    cell = np.array(["bed", "wall", "books", "floor"], object).reshape(1, -1)
    targets = np.array([[2, 4, 3, 1, 41]], np.uint8)[:, :classes]
    savemat(path, {"mapClass": targets, "className": cell})
    return path


def coarse(path: Path) -> Path:
    """A small `class13Mapping.mat`."""
    cell = np.array(["soft", "hard"], object).reshape(1, -1)
    savemat(path, {"classMapping13": {"labels13": np.array([1, 2, 1, 2]), "class13": cell}})
    return path


def test_classes_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "nyu_depth_v2_labeled.mat")

    result = run("nyuv2", source, "--classes", "floor,bottle", "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    classes, maps = read(tmp_path / "out")
    assert classes == ("floor", "bottle")
    assert maps == {
        "kitchen_0004_0001": [[255, 255, 0], [255, 255, 1]],
        "kitchen_0004_0002": [[255, 255, 255], [0, 0, 0]],
        "office_0001_0003": [[1, 1, 1], [1, 1, 255]],
    }
    with PillowImage.open(tmp_path / "out" / "images" / "office_0001_0003.png") as image:
        assert np.array(image)[0].tolist() == [[100] * 3, [100] * 3, [200, 10, 30]]


def test_the_official_mappings(tmp_path: Path) -> None:
    source = write(tmp_path / "nyu_depth_v2_labeled.mat")
    to_40 = ("--mapping", fine(tmp_path / "classMapping40.mat"))
    to_13 = ("--mapping", coarse(tmp_path / "class13Mapping.mat"))

    assert run("nyuv2", source, *to_40, "--out", tmp_path / "fine").exit_code == 0
    assert run("nyuv2", source, *to_13, *to_40, "--out", tmp_path / "coarse").exit_code == 0

    classes, maps = read(tmp_path / "fine")
    assert classes == ("bed", "wall", "books", "floor")
    assert maps["kitchen_0004_0001"] == [[255, 1, 3], [2, 0, 255]]
    classes, maps = read(tmp_path / "coarse")
    assert classes == ("soft", "hard")
    assert maps["kitchen_0004_0001"] == [[255, 1, 1], [0, 0, 255]]
    line = refused("nyuv2", source, *to_13, "--out", tmp_path / "out")
    assert "class13Mapping.mat starts from the 40 classes; name classMapping40.mat, too" in line


def test_hundreds_of_classes_are_asked_for_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mat", leave_out="names")
    with h5py.File(source, "a") as file:
        del file["#refs#"]
        cells(file, "names", tuple(f"thing {i}" for i in range(300)))
        cells(file, "scenes2", ("a",))
        del file["scenes"]
    line = refused("nyuv2", source, "--out", tmp_path / "out")
    assert "300 classes, and a label map takes at most 255; name those to take by --classes" in line
    assert run("nyuv2", source, "--classes", "thing 4", "--out", tmp_path / "out").exit_code == 0
    assert "frame_0001" in read(tmp_path / "out")[1]


@pytest.mark.parametrize("key", ["images", "labels", "names"])
def test_a_file_that_lacks_something(tmp_path: Path, key: str) -> None:
    source = write(tmp_path / "a.mat", leave_out=key)
    line = refused("nyuv2", source, "--out", tmp_path / "out")
    assert f"holds no '{key}'; the labelled part" in line


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.mat")
    monkeypatch.setitem(sys.modules, "h5py", None)
    line = refused("nyuv2", source, "--out", tmp_path / "out")
    assert "needs h5py; install it by: pip install 'hvsa-cvat[datasets]'" in line


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = write(tmp_path / "a.mat", LABELS + 1)
    assert "frame 1 holds class 6 of 5" in refused("nyuv2", source, "--out", out)
    with h5py.File(source, "a") as file:
        del file["labels"]
        file["labels"] = np.zeros((3, 2, 2), np.uint16)
    assert "which do not belong together" in refused("nyuv2", source, "--out", out)
    source.write_bytes(source.read_bytes()[:900])
    assert "cannot read" in refused("nyuv2", source, "--out", out)
    assert "is not one file, which nyuv2 is" in refused("nyuv2", tmp_path, "--out", out)

    source = write(tmp_path / "b.mat")
    bad = tmp_path / "bad.mat"
    bad.write_text("no MATLAB file, but long enough to be taken for one by its length alone" * 9)
    line = refused("nyuv2", source, "--mapping", bad, "--out", out)
    assert "cannot be read as a MATLAB file" in line
    savemat(bad, {"other": 1})
    line = refused("nyuv2", source, "--mapping", bad, "--out", out)
    assert "holds neither mapClass and className" in line
    line = refused("nyuv2", source, "--mapping", fine(bad, classes=3), "--out", out)
    assert "it maps 3 classes, but there are 5" in line
    line = refused("nyuv2", source, "--mapping", tmp_path / "none.mat", "--out", out)
    assert "cannot be read as a MATLAB file" in line
