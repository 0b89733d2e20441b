from importlib.resources import as_file, files
from pathlib import Path

import pytest
from click.testing import CliRunner

from hvsa_cvat.cli import main
from hvsa_cvat.segmentation.checkpoint import load_checkpoint
from hvsa_cvat.simulation.datasets import check_labels, open_labels
from hvsa_cvat.simulation.scores import RunMetrics
from hvsa_cvat.types import LabelSet
from hvsa_cvat.video.frames import open_frames

MIB = 2**20


def size(*paths: Path) -> int:
    return sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())


def test_the_demos_clip_and_checkpoint_belong_together_and_are_small() -> None:
    with as_file(files("hvsa_cvat") / "data" / "demo") as folder:
        labels = LabelSet(tuple((folder / "classes.txt").read_text().split()))
        frames = open_frames(folder / "images")
        label_maps = open_labels(folder / "labels", frames, labels)
        check_labels(label_maps)
        network, line = load_checkpoint(folder / "pretrained.safetensors", labels)

        assert (len(frames), frames.size, len(labels)) == (60, (144, 192), 13)
        assert line == "pretrained.safetensors: hrnet_w18_small, 13 classes, round 0"
        assert network.classes == 13
        assert size(folder / "images", folder / "labels") <= 3 * MIB
        assert (folder / "pretrained.safetensors").stat().st_size <= 8 * MIB


def test_the_demo_runs_without_a_network_or_options(tmp_path: Path) -> None:
    # label propagation: the same path through the program without its minutes of training
    out = tmp_path / "run"
    result = CliRunner().invoke(
        main, ["demo", "--method", "label-propagation", "--strategy", "uniform", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    rounds = RunMetrics.model_validate_json((out / "metrics.json").read_text()).rounds
    assert [one.round for one in rounds] == [0, 1, 2, 3]
    assert rounds[0].miou < 0.4 < rounds[-1].miou
    assert rounds[0].propagated_percent is None
    assert 50 < rounds[-1].propagated_percent <= 100
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_the_demo_learns(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(main, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    rounds = RunMetrics.model_validate_json((out / "metrics.json").read_text()).rounds
    assert rounds[-1].miou > 0.8
    assert rounds[-1].clicks_percent < 8
