import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from hvsa_cvat.errors import HvsaError
from hvsa_cvat.metrics import Scores, score_video
from hvsa_cvat.report import (
    FramePicture,
    RoundReport,
    RunReport,
    class_colours,
    overlay,
    write_report,
)
from hvsa_cvat.report.pictures import heat, mistakes, outline, shrink_map, timeline
from hvsa_cvat.types import IGNORE, Correspondence, Image, LabelMap, LabelSet

LABELS = LabelSet(("sky", "building", "road", "pavement", "tree", "car", "sign"))
COLOURS = class_colours(len(LABELS))
FRAMES = 41


def scene(frame: int, size: tuple[int, int]) -> LabelMap:
    """A street: a car drives from left to right past a tree and a sign."""
    height, width = size
    label_map = np.zeros(size, np.uint8)
    skyline = [(0, 0.35), (0.2, 0.35), (0.2, 0.2), (0.45, 0.2), (0.45, 0.4), (1, 0.3)]
    house = np.array([*skyline, (1, 0.7), (0, 0.7)]) * (width, height)
    cv2.fillPoly(label_map, [house.astype(np.int32)], 1)
    label_map[int(0.62 * height) :] = 3
    label_map[int(0.7 * height) :] = 2
    cv2.circle(label_map, (int(0.75 * width), int(0.4 * height)), int(0.14 * width), 4, -1)
    label_map[int(0.3 * height) : int(0.66 * height), int(0.12 * width) : int(0.14 * width)] = 6
    car = (int((0.1 + 0.8 * frame / FRAMES) * width), int(0.74 * height))
    cv2.ellipse(label_map, car, (width // 9, height // 14), 0, 0, 360, 5, -1)
    label_map[-height // 20 :] = IGNORE
    return label_map


def photograph(truth: LabelMap, rng: np.random.Generator) -> Image:
    base = np.array(
        [[150, 190, 230], [140, 110, 90], [80, 80, 85], [160, 155, 150], [50, 90, 40],
         [150, 30, 35], [220, 210, 60], *[[40, 40, 45]] * 249], np.float64
    )  # fmt: skip
    noise = cv2.GaussianBlur(rng.normal(0, 40, truth.shape), (0, 0), 2)[..., None]
    shade = np.linspace(20, -20, truth.shape[0])[:, None, None]
    return np.clip(base[truth] + noise * 2 + shade, 0, 255).astype(np.uint8)


def guess(truth: LabelMap, wrong: float, rng: np.random.Generator) -> LabelMap:
    """The truth with about `wrong` of its pixels replaced, in blobs."""
    where = cv2.GaussianBlur(rng.normal(0, 1, truth.shape), (0, 0), truth.shape[1] / 50)
    swapped = np.where(truth == IGNORE, 2, (truth + 1) % (len(LABELS) - 1)).astype(np.uint8)
    right = np.where(truth == IGNORE, np.uint8(2), truth)
    return np.where(where > np.quantile(where, 1 - wrong), swapped, right).astype(np.uint8)


def still(frame: int) -> Correspondence:
    return Correspondence(
        frame, frame + 1, np.zeros((2, 6, 8), np.float16), np.ones((6, 8), np.bool_)
    )


def example(size: tuple[int, int] = (60, 80), shown: int = 2, truth: bool = True) -> RunReport:
    """A run of three rounds, all of it synthetic."""
    rng = np.random.default_rng(7)
    truths = [scene(t, (60, 80)) for t in range(FRAMES)]
    rounds = []
    chosen_when = np.zeros((4, FRAMES), np.int64)
    for number, wrong in enumerate((0.35, 0.16, 0.08, 0.05)):
        predictions = [guess(t, wrong, rng) for t in truths]
        if number:
            frames = rng.choice(FRAMES, 14, replace=False)
            chosen_when[number, frames] = rng.integers(1, 9, 14)
        seconds = {"predict": 6.4 + number, "select": 1.2, "annotate": 840.0 * number}
        rounds.append(
            RoundReport(
                number=number,
                clicks=1024 * number,
                clicks_percent=1.65 * number if truth else None,
                pixels_percent=1.9 * number,
                scores=score_video(predictions, truths, LABELS, still) if truth else None,
                seconds=seconds if number == 0 else {**seconds, "finetune": 98.0 + number},
                chosen=chosen_when[number],
            )
        )
    pictures = []
    for frame in np.linspace(0, FRAMES - 1, shown).astype(int):
        actual = scene(frame, size)
        chosen = np.zeros((12, 16), np.int8)
        for number in (1, 2, 3):
            chosen[rng.integers(2, 11, 3), rng.integers(0, 16, 3)] = number
        doubt = cv2.GaussianBlur((boundaries(actual)).astype(np.float32), (0, 0), size[1] / 80)
        pictures.append(
            FramePicture(
                name=f"street_{frame:04}",
                image=photograph(actual, rng),
                truth=actual if truth else None,
                before=guess(actual, 0.35, rng),
                after=guess(actual, 0.05, rng),
                uncertainty=doubt,
                chosen=cv2.resize(
                    chosen.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST
                ).astype(np.int8),
            )
        )
    settings = {"granularity": "rectangle 40x40", "rounds": "3", "seed": "7", "flow": "dis-medium"}
    return RunReport("street", settings, LABELS, COLOURS, tuple(rounds), tuple(pictures))


def boundaries(label_map: LabelMap) -> np.ndarray:
    kernel = np.ones((3, 3), np.uint8)
    return cv2.dilate(label_map, kernel) != cv2.erode(label_map, kernel)


class Page(HTMLParser):
    """What the tests ask of a page: its tags, its words, its pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.words: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.addresses: list[str | None] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs))
        elif tag not in ("meta", "br"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def page_of(run: RunReport, folder: Path) -> Page:
    write_report(run, folder / "report.html")
    page = Page(folder / "report.html")
    assert page.open == []
    return page


def no_scores() -> Scores:
    """Of one frame without truth: nothing is defined."""
    blank = np.full((6, 8), IGNORE, np.uint8)
    return score_video([np.zeros((6, 8), np.uint8)], [blank], LABELS, still)


def test_the_page_says_what_was_reached_for_how_many_clicks(tmp_path: Path) -> None:
    run = example()
    page = page_of(run, tmp_path)
    scores = run.rounds[-1].scores
    assert scores is not None
    assert scores.miou is not None
    assert "After 3 rounds and 3,072 clicks, 4.9 % of what annotating every frame" in page.text
    assert f"reach a mean IoU of {100 * scores.miou:.1f} %" in page.text
    assert "before the first answer" in page.text
    for name in (*LABELS, "street_0000", "finetune", "rectangle 40x40", "Start"):
        assert name in page.text


def test_the_page_names_classes_that_nobody_has_shown(tmp_path: Path) -> None:
    run = example()
    assert "No answer shows" not in page_of(run, tmp_path).text
    last = replace(run.rounds[-1], unseen=(LABELS.names[1], "<b>"))
    page = page_of(replace(run, rounds=(*run.rounds[:-1], last)), tmp_path)
    assert f"No answer shows {LABELS.names[1]}, <b> yet" in page.text


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = page_of(example(), tmp_path)
    assert page.addresses
    assert all(address and address.startswith("data:image/") for address in page.addresses)
    assert "<script" not in page.source
    assert "url(" not in page.source
    assert "default-src 'none'" in page.source


def test_every_picture_can_be_read_and_is_described(tmp_path: Path) -> None:
    page = page_of(example(), tmp_path)
    assert len(page.pictures) == 3 + 3 + 2 * 6  # curves, timelines, panels
    for picture in page.pictures:
        assert picture["alt"]
        kind, content = (picture["src"] or "").removeprefix("data:image/").split(";base64,")
        data = base64.b64decode(content, validate=True)
        if kind == "svg+xml":
            assert data.startswith(b"<?xml")
        else:
            PilImage.open(io.BytesIO(data)).load()


def test_six_frames_of_480x360_stay_small_and_wider_ones_shrink(tmp_path: Path) -> None:
    page = page_of(example((360, 480), shown=6), tmp_path)
    assert len(page.source) < 4_000_000
    wide = page_of(example((240, 960), shown=1), tmp_path)
    photo = (wide.pictures[-1]["src"] or "").split(",")[1]
    assert PilImage.open(io.BytesIO(base64.b64decode(photo))).size == (480, 120)


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = example(shown=1)
    assert page_of(run, tmp_path / "a").source == page_of(run, tmp_path / "b").source


def test_without_truth_there_are_no_scores(tmp_path: Path) -> None:
    page = page_of(example(truth=False), tmp_path)
    assert "Without truth no score is defined" in page.text
    assert "mIoU" not in page.text
    assert "Truth" not in page.text
    assert "–" in page.text  # the unknown share of the clicks
    assert len(page.pictures) == 3 + 2 * 4


def test_undefined_scores_are_dashes(tmp_path: Path) -> None:
    run = example(shown=0)
    rounds = tuple(replace(r, scores=no_scores()) for r in run.rounds)
    page = page_of(replace(run, rounds=rounds), tmp_path)
    assert "nan" not in page.text.lower()
    assert "None" not in page.text
    assert "sky – – – – – –" in page.text
    assert len(page.pictures) == 3  # no curve without a point


@pytest.mark.parametrize("kept", [0, 1])
def test_a_run_that_has_just_begun(tmp_path: Path, kept: int) -> None:
    run = example(shown=0)
    page = page_of(replace(run, rounds=run.rounds[:kept], settings={}), tmp_path)
    assert ["No round is finished yet.", "Before the first answer, the masks"][kept] in page.text


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    run = example(shown=0)
    page = page_of(replace(run, title="<script>x</script> & co", settings={"a": '"<b>'}), tmp_path)
    assert "<script" not in page.source
    assert "<script>x</script> & co" in page.text
    assert '"<b>' in page.text


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HvsaError, match="file"):
        write_report(example(shown=0), tmp_path / "file" / "report.html")


def test_time_is_summed_by_round_and_by_phase(tmp_path: Path) -> None:
    text = page_of(example(shown=0), tmp_path).text
    # 6.4 + 7.4 + 8.4 + 9.4 s; 3 rounds of finetune 99 + 100 + 101 s; the start has none
    assert re.search(r"predict 6.4 s 7.4 s 8.4 s 9.4 s 32 s", text)
    assert re.search(r"finetune – 1 min 39 s 1 min 40 s 1 min 41 s 5 min 00 s", text)
    assert re.search(r"annotate 0.0 s 14 min 00 s 28 min 00 s 42 min 00 s 1 h 24 min", text)


@pytest.mark.parametrize("n", [0, 1, 10, 30, 255])
def test_class_colours_differ_and_do_not_depend_on_n(n: int) -> None:
    colours = class_colours(n)
    assert colours.shape == (n, 3)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours, axis=0)) == n
    np.testing.assert_array_equal(colours, class_colours(255)[:n])


def test_overlay_blends_labelled_pixels_only() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    blended = overlay(
        image, np.array([[0, 1, IGNORE]], np.uint8), np.array([[200] * 3, [0] * 3], np.uint8), 0.25
    )
    assert blended[0, :, 0].tolist() == [125, 75, 100]
    assert image.min() == 100


def test_outline_frames_each_sample_and_leaves_the_rest() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    chosen = np.zeros((20, 20), np.int8)
    chosen[:, :10] = 1
    drawn = outline(image, chosen)
    np.testing.assert_array_equal(drawn[:, 10:], 100)
    assert len(np.unique(drawn[:3, :10].reshape(-1, 3), axis=0)) == 1  # also at the image border
    assert drawn[0, 0].tolist() != drawn[10, 5].tolist() != [100, 100, 100]


def test_heat_is_dark_at_zero_and_bright_at_the_highest() -> None:
    values = np.array([[0, 2, 4]], np.float32)
    light = heat(values, 4).astype(int).sum(axis=2)[0]
    assert light[0] < 20 < light[1] < light[2]
    assert heat(np.zeros((1, 2), np.float32), 0).max() < 20


def test_mistakes_are_red_and_the_unlabelled_black() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    drawn = mistakes(image, np.array([[0, 0, IGNORE]], np.uint8), np.array([[0, 1, 1]], np.uint8))
    assert drawn[0].tolist() == [[45, 45, 45], [235, 45, 40], [0, 0, 0]]


def test_shrinking_a_map_keeps_its_labels() -> None:
    label_map = np.repeat(np.array([[3, IGNORE, 7, 1]], np.uint8), 8, axis=1)
    assert shrink_map(label_map, 4).tolist() == [[3, IGNORE, 7, 1]]
    assert shrink_map(label_map, 32) is label_map


def test_timeline_has_a_bar_for_each_frame() -> None:
    uri = timeline(np.array([0, 1, 2, 4]), np.array([9, 8, 7], np.uint8), 4)
    picture = np.asarray(PilImage.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert (picture[..., 3] > 0).sum(axis=0).tolist() == [0, 6, 12, 24]
    assert picture[-1, -1].tolist() == [9, 8, 7, 255]
    long = timeline(np.arange(5000) // 4999, np.array([9, 8, 7], np.uint8), 1)
    picture = np.asarray(PilImage.open(io.BytesIO(base64.b64decode(long.split(",")[1]))))
    assert picture.shape == (24, 800, 4)
    assert picture[0, -1, 3] == 255  # one frame in 5000 is still seen
