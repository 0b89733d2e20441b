"""The whole loop with a simulated annotator, on a clip and a network that are tiny."""

import json
import re
import sqlite3
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hvsa_cvat.config import CARRIED
from hvsa_cvat.errors import ConfigError, MediaError, SessionError
from hvsa_cvat.segmentation.checkpoint import new_network, save_checkpoint
from hvsa_cvat.segmentation.checkpoint_info import CheckpointInfo
from hvsa_cvat.session import predict
from hvsa_cvat.session.store import Store
from hvsa_cvat.simulation.experiment import run_experiment
from hvsa_cvat.simulation.scores import RunMetrics
from hvsa_cvat.types import IGNORE, LabelSet
from hvsa_cvat.video.frames import open_frames
from tests import tiny

SCORES = {
    "miou",
    "iou",
    "pixel_accuracy",
    "boundary_iou",
    "boundary_iou_classes",
    "temporal_consistency",
    "temporal_consistency_plain",
}
ALL_PHASES = {"select", "request", "annotate", "finetune", "predict", "publish"}


@pytest.fixture(scope="module")
def undisturbed(
    clip: tiny.Clip, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished run of two rounds of rectangles."""
    out = tmp_path_factory.mktemp("undisturbed")
    tiny.run(tiny.experiment(clip, checkpoint, granularity="rectangle:16"), out)
    return out


def segment_maps(folder: Path, length: int = 6) -> Path:
    """Stripes under any ids, as PNG of 16 bits."""
    folder.mkdir()
    stripes = np.repeat(np.arange(0, 800, 100, dtype=np.uint16), 8)
    for frame in range(length):
        tiny.save_png(folder / f"a{frame}.png", np.tile(stripes, (48, 1)))
    return folder


@pytest.mark.parametrize(
    ("granularity", "strategy", "method"),
    [
        ("frame", "active", "paper"),
        ("frame", "uniform", "label-propagation"),
        ("rectangle:16x20", "random", "finetune-only"),
        ("superpixel:12", "active", "label-propagation"),
        ("superpixel-merged:12", "active", "paper-exact"),
        ("maps", "random", "paper"),
        ("frame", "uniform", "hvsa"),
        ("superpixel:12", "active", "hvsa"),
    ],
)
def test_every_granularity_method_and_strategy(
    granularity: str,
    strategy: str,
    method: str,
    clip: tiny.Clip,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    if granularity == "maps":
        granularity = f"maps:{segment_maps(tmp_path / 'maps')}"
    weight = 0.0 if method == "finetune-only" else 1.0
    training = tiny.QUICK.model_copy(update={"consistency_weight": weight})
    settings = {} if method == "label-propagation" else {"training": training}
    what = tiny.experiment(
        clip, checkpoint, granularity=granularity, strategy=strategy, method=method, **settings
    )
    metrics = tiny.run(what, tmp_path / "out")
    assert [one.round for one in metrics.rounds] == [0, 1, 2]
    assert metrics == RunMetrics.model_validate_json((tmp_path / "out/metrics.json").read_text())
    for name in ("clicks", "clicks_percent", "pixels_percent", "samples"):
        values = [getattr(one, name) for one in metrics.rounds]
        assert values[0] == 0
        assert values == sorted(values)
        assert values[1] > 0
    propagates = method == "label-propagation"
    trained = {"propagation.json"} if propagates else {"network.safetensors"}
    if method == "hvsa":
        trained.add("head.safetensors")
    for number in (1, 2):
        files = {p.name for p in (tmp_path / "out/rounds" / str(number)).iterdir()}
        kept = {"agreement.json", "answers.npz", "selection.json", "metrics.json", "scores.npz"}
        kept.add("work.json")
        if number > 1:
            kept |= {"held_out.npz", "outlook.json"}
        assert files == {"label_maps", "certainty", "origins"} | kept | trained
        kept_files = Store.peek_round(tmp_path / "out", number)
        origins = [kept_files.carried_pixels(f"a{frame}") for frame in range(6)]
        assert any(one is not None and one.any() for one in origins) == (method in CARRIED)
    assert [one.propagated_percent is not None for one in metrics.rounds] == [
        False,
        propagates,
        propagates,
    ]
    maps = tiny.label_maps(tmp_path / "out")
    assert list(maps) == [f"{k}/a{i}" for k in range(3) for i in range(6)]
    assert maps["1/a0"] != maps["0/a0"] or maps["1/a5"] != maps["0/a5"]


@pytest.mark.parametrize(
    ("granularity", "method", "strategy"),
    [
        ("rectangle:16,frame", "hvsa", "uniform"),
        ("rectangle:16,frame", "label-propagation", "active"),
        ("frame,rectangle:16", "paper", "active"),
        ("superpixel:12,rectangle:16", "label-propagation", "random"),
    ],
)
def test_granularity_by_round(
    granularity: str, method: str, strategy: str, clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    what = tiny.experiment(
        clip, checkpoint, granularity=granularity, method=method, strategy=strategy
    )
    metrics = tiny.run(what, tmp_path)
    with Store(tmp_path) as store:
        session = store.load()
        answers = [store.round(number).answers() for number in (1, 2)]
        scores = [store.round(number).scores() for number in (0, 1)]
    assert session is not None
    first, second = (round.queried for round in session.rounds[1:])
    assert first
    assert second
    for kind, scored in zip(granularity.split(","), scores, strict=True):
        if kind == "superpixel:12":
            assert 6 < len(scored) < 72  # SLIC makes about as many
        else:
            assert len(scored) == {"frame": 6, "rectangle:16": 72}[kind]
    answered = [
        {one.frame: one.label_map != IGNORE for one in given.annotations} for given in answers
    ]
    new = {frame: there & ~answered[0].get(frame, False) for frame, there in answered[1].items()}
    assert all(there.any() for there in new.values())  # nothing is asked again
    pixels = sum(map(np.count_nonzero, [*answered[0].values(), *new.values()]))
    assert metrics.rounds[2].pixels_percent == pytest.approx(
        100 * pixels / (6 * 48 * 64), rel=1e-2
    )  # outlines may leave a pixel out
    assert metrics.rounds[2].miou > metrics.rounds[0].miou


def test_labels_are_carried_once_a_round(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    for method in ("hvsa", "label-propagation"):
        steps: list[str] = []

        def progress(step: str, done: int, total: int, steps: list[str] = steps) -> None:
            if done == total:
                steps.append(step)

        tiny.run(
            tiny.experiment(clip, checkpoint, method=method), tmp_path / method, progress=progress
        )
        assert steps.count("carrying labels") == 2


def test_metrics_say_everything(undisturbed: Path) -> None:
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    assert set(metrics) == {"settings", "preparation_seconds", "people", "rounds"}
    assert set(metrics["preparation_seconds"]) == {"frames", "flow", "full_cost"}
    settings = metrics["settings"]
    assert settings["video"] == "clip"
    assert settings["method"] == "paper"
    assert settings["strategy"] == "active"
    assert settings["granularity"] == "rectangle:16"
    assert settings["budgets"] == [0.2, 0.5]
    assert settings["size"] == [48, 64]
    assert settings["classes"] == ["floor", "box", "ball"]
    assert settings["seed"] == 0
    assert settings["training"]["epochs"] == 1
    assert settings["full_clicks"] > 0
    assert all(0 < share <= 1 for share in settings["flow_valid"].values())
    counts = {"round", "clicks", "clicks_percent", "pixels_percent", "samples"}
    counts |= {"answered", "propagated_percent", "outlook", "unseen", "minutes", "seconds"}
    for one in metrics["rounds"]:
        assert set(one) == SCORES | counts
        assert set(one["iou"]) == set(one["boundary_iou_classes"]) == set(tiny.LABELS)
        fractions = [one[name] for name in SCORES if not name.startswith(("iou", "boundary_iou_c"))]
        assert all(0 <= value <= 1 for value in [*fractions, *one["iou"].values()])
        assert one["miou"] == pytest.approx(np.mean(list(one["iou"].values())))
        share = 100 * one["clicks"] / settings["full_clicks"]
        assert one["clicks_percent"] == pytest.approx(share)
        assert all(value >= 0 for value in one["seconds"].values())
    assert set(metrics["rounds"][0]["seconds"]) == {"predict", "publish"}
    assert set(metrics["rounds"][1]["seconds"]) == ALL_PHASES
    first, last = metrics["rounds"][1:]
    assert first["answered"] == {"drawn": [first["samples"], first["clicks"]]}
    # 4 x 3 rectangles of 16x16 pixels in each of 6 frames
    assert last["pixels_percent"] == pytest.approx(100 * last["samples"] / 72)


def test_label_maps_are_8_bit_at_the_size_of_the_frames(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    what = tiny.experiment(clip, checkpoint, size=(40, 56), budgets=(0.3,))
    tiny.run(what, tmp_path)
    for number in (0, 1):
        for frame in range(6):
            pixels = tiny.read_png(tmp_path / f"rounds/{number}/label_maps/a{frame}.png")
            assert pixels.dtype == np.uint8
            assert pixels.shape == tiny.SIZE
            assert pixels.max() < 3


def test_the_report_needs_no_other_file(undisturbed: Path) -> None:
    page = (undisturbed / "report.html").read_text()
    resources = re.findall(r"""(?:src|href)=["']?([^"'> ]*)|url\(["']?([^"')]*)""", page)
    assert resources
    assert all((a or b).startswith(("data:", "#")) for a, b in resources)
    assert "file:" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)
    assert not re.search(r"@import|<link|<script", page)
    assert "rectangle:16" in page


def test_the_seed_decides(
    clip: tiny.Clip, checkpoint: Path, undisturbed: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        what = tiny.experiment(clip, checkpoint, granularity="rectangle:16", seed=seed)
        tiny.run(what, tmp_path / str(seed))
    assert tiny.numbers(tmp_path / "0") == tiny.numbers(undisturbed)
    assert tiny.label_maps(tmp_path / "0") == tiny.label_maps(undisturbed)
    assert tiny.label_maps(tmp_path / "1") != tiny.label_maps(undisturbed)


def test_a_finished_run_is_not_run_again(
    clip: tiny.Clip, checkpoint: Path, undisturbed: Path
) -> None:
    before = (undisturbed / "metrics.json").read_bytes()
    stamps = {p: p.stat().st_mtime_ns for p in undisturbed.glob("rounds/*/*")}
    what = tiny.experiment(clip, checkpoint, granularity="rectangle:16")
    steps: list[str] = []
    told: list[int] = []
    run_experiment(
        what,
        undisturbed,
        clock=tiny.ticking(),
        progress=lambda step, done, total: steps.append(step),
        tell=lambda metrics: told.append(metrics.round),
    )
    assert set(steps) == {"checking labels"}
    assert told == [0, 1, 2]
    assert (undisturbed / "metrics.json").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in undisturbed.glob("rounds/*/*")} == stamps


def test_a_run_from_before_people_could_correct_goes_on(
    clip: tiny.Clip, checkpoint: Path, undisturbed: Path
) -> None:
    with closing(sqlite3.connect(undisturbed / "session.db")) as database, database:
        (text,) = database.execute("SELECT config FROM sessions").fetchone()
        config = json.loads(text)
        assert config.pop("answers") == "draw"
        assert config.pop("tolerance") is None
        database.execute("UPDATE sessions SET config = ?", [json.dumps(config)])
    before = (undisturbed / "metrics.json").read_bytes()
    what = tiny.experiment(clip, checkpoint, granularity="rectangle:16")
    tiny.run(what, undisturbed)
    assert (undisturbed / "metrics.json").read_bytes() == before
    corrected = tiny.experiment(clip, checkpoint, granularity="rectangle:16", answers="correct")
    with pytest.raises(SessionError, match="answers was 'draw' and is now 'correct'"):
        tiny.run(corrected, undisturbed)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": 7}, "seed was 0 and is now 7"),
        ({"budgets": (0.1, 0.2)}, r"budgets was \[0.2, 0.5\] and is now \[0.1, 0.2\]"),
        ({"granularity": "frame"}, "granularity was 'rectangle:16' and is now 'frame'"),
        ({"labels": LabelSet(("a", "b", "c"))}, "classes was"),
    ],
)
def test_a_folder_holds_one_run(
    settings: dict, named: str, clip: tiny.Clip, checkpoint: Path, undisturbed: Path
) -> None:
    what = tiny.experiment(clip, checkpoint, **{"granularity": "rectangle:16", **settings})
    with pytest.raises(SessionError, match=named) as raised:
        tiny.run(what, undisturbed)
    assert str(undisturbed) in str(raised.value)


