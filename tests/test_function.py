"""The network as a function of CVAT's SDK, command line and agents, against the stand-in."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import numpy as np
import pytest
import torch
from cvat_cli.__main__ import main as cvat_cli
from cvat_sdk import make_client
from cvat_sdk.core import Client
from PIL import Image as PillowImage

from hvsa_cvat.annotation.polygons import encode_polygons
from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.cvat.shapes import compose, fill_shape
from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.segmentation.checkpoint import new_network, save_checkpoint
from hvsa_cvat.segmentation.checkpoint_info import CheckpointInfo
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.serving.function import Detector, create
from hvsa_cvat.serving.model import SegmentationModel
from hvsa_cvat.types import IGNORE, Image, LabelMap
from hvsa_cvat.video.frames import resize_image
from hvsa_cvat.video.images import read_image
from tests.standin import StandIn
from tests.standin.api import ROUTES, Answer, Call, route
from tests.standin.model import Task

DEMO = Path(str(files("hvsa_cvat") / "data" / "demo"))
CHECKPOINT = DEMO / "pretrained.safetensors"
NAMES = (DEMO / "classes.txt").read_text().split()
MODULE = ("--function-module", "hvsa_cvat.serving.function")
PARAMETERS = ("-p", f"checkpoint=str:{CHECKPOINT}", "-p", "device=str:cpu")


@pytest.fixture(scope="module")
def function() -> Detector:
    return create(str(CHECKPOINT), device="cpu")


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return SegmentationModel(CHECKPOINT, "cpu")


@pytest.fixture(scope="module")
def images() -> list[Image]:
    """Frames of several sizes, one of them small and odd."""
    frames = [read_image(DEMO / "images" / f"frame_{n:05d}.jpg") for n in (3, 20, 41)]
    return [
        resize_image(f, s) for f, s in zip(frames, [(144, 192), (91, 133), (5, 3)], strict=True)
    ]


@pytest.fixture
def cvat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A server; the SDK keeps what it fetches in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with StandIn() as server:
        monkeypatch.setenv("CVAT_ACCESS_TOKEN", server.admin.token)
        yield server


def masks(names: Sequence[str]) -> list[dict[str, str]]:
    return [{"name": name, "type": "mask"} for name in names]


def sdk(cvat: StandIn) -> Client:
    return make_client(cvat.url, access_token=cvat.admin.token)


def annotate(cvat: StandIn, task: Task, function: Detector, **options: Any) -> None:
    with sdk(cvat) as client:
        cvataa.annotate_task(client, task.id, function, **options)


def command(cvat: StandIn, *arguments: object) -> int:
    """`cvat-cli` as people type it."""
    before = list(logging.getLogger("cvat_cli.__main__").handlers)
    try:
        return cvat_cli(["--server-host", cvat.url, *map(str, arguments)])
    finally:
        logging.getLogger("cvat_cli.__main__").handlers[:] = before


def label_map(cvat: StandIn, task: Task, frame: int, size: tuple[int, int]) -> LabelMap:
    """What the server holds for a frame, classes in order of `NAMES`."""
    index = {cvat.label(task, label.name): NAMES.index(label.name) for label in task.labels}
    (job,) = task.jobs
    shapes = [shape for shape in cvat.shapes(job) if shape["frame"] == frame]
    covered = np.zeros(size, int)
    for shape in shapes:
        filled = fill_shape(shape, size)
        assert filled is not None
        covered[filled[0]][filled[1]] += 1
    assert covered.max(initial=0) <= 1
    return compose([(index[shape["label_id"]], shape) for shape in shapes], size)


def test_a_task_by_the_driver_of_the_sdk(
    cvat: StandIn, function: Detector, model: SegmentationModel, images: list[Image]
) -> None:
    task = cvat.add_task("clip", masks(NAMES), frames=images)
    annotate(cvat, task, function)
    (job,) = task.jobs
    shapes = cvat.shapes(job)
    assert {shape["type"] for shape in shapes} == {"mask"}
    assert {shape["source"] for shape in shapes} == {"auto"}
    for frame, image in enumerate(images):
        size = image.shape[:2]
        assert np.array_equal(label_map(cvat, task, frame, size), model.predict(image).label_map)
    classes = [len(np.unique(model.predict(image).label_map)) for image in images]
    assert len(shapes) == sum(classes)
    assert max(classes) > 5


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_task_by_the_command_line(
    cvat: StandIn, model: SegmentationModel, images: list[Image], threshold: float | None
) -> None:
    task = cvat.add_task("clip", masks(NAMES), frames=images)
    options = [] if threshold is None else ["--conf-threshold", threshold]
    assert command(cvat, "task", "auto-annotate", task.id, *MODULE, *PARAMETERS, *options) == 0
    for frame, image in enumerate(images):
        expected = model.predict(image).above(threshold or 0)
        assert np.array_equal(label_map(cvat, task, frame, image.shape[:2]), expected)
        assert (expected == IGNORE).any() == (threshold is not None and frame < 2)


def test_polygons_by_the_command_line(
    cvat: StandIn, model: SegmentationModel, images: list[Image]
) -> None:
    labels = [{"name": name, "type": "polygon"} for name in NAMES]
    task = cvat.add_task("clip", labels, frames=images)
    call = ("task", "auto-annotate", task.id, *MODULE, *PARAMETERS, "--conv-mask-to-poly")
    assert command(cvat, *call) == 0
    (job,) = task.jobs
    assert {shape["type"] for shape in cvat.shapes(job)} == {"polygon"}
    for frame, image in enumerate(images):
        expected = model.predict(image).label_map
        assert np.array_equal(label_map(cvat, task, frame, image.shape[:2]), expected)


def test_labels_that_the_task_does_not_have(
    cvat: StandIn, function: Detector, model: SegmentationModel, images: list[Image]
) -> None:
    task = cvat.add_task("clip", masks(NAMES[:-1]), frames=images)
    with pytest.raises(cvataa.BadFunctionError, match=f"'{NAMES[-1]}' is not in dataset"):
        annotate(cvat, task, function)
    assert cvat.shapes(task.jobs[0]) == []
    annotate(cvat, task, function, allow_unmatched_labels=True)
    expected = model.predict(images[0]).label_map
    got = label_map(cvat, task, 0, images[0].shape[:2])
    known = expected != NAMES.index(NAMES[-1])
    assert np.array_equal(got[known], expected[known])
    assert (got[~known] == IGNORE).all()


def test_labels_of_another_type(cvat: StandIn, function: Detector, images: list[Image]) -> None:
    task = cvat.add_task("clip", [{"name": n, "type": "rectangle"} for n in NAMES], frames=images)
    with pytest.raises(cvataa.BadFunctionError, match="'mask' in the function, but 'rectangle'"):
        annotate(cvat, task, function)


def test_labels_of_any_type(cvat: StandIn, function: Detector, images: list[Image]) -> None:
    task = cvat.add_task("clip", NAMES, frames=images[:1])
    annotate(cvat, task, function)
    assert (label_map(cvat, task, 0, images[0].shape[:2]) != IGNORE).all()


class Context(cvataa.DetectionFunctionContext):
    """What the SDK tells a function of an image."""

    frame_name = "a.png"
    conf_threshold: float | None = None
    conv_mask_to_poly = False


def pillow_images(frame: Image) -> dict[str, PillowImage.Image]:
    pillow = PillowImage.fromarray(frame)
    grey = pillow.convert("L")
    cut = io.BytesIO()
    pillow.save(cut, "JPEG")
    return {
        "colour": pillow,
        "grey": grey,
        "grey, 16 bits": PillowImage.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "transparent": pillow.convert("RGBA"),
        "grey, transparent": pillow.convert("LA"),
        "palette": pillow.convert("P"),
        "for print": pillow.convert("CMYK"),
        "black and white": pillow.convert("1"),
        "a file": PillowImage.open(cut),
        "one pixel": pillow.crop((0, 0, 1, 1)),
        "a line": pillow.crop((0, 0, 1, 90)),
        "odd": pillow.crop((0, 0, 101, 57)),
        "large": pillow.resize((1921, 1081)),
    }


KINDS = tuple(pillow_images(np.zeros((144, 192, 3), np.uint8)))


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_and_size(function: Detector, images: list[Image], kind: str) -> None:
    image = pillow_images(images[0])[kind]
    size = (image.height, image.width)
    shapes = function.detect(Context(), image)
    covered = np.zeros(size, int)
    for shape in shapes:
        filled = fill_shape({"type": "mask", "points": shape.points}, size)
        assert filled is not None
        covered[filled[0]][filled[1]] += 1
    assert (covered == 1).all()


def test_a_photo_is_seen_upright(function: Detector, images: list[Image]) -> None:
    upright = PillowImage.fromarray(images[0])
    photo = upright.transpose(PillowImage.Transpose.ROTATE_90)
    photo.getexif()[0x0112] = 6  # shown turned clockwise
    want, got = (function.detect(Context(), image) for image in (upright, photo))
    assert [shape.points for shape in got] == [shape.points for shape in want]


def test_an_image_without_sure_pixels_has_no_shapes(
    function: Detector, images: list[Image]
) -> None:
    context = Context()
    context.conf_threshold = 1.0
    assert function.detect(context, PillowImage.fromarray(images[0])) == []
    context.conv_mask_to_poly = True
    assert function.detect(context, PillowImage.fromarray(images[0])) == []


def test_shapes_are_those_that_the_agent_pushes(
    function: Detector, model: SegmentationModel, images: list[Image]
) -> None:
    pillow = PillowImage.fromarray(images[0])
    expected = model.predict(images[0]).label_map
    found = {shape.label_id: shape.points for shape in function.detect(Context(), pillow)}
    assert found == encode_masks(expected)
    context = Context()
    context.conv_mask_to_poly = True
    polygons = [(shape.label_id, shape.points) for shape in function.detect(context, pillow)]
    assert polygons == encode_polygons(expected)


def test_what_cannot_be_loaded_fails_before_the_first_image(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        create(str(tmp_path / "gone.safetensors"))
    with pytest.raises(CheckpointError, match="without the names of classes"):
        create(str(tmp_path / "official.pth"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            create(str(CHECKPOINT), device="cuda")


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(48, 64), (1, 1), (7, 5), (61, 130), (200, 300)])
def test_a_single_image_is_seen_as_in_a_video(
    tmp_path: Path, size: tuple[int, int], align_corners: bool
) -> None:
    network = new_network("hrnet_w18_small", 4, align_corners=align_corners, seed=1)
    with torch.no_grad():
        network.last_layer[3].weight *= 100
    path = tmp_path / "net.safetensors"
    save_checkpoint(
        network, CheckpointInfo(network.name, tuple("abcd"), (48, 64), align_corners, 0), path
    )
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    seen = SegmentationModel(path, "cpu").predict(image)
    small = resize_image(image, (48, 64))[None]
    (expected,) = predict(network, small, size, device=torch.device("cpu"))
    assert (seen.label_map != expected.label_map).mean() < 1e-3
    assert (seen.label_map.dtype, seen.confidence.dtype) == (np.uint8, np.float32)
    assert seen.label_map.shape == seen.confidence.shape == size
    assert 0.25 <= seen.confidence.min() <= seen.confidence.max() <= 1


# What follows describes servers that keep functions themselves (CVAT Online, Enterprise), as far as
# the command line of the SDK tells how it talks to them.


class Functions:
    """The functions of a server, and what waits for them."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.waiting: list[dict[str, Any]] = []
        self.done: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []


