"""CamVid: street scenes of Cambridge, labelled in 32 colours and scored in 11 classes."""

from __future__ import annotations

from pathlib import Path

from hvsa_cvat.datasets.colours import Palette, make_palette, read_palette
from hvsa_cvat.datasets.labelled import Dataset
from hvsa_cvat.datasets.pairs import by_name, files_below, pair_names, pair_reader, pair_up
from hvsa_cvat.errors import ConfigError, MediaError
from hvsa_cvat.video.folder import IMAGE_SUFFIXES

_LABEL_ENDING = "_L"
_TABLE = "label_colors.txt"

_COLOURS = {
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}

_MEMBERS = {
    "sky": ("Sky",),
    "building": ("Building", "Archway", "Bridge", "Tunnel", "Wall"),
    "pole": ("Column_Pole", "TrafficCone"),
    "road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    "sidewalk": ("Sidewalk", "ParkingBlock", "RoadShoulder"),
    "tree": ("Tree", "VegetationMisc"),
    "sign": ("SignSymbol", "Misc_Text", "TrafficLight"),
    "fence": ("Fence",),
    "car": ("Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"),
    "pedestrian": ("Pedestrian", "Child", "CartLuggagePram", "Animal"),
    "bicyclist": ("Bicyclist", "MotorcycleScooter", "MotorcycycleScooter"),
}
"""The 11 classes that papers score. The official table of colours misspells one of the 32."""

_GROUPS: dict[str, str | None] = {
    member: name for name, members in _MEMBERS.items() for member in members
}
_GROUPS["Void"] = None


def open_camvid(folder: Path) -> Dataset:
    """NAME.png and NAME_L.png, wherever they lie below `folder`; with the colours of
    label_colors.txt, or the official ones where there is none."""
    pngs = files_below(folder, (".png",))
    labels = [p for p in pngs if p.stem.endswith(_LABEL_ENDING)]
    if not labels:
        raise MediaError(
            f"no files NAME{_LABEL_ENDING}.png in {folder}; CamVid's colour-coded labels are "
            "called so (label maps of class indices need no import)"
        )
    others = files_below(folder, IMAGE_SUFFIXES)
    images = [p for p in others if not p.stem.endswith(_LABEL_ENDING)]
    # images and labels lie in folders of different names, so the file names alone must match
    pairs = pair_up(by_name(images, _stem), by_name(labels, _stem), f"{_LABEL_ENDING}.png")
    palette = _palette(folder)
    return Dataset(palette.classes, pair_names(pairs), pair_reader(pairs, palette.read))


def _stem(path: Path) -> str:
    return path.stem.removesuffix(_LABEL_ENDING)


def _palette(folder: Path) -> Palette:
    tables = [p for p in files_below(folder, (".txt",)) if p.name == _TABLE]
    if not tables:
        return make_palette("CamVid's table of colours", _COLOURS.items()).grouped(_GROUPS)
    palette = read_palette(tables[0])
    for name in palette.classes:
        if name not in _GROUPS:
            raise ConfigError(
                f"{tables[0]} names the class {name!r}, which is none of CamVid's 32; remove the "
                "line, or import the folder as KIND palette"
            )
    return palette.grouped(_GROUPS)
