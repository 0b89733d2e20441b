"""Exports are read back by readers that know nothing of how they were written."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pycocotools.coco import COCO

from hvsa_cvat.cli import main
from hvsa_cvat.cli.export import export as export_command
from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.datasets.cityscapes import open_cityscapes
from hvsa_cvat.datasets.labelled import UNKNOWN
from hvsa_cvat.datasets.palette import open_palette
from hvsa_cvat.enrolled.tasks import EnrolledTasks
from hvsa_cvat.export.cityscapes import Cityscapes
from hvsa_cvat.export.forms import Contents
from hvsa_cvat.export.masks import FrameMasks, PixelKind, RoundMasks
from hvsa_cvat.export.names import frame_files, own_colours
from hvsa_cvat.export.write import WRITERS
from hvsa_cvat.session.publish import published_maps
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, AnswerKind, Answers, LabelMap, LabelSet
from hvsa_cvat.video.index_map import read_index_map
from tests import tiny
from tests.lead import DONE, FRESH, WAITING, Filled, run_of
from tests.team import LENGTH

NAMES = [f"frame_{number:06d}" for number in range(LENGTH)]


def command(filled: Filled, *args: object) -> Result:
    names = ("CVAT_ACCESS_TOKEN", "CVAT_USER", "CVAT_PASSWORD", "HVSA_CONFIG")
    environment = {**filled.environment(), **dict.fromkeys(names)}
    return CliRunner().invoke(main, ["export", *map(str, args)], env=environment)


def exported(filled: Filled, form: str, out: Path, task: int = DONE) -> Path:
    result = command(filled, task, "--format", form, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    return out


def folder_of(filled: Filled, task: int) -> Path:
    return EnrolledTasks(filled.workspace, filled.url, lambda: 0.0).one(task).folder


@pytest.fixture(scope="module")
def published(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> list[LabelMap]:
    """What the masks of the parent task show after its last round."""
    copied = tmp_path_factory.mktemp("published") / "session"
    shutil.copytree(folder_of(filled, DONE), copied)
    with Store(copied) as store:
        session = store.load()
        assert session is not None
        return [shown for _, shown in published_maps(session, store, 2, NAMES)]


def write_frames(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        tiny.save_png(folder / f"{name}.png", np.zeros((*tiny.SIZE, 3), np.uint8))
    return folder


# -- round trips


@pytest.mark.parametrize("form", ["png", "voc"])
def test_colour_maps_are_read_back_as_cvat_exports_them(
    filled: Filled, published: list[LabelMap], tmp_path: Path, form: str
) -> None:
    out = exported(filled, form, tmp_path / "out")
    images = write_frames(tmp_path / "images", NAMES)
    read = open_palette(out, None, images)
    assert read.classes == ("background", *tiny.LABELS)
    assert read.not_meant == {"background"}
    assert list(read.names) == NAMES
    for frame, expected in enumerate(published):
        assert (read.read(frame).indices == expected.astype(int) + 1).all()
    listing = (out / "ImageSets/Segmentation/default.txt").read_text().splitlines()
    assert listing == NAMES


def test_voc_holds_class_numbers(filled: Filled, published: list[LabelMap], tmp_path: Path) -> None:
    out = exported(filled, "voc", tmp_path / "out")
    for name, expected in zip(NAMES, published, strict=True):
        assert (read_index_map(out / f"SegmentationClass/{name}.png") == expected + 1).all()


@pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # pycocotools' own
def test_coco_is_read_back(filled: Filled, published: list[LabelMap], tmp_path: Path) -> None:
    out = exported(filled, "coco", tmp_path / "out")
    coco = COCO(out / "annotations/instances_default.json")
    names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
    assert list(names.values()) == list(tiny.LABELS)
    for expected, image in zip(published, coco.loadImgs(coco.getImgIds()), strict=True):
        shown = np.full(tiny.SIZE, IGNORE, np.uint8)
        for one in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = coco.annToMask(one).astype(bool)
            assert (shown[mask] == IGNORE).all()
            assert mask.sum() == one["area"]
            rows, columns = np.nonzero(mask)
            left, top, width, height = one["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
            shown[mask] = one["category_id"] - 1
        assert (shown == expected).all()


def test_cvat_xml_is_read_back_with_its_sources(
    filled: Filled, published: list[LabelMap], tmp_path: Path
) -> None:
    out = exported(filled, "cvat-xml", tmp_path / "out")
    root = ElementTree.parse(out / "annotations.xml").getroot()
    labels = [one.text for one in root.findall("meta/task/labels/label/name")]
    assert labels == list(tiny.LABELS)
    images = root.findall("image")
    assert [image.get("name") for image in images] == [f"{name}.png" for name in NAMES]
    assert [image.get("id") for image in images] == [str(number) for number in range(LENGTH)]
    for image, expected, masks in zip(
        images, published, RoundMasks(run_of(filled, DONE), 2), strict=True
    ):
        shown = np.full(tiny.SIZE, IGNORE, np.uint8)
        manual = np.zeros(tiny.SIZE, bool)
        for one in image.findall("mask"):
            left, top, width, height = (
                int(one.get(name, "")) for name in ("left", "top", "width", "height")
            )
            runs = [int(run) for run in one.get("rle", "").split(", ")]
            box = [left, top, left + width - 1, top + height - 1]
            filled_shape = fill_shape({"type": "mask", "points": [*runs, *box]}, tiny.SIZE)
            assert filled_shape is not None
            window, mask = filled_shape
            assert (shown[window][mask] == IGNORE).all()
            shown[window][mask] = labels.index(one.get("label"))
            if one.get("source") == "manual":
                manual[window] |= mask
        assert (shown == expected).all()
        assert (manual == (masks.kinds == PixelKind.PERSON)).all()


def test_cityscapes_numbers_other_classes_in_their_order(
    filled: Filled, published: list[LabelMap], tmp_path: Path
) -> None:
    out = exported(filled, "cityscapes", tmp_path / "out")
    lines = (out / "label_colors.txt").read_text().splitlines()
    assert [line.split(" ", 3)[3] for line in lines] == ["unlabeled", *tiny.LABELS]
    city = out / f"gtFine/train/task{DONE}"
    for name, expected in zip(NAMES, published, strict=True):
        ids = read_index_map(city / f"task{DONE}_{name}_gtFine_labelIds.png")
        assert (ids == expected + 1).all()
        colours = tiny.read_png(city / f"task{DONE}_{name}_gtFine_color.png")
        table = [[int(value) for value in line.split(" ")[:3]] for line in lines]
        assert (colours == np.array(table)[ids]).all()


def test_cityscapes_own_classes_have_their_own_ids(tmp_path: Path) -> None:
    label_map = np.array([[0, 1, 2, IGNORE]], np.uint8)
    labels = LabelSet(("car", "road", "sky"))
    contents = Contents("street", 7, labels, own_colours(tiny.COLOURS), (1, 4), 1)
    frame = FrameMasks("frame_000000", 0, label_map, np.ones_like(label_map), label_map)
    writer = Cityscapes(tmp_path, contents)
    writer.add(frame, "a.jpg")
    writer.finish()
    images = tmp_path / "leftImg8bit/train/task7"
    images.mkdir(parents=True)
    tiny.save_png(images / "task7_a_leftImg8bit.png", np.zeros((1, 4, 3), np.uint8))
    read = open_cityscapes(tmp_path)
    indices = read.read(0).indices[0].tolist()
    assert [read.classes[index] for index in indices[:3]] == ["car", "road", "sky"]
    assert indices[3] == UNKNOWN
    assert not (tmp_path / "label_colors.txt").exists()


# -- where pixels come from


def test_what_people_drew_is_told_from_what_was_computed(filled: Filled, tmp_path: Path) -> None:
    run = run_of(filled, DONE)
    answered = {
        annotation.frame: annotation.label_map != IGNORE
        for number in (1, 2)
        for annotation in run.files(number).answers().annotations
    }
    seen: set[int] = set()
    for at, frame in enumerate(RoundMasks(run, 2)):
        people = frame.kinds == PixelKind.PERSON
        for number in (1, 2):
            for annotation in run.files(number).answers().annotations:
                if annotation.frame == at:
                    assert people[annotation.label_map != IGNORE].all()
        assert not people.any() or at in answered
        assert (frame.certainty[people] == 255).all()
        assert (frame.certainty[~people] < 255).all()
        seen |= set(np.unique(frame.kinds).tolist())
    # labels are carried to every pixel of this clip but few
    assert {PixelKind.PERSON, PixelKind.CARRIED} <= seen
    assert seen <= {PixelKind.PERSON, PixelKind.CARRIED, PixelKind.NETWORK}


def test_a_round_knows_nothing_of_later_answers(filled: Filled) -> None:
    for frame in RoundMasks(run_of(filled, DONE), 0):
        assert (frame.kinds == PixelKind.NETWORK).all()
    drawn = [
        sum(int((frame.kinds == PixelKind.PERSON).sum()) for frame in RoundMasks(run, number))
        for run in [run_of(filled, DONE)]
        for number in (1, 2)
    ]
    assert 0 < drawn[0] < drawn[1]


def test_what_people_confirmed_is_told_apart(copied: Filled) -> None:
    folder = folder_of(copied, DONE)
    with Store(folder) as store:
        answers = store.round(2).answers()
        confirmed = next(iter(answers.clicks))
        kinds = {confirmed: AnswerKind.CONFIRMED}
        store.round(2).save_answers(Answers(answers.annotations, answers.clicks, kinds))
        store.save_checksums()
    run = run_of(copied, DONE)
    frame = list(RoundMasks(run, 2))[confirmed.frame]
    # rectangles of 16x16 pixels, four side by side
    rows, columns = divmod(confirmed.segment, 4)
    inside = np.zeros(tiny.SIZE, bool)
    inside[16 * rows : 16 * rows + 16, 16 * columns : 16 * columns + 16] = True
    assert (frame.kinds[inside] == PixelKind.CONFIRMED).all()
    assert not (frame.kinds[~inside] == PixelKind.CONFIRMED).any()


def test_masks_of_older_rounds_are_said_to_be_computed(copied: Filled) -> None:
    folder = folder_of(copied, DONE)
    shutil.rmtree(folder / "rounds/2/origins")
    with closing(sqlite3.connect(folder / "session.db")) as connection, connection:
        connection.execute("DELETE FROM artefacts WHERE path LIKE 'rounds/2/origins/%'")
    seen = {
        kind
        for frame in RoundMasks(run_of(copied, DONE), 2)
        for kind in np.unique(frame.kinds).tolist()
    }
    assert seen == {PixelKind.COMPUTED, PixelKind.PERSON}


def test_provenance_lies_beside_every_form(filled: Filled, tmp_path: Path) -> None:
    masks = list(RoundMasks(run_of(filled, DONE), 2))
    for form in WRITERS:
        out = exported(filled, form, tmp_path / form)
        content = json.loads((out / "provenance.json").read_text())
        assert (content["task"], content["round"]) == (DONE, 2)
        assert sum(content["pixels"].values()) == LENGTH * tiny.SIZE[0] * tiny.SIZE[1]
        for frame, row in zip(masks, content["frames"], strict=True):
            kinds = read_index_map(out / f"provenance/kinds/{frame.name}.png")
            assert (kinds == frame.kinds).all()
            certainty = tiny.read_png(out / f"provenance/certainty/{frame.name}.png")
            assert (certainty == frame.certainty).all()
            drawn = int((kinds == content["kinds"]["person"]).sum())
            assert row["pixels"].get("person", 0) == drawn
            assert row["frame"] == frame.number


# -- names and colours


def test_images_keep_the_names_under_which_cvat_finds_them() -> None:
    names = ("frame_000000", "frame_000001")
    plain = ("frame_000000.png", "frame_000001.png")
    assert frame_files(names, ("a b.JPG", "day 2/c.png")) == ("a b.JPG", "day 2/c.png")
    assert frame_files(names, ()) == plain
    for files in (("../a.png", "b.png"), ("/a.png", "b.png"), ("a.png", "A.jpg"), ("a", "b.png")):
        assert frame_files(names, files) == plain


def test_no_two_classes_have_one_colour() -> None:
    given = np.array([(0, 0, 0), (9, 9, 9), (9, 9, 9), (128, 0, 0)], np.uint8)
    colours = own_colours(given)
    assert len(set(colours)) == 4
    assert (0, 0, 0) not in colours
    assert colours[1] == (9, 9, 9)


# -- what cannot be exported


def refused(result: Result, code: int = 2) -> str:
    assert result.exit_code == code, (result.output, result.exception)
    (line,) = result.stderr.strip().splitlines()
    return line


def test_nothing_is_written_over(filled: Filled, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    line = refused(command(filled, DONE, "--format", "png", "--out", tmp_path))
    assert f"--out '{tmp_path}' is there already" in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_rounds_without_masks_are_one_line(filled: Filled, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refused(command(filled, FRESH, "--format", "png", "--out", out))
    assert "no masks yet; run `hvsa-agent sync`" in line
    line = refused(command(filled, WAITING, "--format", "png", "--out", out, "--round", 2))
    assert "rounds with masks: 0, 1" in line
    assert "is not enrolled" in refused(command(filled, 99, "--format", "png", "--out", out))
    assert not out.exists()


def test_a_damaged_mask_leaves_nothing(copied: Filled, tmp_path: Path) -> None:
    path = folder_of(copied, DONE) / f"rounds/2/label_maps/{NAMES[-1]}.png"
    path.write_bytes(path.read_bytes()[:-20])
    line = refused(command(copied, DONE, "--format", "cvat-xml", "--out", tmp_path / "out"), 1)
    assert f"{path} is damaged" in line
    assert list(tmp_path.glob("*out*")) == []


def test_a_missing_library_is_named(
    filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    line = refused(command(filled, DONE, "--format", "coco", "--out", tmp_path / "out"))
    assert "pip install 'hvsa-cvat[export]'" in line
    assert not (tmp_path / "out").exists()


def test_the_command_knows_every_form() -> None:
    (option,) = (one for one in export_command.params if one.name == "form")
    assert set(option.type.choices) == set(WRITERS)
