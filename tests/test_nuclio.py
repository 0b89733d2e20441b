"""Functions as Nuclio runs them and as CVAT's server calls them."""

import base64
import hashlib
import io
import json
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image as PillowImage
from PIL import ImageOps

from hvsa_cvat.errors import CheckpointError, ConfigError, HvsaError
from hvsa_cvat.serving.bitmaps import pieces
from hvsa_cvat.serving.download import download
from hvsa_cvat.serving.model import SegmentationModel
from hvsa_cvat.serving.nuclio import open_function
from hvsa_cvat.serving.region import clicked_region
from hvsa_cvat.serving.render import FunctionOptions, plan, write
from hvsa_cvat.types import IGNORE, Image, LabelSet
from hvsa_cvat.video.frames import resize_image
from hvsa_cvat.video.images import read_image
from tests import tiny
from tests.nuclio_processor import Processor, as_label_map, as_region, call, in_base64, variables

# nuclio's SDK, on Python 3.12 and newer
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcfromtimestamp")

DEMO = Path(str(files("hvsa_cvat") / "data" / "demo"))
CHECKPOINT = DEMO / "pretrained.safetensors"


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    """A network that has learnt something: 13 classes, 144x192."""
    return SegmentationModel(CHECKPOINT, "cpu")


@pytest.fixture(scope="module")
def frame() -> Image:
    return read_image(DEMO / "images" / "frame_00010.jpg")


def as_deployed(folder: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool = False) -> None:
    """The environment of a function, with the checkpoint where the image would have it."""
    file = folder / ("function-gpu.yaml" if gpu else "function.yaml")
    for name, value in variables(file).items():
        monkeypatch.setenv(name, value.replace("/opt/nuclio", str(folder)))


def open_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Processor:
    as_deployed(folder, monkeypatch)
    return Processor(folder)


def rendered(out: Path, **options: Any) -> Path:
    planned = plan(CHECKPOINT, out, FunctionOptions(**options))
    write(planned)
    return planned.folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Processor]]:
    """A detector, one with polygons, and an interactor."""
    out = tmp_path_factory.mktemp("functions")
    with pytest.MonkeyPatch.context() as monkeypatch:
        detector = open_folder(rendered(out), monkeypatch)
        polygons = open_folder(rendered(out, name="poly", shapes="polygons"), monkeypatch)
        interactor = open_folder(rendered(out, kind="interactor"), monkeypatch)
    with detector, polygons, interactor:
        yield {"detector": detector, "polygons": polygons, "interactor": interactor}


def ask(processor: Processor, **payload: Any) -> Any:
    answer = call(processor.url, payload)
    assert answer.status == 200, answer.data
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json()


@pytest.mark.parametrize("size", [(144, 192), (97, 131), (1, 1), (3, 40)])
def test_one_mask_a_class(
    served: dict[str, Processor], model: SegmentationModel, frame: Image, size: tuple[int, int]
) -> None:
    image = resize_image(frame, size)
    answer = ask(served["detector"], image=in_base64(image))
    expected = model.predict(image).label_map
    assert np.array_equal(as_label_map(answer, model.labels.names, size), expected)
    names = [item["label"] for item in answer]
    assert sorted(names) == sorted(model.labels.names[i] for i in np.unique(expected))
    for item in answer:
        assert item["type"] == "mask"
        assert 0 < float(item["confidence"]) <= 1
        *pixels, left, top, right, bottom = item["mask"]
        assert set(pixels) <= {0, 1}
        inside = np.array(pixels).reshape(bottom - top + 1, right - left + 1)
        # the box is tight, and inclusive
        assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_pixels_below_the_threshold_are_left_out(
    served: dict[str, Processor], model: SegmentationModel, frame: Image
) -> None:
    prediction = model.predict(frame)
    size = frame.shape[:2]
    for threshold in (0.5, 0.9):
        answer = ask(served["detector"], image=in_base64(frame), threshold=threshold)
        got = as_label_map(answer, model.labels.names, size)
        sure = prediction.confidence >= threshold
        assert 0 < sure.mean() < 1
        assert np.array_equal(got, np.where(sure, prediction.label_map, IGNORE))
        assert all(float(item["confidence"]) >= threshold for item in answer)
    assert ask(served["detector"], image=in_base64(frame), threshold=1) == []


