"""CamVid and Cityscapes in their official layouts become what every command takes."""

from pathlib import Path

import numpy as np
import pytest

from tests.datasets import photo, read, refused, run, save

# one colour of each of the 32 classes, with the number of the class among the 11
CAMVID = """\
64 128 64 | Animal | 9
192 0 128 | Archway | 1
0 128 192 | Bicyclist | 10
0 128 64 | Bridge | 1
128 0 0 | Building | 1
64 0 128 | Car | 8
64 0 192 | CartLuggagePram | 9
192 128 64 | Child | 9
192 192 128 | Column_Pole | 2
64 64 128 | Fence | 7
128 0 192 | LaneMkgsDriv | 3
192 0 64 | LaneMkgsNonDriv | 3
128 128 64 | Misc_Text | 6
192 0 192 | MotorcycleScooter | 10
128 64 64 | OtherMoving | 8
64 192 128 | ParkingBlock | 4
64 64 0 | Pedestrian | 9
128 64 128 | Road | 3
128 128 192 | RoadShoulder | 4
0 0 192 | Sidewalk | 4
192 128 128 | SignSymbol | 6
128 128 128 | Sky | 0
64 128 192 | SUVPickupTruck | 8
0 0 64 | TrafficCone | 2
0 64 64 | TrafficLight | 6
192 64 128 | Train | 8
128 128 0 | Tree | 5
192 128 192 | Truck_Bus | 8
64 0 64 | Tunnel | 1
192 192 0 | VegetationMisc | 5
0 0 0 | Void | 255
64 192 0 | Wall | 1
"""
ROWS = [line.split(" | ") for line in CAMVID.splitlines()]
NAMES = ("sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car")


def camvid(folder: Path) -> Path:
    """Two frames in which every colour occurs."""
    colours = np.array([[int(value) for value in row[0].split()] for row in ROWS], np.uint8)
    for name in ("0001TP_006690", "0016E5_00390"):
        photo(folder / "701_StillsRaw_full" / f"{name}.png", size=(4, 8))
        save(folder / "LabeledApproved_full" / f"{name}_L.png", colours.reshape(4, 8, 3))
    return folder


@pytest.mark.parametrize("table", [False, True])
def test_camvid(tmp_path: Path, table: bool) -> None:
    folder = camvid(tmp_path / "src")
    if table:
        lines = "".join(f"{row[0]}\t{row[1]}\n" for row in ROWS)
        # the official file spells one class so
        lines = lines.replace("MotorcycleScooter", "MotorcycycleScooter")
        (folder / "label_colors.txt").write_text(lines)

    result = run("camvid", folder, "--frames", "0016E5_*", "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    classes, maps = read(tmp_path / "out")
    assert classes == (*NAMES, "pedestrian", "bicyclist")
    assert list(maps) == ["0016E5_00390"]
    assert np.ravel(maps["0016E5_00390"]).tolist() == [int(row[2]) for row in ROWS]


def test_what_camvid_may_lack(tmp_path: Path) -> None:
    folder = camvid(tmp_path / "src")
    (folder / "label_colors.txt").write_text("1 2 3\tDragon\n")
    line = refused("camvid", folder, "--out", tmp_path / "out")
    assert "names the class 'Dragon', which is none of CamVid's 32" in line
    (folder / "label_colors.txt").unlink()
    save(folder / "LabeledApproved_full" / "0016E5_00390_L.png", np.ones((4, 8, 3), np.uint8))
    line = refused("camvid", folder, "--out", tmp_path / "out")
    assert "holds the colour 1,1,1 (32 pixels, the first at x=0, y=0), which is no class" in line
    (folder / "LabeledApproved_full" / "0016E5_00390_L.png").unlink()
    line = refused("camvid", folder, "--out", tmp_path / "out")
    assert "0016E5_00390.png has no label map 0016E5_00390_L.png" in line
    line = refused("camvid", folder / "701_StillsRaw_full", "--out", tmp_path / "out")
    assert "no files NAME_L.png" in line


IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Of the classes that are scored, in order of their training ids."""


def cityscapes(folder: Path, ids: bool = True) -> Path:
    every = np.arange(36, dtype=np.uint8).reshape(4, 9)
    every[every > 33] = 255
    train = np.full(36, 255, np.uint8)
    train[list(IDS)] = np.arange(19)
    kind, values = ("labelIds", every) if ids else ("labelTrainIds", train.reshape(4, 9))
    for split, city in (("train", "aachen"), ("val", "lindau"), ("test", "berlin")):
        name = f"{city}_000000_000019"
        photo(folder / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", size=(4, 9))
        labels = folder / "gtFine" / split / city
        save(labels / f"{name}_gtFine_{kind}.png", values)
        save(labels / f"{name}_gtFine_color.png", np.zeros((4, 9, 3), np.uint8))
        save(labels / f"{name}_gtFine_instanceIds.png", values.astype(np.uint16) * 1000)
    return folder


@pytest.mark.parametrize("ids", [True, False])
def test_cityscapes(tmp_path: Path, ids: bool) -> None:
    result = run("cityscapes", cityscapes(tmp_path / "src", ids), "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    assert "1 test frames are left out" in result.output
    classes, maps = read(tmp_path / "out")
    assert len(classes) == 19
    assert classes[:3] == ("road", "sidewalk", "building")
    assert classes[-2:] == ("motorcycle", "bicycle")
    assert list(maps) == ["train_aachen_000000_000019", "val_lindau_000000_000019"]
    for label_map in maps.values():
        values = np.ravel(label_map)
        assert values[list(IDS)].tolist() == list(range(19))
        assert (np.delete(values, IDS) == 255).all()


def test_what_cityscapes_may_lack(tmp_path: Path) -> None:
    folder = cityscapes(tmp_path / "src")
    out = tmp_path / "out"
    labels = folder / "gtFine" / "val" / "lindau" / "lindau_000000_000019_gtFine_labelIds.png"
    save(labels, np.full((4, 9), 34, np.uint8))
    line = refused("cityscapes", folder, "--out", out)
    assert "holds 34, but the ids of its kind are 0 to 33, and 255" in line
    labels.unlink()
    line = refused("cityscapes", folder, "--out", out)
    assert (
        "lindau_000000_000019_leftImg8bit.png has no label map "
        "val_lindau_000000_000019_gtFine_labelIds.png" in line
    )
    line = refused("cityscapes", folder / "gtFine", "--out", out)
    assert "holds no leftImg8bit/; unpack leftImg8bit_trainvaltest.zip" in line
    (folder / "leftImg8bit").rename(folder / "gone")
    (folder / "leftImg8bit").mkdir()
    line = refused("cityscapes", folder, "--out", out)
    assert "no files SPLIT/CITY/*_leftImg8bit.png" in line