@pytest.fixture
def functions() -> Iterator[Functions]:
    world = Functions()
    before = len(ROUTES)

    @route("POST", "functions")
    def create_function(call: Call) -> Answer:
        world.kept.append({"id": len(world.kept) + 1, **call.json()})
        return Answer(201, world.kept[-1])

    @route("GET", "functions/<id>")
    def show_function(call: Call, number: int) -> Answer:
        return Answer(200, world.kept[number - 1])

    @route("POST", "functions/queues/(.+)/requests/acquire")
    def acquire(call: Call, queue: str) -> Answer:
        mine = call.json()["request_category"] == "batch" and world.waiting
        return Answer(200, {"ar_assignment": world.waiting.pop(0) if mine else None})

    @route("POST", "functions/queues/(.+)/requests/(.+)/(complete|fail|update)")
    def end(call: Call, queue: str, request: str, how: str) -> Answer:
        {"complete": world.done, "fail": world.failed}.get(how, []).append(call.json())
        return Answer(200, {})

    yield world
    del ROUTES[before:]


def test_a_native_function_is_created_with_typed_labels(
    cvat: StandIn, functions: Functions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(cvat, "function", "create-native", "kitchen", *MODULE, *PARAMETERS) == 0
    assert capsys.readouterr().out.strip() == "1"
    (kept,) = functions.kept
    assert (kept["name"], kept["kind"], kept["provider"]) == ("kitchen", "detector", "native")
    assert kept["labels_v2"] == [{"name": n, "type": "mask", "attributes": []} for n in NAMES]


@pytest.mark.slow  # the agent starts a process that imports PyTorch anew
def test_an_agent_annotates_for_the_server(
    cvat: StandIn, functions: Functions, model: SegmentationModel, images: list[Image]
) -> None:
    task = cvat.add_task("clip", NAMES, frames=images)
    assert command(cvat, "function", "create-native", "kitchen", *MODULE, *PARAMETERS) == 0
    mapping = {name: {"name": name} for name in NAMES}
    whole = {
        "type": "annotate_task",
        "task": task.id,
        "mapping": mapping,
        "threshold": None,
        "conv_mask_to_poly": False,
    }
    roi = {**whole, "type": "annotate_frame", "frame": 0, "roi": [10, 20, 90, 101]}
    functions.waiting = [
        {"ar_id": "a", "ar_params": whole},
        {"ar_id": "b", "ar_params": {**roi, "threshold": 0.5, "conv_mask_to_poly": True}},
    ]
    assert command(cvat, "function", "run-agent", 1, "--burst", *MODULE, *PARAMETERS) == 0
    assert functions.failed == []
    first, second = (json.loads(json.dumps(done["annotations"])) for done in functions.done)
    assert len(first["shapes"]) == sum(
        len(np.unique(model.predict(image).label_map)) for image in images
    )
    cut = images[0][20:101, 10:90]
    expected = encode_polygons(model.predict(cut).above(0.5))
    assert [shape["points"] for shape in second["shapes"]] == [points for _, points in expected]