def test_polygons(served: dict[str, Processor], model: SegmentationModel, frame: Image) -> None:
    size = frame.shape[:2]
    expected = model.predict(frame).label_map
    always = ask(served["polygons"], image=in_base64(frame))
    once = ask(served["detector"], image=in_base64(frame), conv_mask_to_poly=True)
    assert always == once
    assert {item["type"] for item in once} == {"polygon"}
    assert all("mask" not in item and len(item["points"]) >= 8 for item in once)
    assert np.array_equal(as_label_map(once, model.labels.names, size), expected)
    some = ask(served["polygons"], image=in_base64(frame), threshold=0.9)
    sure = model.predict(frame).above(0.9)
    assert np.array_equal(as_label_map(some, model.labels.names, size), sure)


def test_images_of_every_kind(
    served: dict[str, Processor], model: SegmentationModel, frame: Image
) -> None:
    size = frame.shape[:2]
    pillow = PillowImage.fromarray(frame)
    turned = pillow.transpose(PillowImage.Transpose.ROTATE_90)
    clockwise = PillowImage.Exif()
    clockwise[0x0112] = 6
    grey = pillow.convert("L")
    kinds = {
        "palette": pillow.convert("P"),
        "transparent": pillow.convert("RGBA"),
        "grey": grey,
        "16 bits": PillowImage.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "black and white": pillow.convert("1"),
    }
    # CVAT shows deep grey from its smallest to its largest value, equalized.
    deep = np.asarray(kinds["16 bits"]).astype(float)
    levels = ((deep - deep.min()) / (deep.max() - deep.min()) * 255).astype(np.uint8)
    shown = ImageOps.equalize(PillowImage.fromarray(levels))
    for name, image in kinds.items():
        got = ask(served["detector"], image=in_base64(image))
        seen = shown if name == "16 bits" else image
        want = model.predict(np.array(seen.convert("RGB"))).label_map
        assert np.array_equal(as_label_map(got, model.labels.names, size), want), name
    got = ask(served["detector"], image=in_base64(turned, exif=clockwise))
    want = model.predict(frame).label_map
    assert np.array_equal(as_label_map(got, model.labels.names, size), want)


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG file that claims a size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    parts = (header, data, b"IEND")
    chunks = (
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


GOOD = in_base64(np.zeros((40, 40, 3), np.uint8))

BAD_PAYLOADS: dict[str, tuple[object, str]] = {
    "nothing": ({}, "holds no image"),
    "an empty image": ({"image": ""}, "holds no image"),
    "a number": ({"image": 5}, "holds no image"),
    "broken base64": ({"image": "not base64!"}, "no base64"),
    "not ASCII": ({"image": "ä"}, "no base64"),
    "a text": ({"image": encoded(b"hello")}, "the image cannot be read"),
    "half a file": ({"image": encoded(base64.b64decode(GOOD)[:60])}, "the image cannot be read"),
    "100 megapixels": ({"image": encoded(png_header(10_000, 10_000))}, "10000x10000"),
    "400 megapixels": ({"image": encoded(png_header(20_000, 20_000))}, "the image cannot be read"),
    "a list": ([1, 2], "must be a JSON object"),
    "a word": ("image", "no JSON"),
}


@pytest.mark.parametrize("kind", ["detector", "interactor"])
@pytest.mark.parametrize("bad", BAD_PAYLOADS)
def test_bad_payloads_are_refused_in_one_line(
    served: dict[str, Processor], kind: str, bad: str
) -> None:
    payload, reason = BAD_PAYLOADS[bad]
    if kind == "interactor" and isinstance(payload, dict):
        payload = {**payload, "pos_points": [[1, 1]], "neg_points": []}
    answer = call(served[kind].url, payload)
    text = answer.data.decode()
    assert (answer.status, answer.headers["Content-Type"]) == (400, "text/plain")
    assert reason in text
    assert "\n" not in text
    good = call(served[kind].url, {"image": GOOD, "pos_points": [[1, 1]]})
    assert good.status == 200


@pytest.mark.parametrize("threshold", ["0.5", -0.1, 1.5, [1], True, float("nan"), "1" * 9999])
def test_bad_thresholds(served: dict[str, Processor], threshold: object) -> None:
    answer = call(served["detector"].url, {"image": GOOD, "threshold": threshold})
    assert answer.status == 400
    assert b"threshold" in answer.data
    assert len(answer.data) < 100


@pytest.mark.parametrize(
    "clicks",
    [
        *("here", [1, 2], [[1]], [[1, 2, 3]], [["a", "b"]], ["12"], {"12": 1}, []),
        *([[float("nan"), 1]], [[float("inf"), 1]], [[10**400, 1]]),
    ],
)
def test_bad_clicks(served: dict[str, Processor], clicks: object) -> None:
    answer = call(served["interactor"].url, {"image": GOOD, "pos_points": clicks})
    assert answer.status == 400
    assert b"pos_points" in answer.data


def test_too_many_clicks(served: dict[str, Processor]) -> None:
    for key in ("pos_points", "neg_points"):
        payload = {"image": GOOD, "pos_points": [[1, 1]], key: [[1, 1]] * 101}
        answer = call(served["interactor"].url, payload)
        assert answer.status == 400
        assert answer.data.decode() == f"{key} has 101 clicks; at most 100 are allowed"


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"", b"[" * 100_000])
def test_what_is_no_json(served: dict[str, Processor], body: bytes) -> None:
    for headers in ({"Content-Type": "application/json"}, {}):
        answer = served["detector"].handle(body, headers)
        assert answer["status_code"] == 400
        assert "no JSON" in answer["body"]