def test_another_video_of_the_same_names_is_another_run(
    clip: tiny.Clip, checkpoint: Path, undisturbed: Path, tmp_path: Path
) -> None:
    other = tiny.write_clip(tmp_path)
    for path in other.images.iterdir():
        tiny.save_png(path, 255 - tiny.read_png(path))
    with pytest.raises(SessionError, match="content was"):
        tiny.run(tiny.experiment(other, checkpoint, granularity="rectangle:16"), undisturbed)


def test_what_cannot_be_cut_leaves_the_folder_alone(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="rectangles of 50x50"):
        tiny.run(tiny.experiment(clip, checkpoint, granularity="rectangle:50"), out)
    maps = segment_maps(tmp_path / "maps")
    tiny.save_png(maps / "a4.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(MediaError, match=r"a4\.png has the size 4x4"):
        tiny.run(tiny.experiment(clip, checkpoint, granularity=f"maps:{maps}"), out)
    assert not out.exists()
    tiny.run(tiny.experiment(clip, checkpoint, granularity="frame", budgets=(0.2,)), out)


@pytest.mark.parametrize("method", ["hvsa", "paper", "label-propagation"])
def test_a_video_of_one_frame(method: str, checkpoint: Path, tmp_path: Path) -> None:
    clip = tiny.write_clip(tmp_path, length=1)
    metrics = tiny.run(tiny.experiment(clip, checkpoint, method=method), tmp_path / "out")
    assert metrics.rounds[1].samples == metrics.rounds[2].samples == 1
    assert metrics.rounds[2].temporal_consistency is None
    assert metrics.rounds[2].pixels_percent == 100
    if method == "label-propagation":
        assert metrics.rounds[2].pixel_accuracy > 0.95


def test_odd_frames_smaller_than_the_network_takes(checkpoint: Path, tmp_path: Path) -> None:
    clip = tiny.write_clip(tmp_path, length=3, size=(31, 33))
    what = tiny.experiment(clip, checkpoint, granularity="superpixel-merged:6", budgets=(0.5,))
    metrics = tiny.run(what, tmp_path / "out")
    assert metrics.rounds[1].samples > 0
    assert tiny.read_png(tmp_path / "out/rounds/1/label_maps/a2.png").shape == (31, 33)


def test_one_class(tmp_path: Path) -> None:
    labels = LabelSet(("all",))
    clip = tiny.write_clip(tmp_path, length=3)
    for path in clip.labels.iterdir():
        tiny.save_png(path, np.zeros(tiny.SIZE, np.uint8))
    checkpoint = tiny.write_checkpoint(tmp_path / "one.safetensors", labels)
    metrics = tiny.run(tiny.experiment(clip, checkpoint, labels=labels), tmp_path / "out")
    assert [one.miou for one in metrics.rounds] == [1, 1, 1]


def test_classes_that_no_answer_shows_are_named(checkpoint: Path, tmp_path: Path) -> None:
    clip = tiny.write_clip(tmp_path, length=3)
    for name in ("a0.png", "a1.png"):  # the ball comes last
        drawn = tiny.read_png(clip.labels / name)
        tiny.save_png(clip.labels / name, np.where(drawn == 2, 0, drawn))
    what = tiny.experiment(
        clip, checkpoint, method="label-propagation", strategy="uniform", budgets=(0.3, 1.0)
    )
    metrics = tiny.run(what, tmp_path / "out")
    assert [one.samples for one in metrics.rounds] == [0, 1, 3]  # the middle one first
    assert [one.unseen for one in metrics.rounds] == [(), ("ball",), ()]


def test_classes_that_no_answer_shows_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tiny.write_clip(tmp_path, length=5)
    for name in ("a1.png", "a2.png", "a3.png"):  # no ball where people are asked first
        drawn = tiny.read_png(clip.labels / name)
        tiny.save_png(clip.labels / name, np.where(drawn == 2, 0, drawn))
    network = new_network("hrnet_w18_small", 3, seed=3)
    with torch.no_grad():
        network.last_layer[3].bias[2] += 5  # knows nothing but balls
    info = CheckpointInfo(network.name, tiny.LABELS.names, tiny.SIZE, network.align_corners, 0)
    start = tmp_path / "start.safetensors"
    save_checkpoint(network, info, start)
    what = tiny.experiment(
        clip,
        start,
        method="hvsa",
        strategy="uniform",
        budgets=(0.2,),
        training=tiny.QUICK.model_copy(update={"learning_rate": 0.1, "epochs": 3}),
    )

    def shown(name: str) -> np.ndarray:
        metrics = tiny.run(what, tmp_path / name)
        assert metrics.rounds[1].unseen == ("ball",)
        maps = tmp_path / name / "rounds/1/label_maps"
        return np.stack([tiny.read_png(maps / f"a{t}.png") for t in range(5)])

    refuted = shown("refuted")  # it saw balls where there was none
    assert not (refuted == 2).any()
    monkeypatch.setattr(predict, "unseen_classes", lambda *_: [2])
    remembered = shown("remembered")
    assert (remembered == 2).any()
    np.testing.assert_array_equal(remembered[2], refuted[2])  # as it was answered


@pytest.mark.parametrize("method", ["hvsa", "paper", "label-propagation"])
def test_nothing_is_labelled(method: str, checkpoint: Path, tmp_path: Path) -> None:
    clip = tiny.write_clip(tmp_path, length=3, void=True)
    with pytest.raises(MediaError, match="labels know no pixel"):
        tiny.run(tiny.experiment(clip, checkpoint, method=method), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_frame_without_labels_teaches_nothing(checkpoint: Path, tmp_path: Path) -> None:
    clip = tiny.write_clip(tmp_path, length=3)
    for name in ("a0.png", "a2.png"):
        tiny.save_png(clip.labels / name, np.full(tiny.SIZE, IGNORE, np.uint8))
    what = tiny.experiment(clip, checkpoint, budgets=(0.3, 1.0), strategy="random")
    metrics = tiny.run(what, tmp_path / "out")
    assert metrics.rounds[2].miou is not None


def test_more_budget_than_samples_asks_for_everything_once(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    what = tiny.experiment(clip, checkpoint, method="label-propagation", budgets=(0.9, 0.95, 1.0))
    metrics = tiny.run(what, tmp_path)
    assert [one.round for one in metrics.rounds] == [0, 1, 2, 3]
    last = metrics.rounds[-1]
    assert last.samples <= 6
    assert last.clicks_percent <= 100
    assert last.pixel_accuracy > 0.9


def test_a_video_file(checkpoint: Path, tmp_path: Path) -> None:
    clip = tiny.write_clip(tmp_path, length=4)
    video = tmp_path / "clip.mkv"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(10))
        stream.height, stream.width = tiny.SIZE
        stream.pix_fmt = "bgr0"
        for frame in range(4):
            pixels = tiny.read_png(clip.images / f"a{frame}.png")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    settings = {"method": "label-propagation", "budgets": (0.3,)}
    of_video = tiny.run(
        tiny.experiment(clip, checkpoint, video=video, **settings), tmp_path / "video"
    )
    of_folder = tiny.run(tiny.experiment(clip, checkpoint, **settings), tmp_path / "folder")
    # lossless, so the numbers are the same; only the names of the frames differ
    assert len(open_frames(video)) == 4
    assert (tmp_path / "video/rounds/1/label_maps/frame_000003.png").is_file()
    for one, other in zip(of_video.rounds, of_folder.rounds, strict=True):
        assert one.model_dump(exclude={"seconds"}) == other.model_dump(exclude={"seconds"})