def test_json_of_another_content_type(served: dict[str, Processor]) -> None:
    body = json.dumps({"image": GOOD}).encode()
    answer = served["detector"].handle(body, {"Content-Type": "application/json; charset=utf-8"})
    assert answer["status_code"] == 200


def test_refusals_are_logged(served: dict[str, Processor]) -> None:
    call(served["detector"].url, {"image": "aGVsbG8="})
    assert "Refused: the image cannot be read" in served["detector"].log.getvalue()


def test_many_at_once(served: dict[str, Processor], model: SegmentationModel, frame: Image) -> None:
    images = [np.roll(frame, 20 * k, axis=1) for k in range(6)]
    detector, interactor = served["detector"], served["interactor"]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda image: ask(detector, image=in_base64(image)), images * 2))
        click = {"pos_points": [[30, 40]], "neg_points": []}
        regions = list(
            pool.map(lambda image: ask(interactor, image=in_base64(image), **click), images * 2)
        )
    for image, answer, region in zip(images * 2, answers, regions, strict=True):
        expected = model.predict(image).label_map
        got = as_label_map(answer, model.labels.names, expected.shape)
        assert np.array_equal(got, expected)
        inside = as_region(region, expected.shape)
        assert np.array_equal(inside, clicked_region(expected, [(30, 40)], []))


def test_a_click_takes_the_region_under_it(
    served: dict[str, Processor], model: SegmentationModel, frame: Image
) -> None:
    label_map = model.predict(frame).label_map
    click = {"pos_points": [[100.4, 70.9]], "neg_points": [], "obj_bbox": []}
    answer = ask(served["interactor"], image=in_base64(frame), **click)
    assert set(answer) == {"mask"}
    assert {value for row in answer["mask"] for value in row} == {0, 1}
    region = as_region(answer, label_map.shape)
    assert np.array_equal(region, clicked_region(label_map, [(100.4, 70.9)], []))
    again = ask(served["interactor"], image=in_base64(frame), **click)
    assert again == answer


def test_the_memory_of_a_region_does_not_grow_with_the_clicks() -> None:
    label_map = np.zeros((400, 400), np.uint8)
    label_map[:, ::2] = 1

    def peak(clicks: int) -> int:
        positive = [(2.0 * k, 10.0) for k in range(clicks)]
        negative = [(2.0 * k, 300.0) for k in range(clicks)]
        tracemalloc.start()
        try:
            clicked_region(label_map, positive, negative)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # what is imported at first use is not counted
    assert peak(100) < 1.1 * peak(2)


PICTURE = """
    aaaaaabbbbb
    aacaaabbbbb
    aaaaaabbbbb
    cccccccbccc
    aaaaccccccc
    aaaacaacccc
"""


def letters(picture: str) -> np.ndarray:
    rows = picture.split()
    return np.array([[ord(letter) - ord("a") for letter in row] for row in rows], np.uint8)


def drawn(mask: np.ndarray) -> list[str]:
    return ["".join("#" if inside else "." for inside in row) for row in mask]


def rows(picture: str) -> list[str]:
    return picture.split()


def test_region_of_one_click() -> None:
    assert drawn(clicked_region(letters(PICTURE), [(0.5, 0.5)], [])) == rows("""
        ######.....
        ##.###.....
        ######.....
        ...........
        ...........
        ...........
    """)


def test_regions_of_two_clicks_of_two_classes() -> None:
    assert drawn(clicked_region(letters(PICTURE), [(5.2, 5.7), (10, 0)], [])) == rows("""
        ......#####
        ......#####
        ......#####
        .......#...
        ...........
        .....##....
    """)


def test_a_negative_click_inside_cuts_half_way() -> None:
    clicks = [(0.5, 0.5)], [(4.5, 0.5)]
    assert drawn(clicked_region(letters(PICTURE), *clicks)) == rows("""
        ###........
        ##.........
        ###........
        ...........
        ...........
        ...........
    """)


def test_a_negative_click_takes_what_it_cuts_off() -> None:
    picture = """
        aaaaaaaaa
        bbbbbbbba
        aaaaaaaaa
    """
    region = clicked_region(letters(picture), [(0.5, 0.5)], [(8.5, 1.5)])
    # the lower left end is nearer to the positive click, but hangs on what was taken away
    assert drawn(region) == rows("""
        #####....
        .........
        .........
    """)
    both = clicked_region(letters(picture), [(0.5, 0.5), (0.5, 2.5)], [(8.5, 1.5)])
    assert drawn(both) == rows("""
        #####....
        .........
        #####....
    """)


def test_a_negative_click_outside_changes_nothing() -> None:
    label_map = letters(PICTURE)
    region = clicked_region(label_map, [(0, 0)], [])
    assert np.array_equal(clicked_region(label_map, [(0, 0)], [(8, 0), (2.5, 1.5)]), region)


def test_clicks_on_the_far_border_are_inside() -> None:
    label_map = letters(PICTURE)
    assert clicked_region(label_map, [(11, 6)], [])[5, 10]
    assert clicked_region(label_map, [(-3, 99)], [])[5, 0]


@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 2)
    ),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_regions_hold_their_positive_clicks_and_one_class(label_map: Any, data: Any) -> None:
    height, width = label_map.shape
    point = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    positive = data.draw(st.lists(point, min_size=1, max_size=3))
    negative = data.draw(st.lists(point, max_size=3))
    region = clicked_region(label_map, positive, negative)
    assert all(region[y, x] for x, y in positive)
    assert set(label_map[region]) == {label_map[y, x] for x, y in positive}
    assert not any(region[y, x] for x, y in set(negative) - set(positive))


@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        elements=st.sampled_from([0, 1, 7, IGNORE]),
    ),
    st.integers(2000, 6000),
)
@settings(max_examples=60, deadline=None)
def test_pieces_stay_within_the_limit_and_cover_everything(label_map: Any, most: int) -> None:
    found = pieces(label_map, most)
    if found is None:
        return
    assert sum(len(piece.json) for piece in found) <= most
    covered = np.full_like(label_map, IGNORE)
    for piece in found:
        window = covered[piece.window]
        assert (window[piece.inside] == IGNORE).all()
        window[piece.inside] = piece.label
        for side in (piece.inside[0], piece.inside[-1], piece.inside[:, 0], piece.inside[:, -1]):
            assert side.any()
    assert np.array_equal(covered, label_map)


def labels_of(found: Any) -> list[int]:
    return sorted(piece.label for piece in found or ())


def test_classes_are_cut_only_when_needed() -> None:
    label_map = np.zeros((64, 96), np.uint8)
    label_map[:5, :5] = label_map[-5:, -5:] = 1  # small, and in two corners: cut first
    label_map[30:40, :40] = label_map[32:42, 50:] = 2
    assert labels_of(pieces(label_map)) == [0, 1, 2]
    assert labels_of(pieces(label_map, 17_000)) == [0, 1, 1, 2]
    assert pieces(label_map, 2 * 64 * 96) is None
    noise = np.random.default_rng(0).integers(0, 20, (64, 96), np.uint8)
    assert labels_of(pieces(noise)) == list(range(20))
    assert pieces(noise, 100_000) is None


def test_a_map_of_specks_is_given_up_soon() -> None:
    specks = np.random.default_rng(0).integers(0, 60, (600, 800), np.uint8)
    assert pieces(specks) is None  # not after minutes of cutting


def test_the_form_of_a_mask() -> None:
    label_map = letters("""
        aaaa
        abba
        aaba
    """)
    _, piece = pieces(label_map) or ()
    assert piece.json == "[1,1,0,1,1,1,2,2]"


def environment(checkpoint: Path, **more: str) -> dict[str, str]:
    return {
        "HVSA_FUNCTION": "detector",
        "HVSA_CHECKPOINT": str(checkpoint),
        "HVSA_LABELS": json.dumps(tiny.LABELS.names),
        "HVSA_DEVICE": "cpu",
        **more,
    }


def test_answers_over_the_limit_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    function = open_function(environment(checkpoint))
    large = in_base64(PillowImage.new("1", (4100, 4100)))
    with pytest.raises(HvsaError, match=r"4100x4100 image would take more than the 32 MiB"):
        function({"image": large})
    everything = LabelSet(("everything",))
    variables = environment(tiny.write_checkpoint(tmp_path / "one.safetensors", everything))
    variables |= {"HVSA_FUNCTION": "interactor", "HVSA_LABELS": json.dumps(everything.names)}
    function = open_function(variables)
    with pytest.raises(HvsaError, match=r"4100x4100 image would take more .* region of interest"):
        function({"image": large, "pos_points": [[0, 0]]})


def test_what_cannot_work_fails_at_the_start(tmp_path: Path, checkpoint: Path) -> None:
    other = tiny.write_checkpoint(tmp_path / "other.safetensors", LabelSet(("sky", "road")))
    with pytest.raises(CheckpointError, match=r"knows sky, road, but .* for floor, box, ball"):
        open_function(environment(other))
    with pytest.raises(CheckpointError, match=r"no checkpoint .*gone.*\(--mount\)"):
        open_function(environment(tmp_path / "gone.safetensors"))
    (tmp_path / "official.pth").touch()
    with pytest.raises(CheckpointError, match="without the names of classes"):
        open_function(environment(tmp_path / "official.pth"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated"):
        open_function(environment(cut))
    with pytest.raises(ConfigError, match=r"HVSA_DEVICE is 'tpu'"):
        open_function(environment(checkpoint, HVSA_DEVICE="tpu"))
    incomplete = environment(checkpoint)
    del incomplete["HVSA_LABELS"]
    with pytest.raises(ConfigError, match="HVSA_LABELS is not set"):
        open_function(incomplete)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_asked_for_and_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rendered(tmp_path)
    as_deployed(folder, monkeypatch, gpu=True)
    log = io.StringIO()
    with pytest.raises(ConfigError, match=r"HVSA_DEVICE is 'cuda'.*deploy function.yaml"):
        Processor(folder, log)
    assert "This function cannot start: HVSA_DEVICE is 'cuda'" in log.getvalue()


def test_labels_in_another_order_are_the_same(checkpoint: Path) -> None:
    other = open_function(environment(checkpoint, HVSA_LABELS=json.dumps(["ball", "floor", "box"])))
    rng = np.random.default_rng(0)
    payload = {"image": in_base64(rng.integers(0, 255, (40, 40, 3)).astype(np.uint8))}
    found = json.loads(other(payload))
    assert found
    assert found == json.loads(open_function(environment(checkpoint))(payload))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server, its folder, and the paths that were asked for."""
    asked: list[str] = []
    folder = tmp_path / "shop"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, form: str, *args: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder, asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_checkpoint_from_the_web(
    shop: tuple[str, Path, list[str]], checkpoint: Path, tmp_path: Path
) -> None:
    url, folder, asked = shop
    content = checkpoint.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "net").write_bytes(content)
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: download(f"{url}/net", sha256, cache), range(4)))
    assert {path.read_bytes() for path in paths} == {content}
    asked.clear()
    (path,) = cache.iterdir()
    assert download(f"{url}/net", sha256, cache) == path
    assert asked == []
    path.write_bytes(b"damaged")
    assert download(f"{url}/net", sha256, cache).read_bytes() == content
    assert len(asked) == 1


def test_a_checkpoint_that_the_web_does_not_give(
    shop: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    url, folder, _ = shop
    (folder / "net").write_bytes(b"something else")
    cache = tmp_path / "cache"
    with pytest.raises(
        CheckpointError, match=r"/net holds another file: its SHA-256 is .* instead of 00"
    ):
        download(f"{url}/net?key=secret", "00", cache)
    with pytest.raises(CheckpointError, match=r"cannot fetch .*/gone: .*404") as refused:
        download(f"{url}/gone?key=secret", "00", cache)
    assert "secret" not in str(refused.value)
    with pytest.raises(CheckpointError, match="cannot fetch"):
        download("http://127.0.0.1:9/net", "00", cache)
    with pytest.raises(ConfigError, match="no web address"):
        download("file:///etc/passwd", "00", cache)
    with pytest.raises(ConfigError, match="user or password") as refused_too:
        download("https://ann:secret@example.com/net", "00", cache)
    assert "secret" not in str(refused_too.value)
    assert not list(cache.iterdir())


def test_a_disk_that_cannot_be_written(shop: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    url, folder, _ = shop
    (folder / "net").write_bytes(b"")
    (tmp_path / "file").write_text("")
    with pytest.raises(HvsaError, match=r"cannot write .*; free space or choose another folder"):
        download(f"{url}/net", "00", tmp_path / "file" / "cache")


def test_the_checkpoint_of_another_project_stops_the_start(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rendered(tmp_path)
    as_deployed(folder, monkeypatch)
    monkeypatch.setenv("HVSA_CHECKPOINT", str(checkpoint))
    log = io.StringIO()
    with pytest.raises(CheckpointError):
        Processor(folder, log)
    assert "This function cannot start: the checkpoint knows floor, box, ball" in log.getvalue()
