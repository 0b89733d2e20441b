"""The paper's experiments, on clips that take a second, and on rooms in SceneNet's place."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import paper
from hvsa_cvat.config import PAPER_EXACT
from hvsa_cvat.metrics import Scores
from hvsa_cvat.simulation.scores import RoundMetrics, RunMetrics
from tests import tiny


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clips of one data set, with a network for both."""
    for name in ("a", "b"):
        tiny.write_clip(tmp_path / "data" / name, length=4)
    (tmp_path / "data/classes.txt").write_text("\n".join(tiny.LABELS.names))
    tiny.write_checkpoint(tmp_path / "data/start.safetensors")
    return tmp_path / "data"


def run(name: str, data: Path, *more: str) -> Result:
    command = [name, "--data", str(data), "--out", str(data.parent / "out"), "--budget", "30%,60%"]
    return CliRunner().invoke(paper.main, [*command, "--device", "cpu", *more])


def test_a_table_and_a_plot_of_all_clips(data: Path) -> None:
    (data / "printed.toml").write_text('[table2]\n"label propagation" = 81.5\n')
    done = run("table2", data, "--rows", "propagation")
    assert done.exit_code == 0, done.output
    out = data.parent / "out"
    assert "### table2, data, 2 clips" in done.output
    (row,) = [line for line in done.output.splitlines() if line.startswith("| label propagation")]
    assert row.count("|") == 8
    assert "| 81.5 |" in row
    assert (out / "table2-data.md").read_text().strip() in done.output
    assert (out / "table2-data.png").read_bytes().startswith(b"\x89PNG")
    mious = [
        RunMetrics.model_validate_json(path.read_text()).rounds[-1].miou
        for path in out.rglob("metrics.json")
        if path.parents[1].name == "label-propagation"
    ]
    assert len(mious) == 2
    assert f"**{50 * sum(mious):.1f}**" in row


def test_runs_are_shared(data: Path) -> None:
    """`ours` on whole frames is the row `Frame, ASS` of the other table."""
    assert paper.SELECTIONS["Frame, ASS"] == paper.METHODS["ours"]
    assert set(paper.ITERATIONS) == {f"{name}, ASS" for name in paper.GRANULARITIES}


def test_settings_are_the_papers() -> None:
    settings = paper.Settings("paper-exact", "6%", None, 0, "cpu")
    small = settings.config(paper.METHODS["ours"], (240, 320))
    assert small.training == PAPER_EXACT
    large = settings.config(paper.METHODS["fine-tune only"], (600, 800))
    assert large.training is not None
    assert (large.training.batch_pairs, large.training.consistency_weight) == (2, 0)
    assert settings.config(paper.METHODS["label propagation"], (240, 320)).training is None
    assert len(small.budgets) == 3


def rounds(*mious: float) -> RunMetrics:
    empty = dict.fromkeys(Scores.model_fields)
    return RunMetrics(
        settings={},
        preparation_seconds={},
        rounds=tuple(
            RoundMetrics.model_construct(
                **{**empty, "miou": miou},
                round=k,
                clicks_percent=2.0 * k,
                pixels_percent=4.0 * k,
            )
            for k, miou in enumerate(mious)
        ),
    )


def test_gains_are_those_of_the_mean() -> None:
    found = {"Frame, ASS": paper.means([rounds(0.2, 0.5, 0.6), rounds(0.4, 0.6, 0.9)])}
    assert paper.gain_table(found)[-1] == "| Frame, ASS | 30.0 | +25.0 | +20.0 |"
    assert paper.score_table(found, {})[-1] == "| Frame, ASS | 4.0 | 8.0 | **75.0** |  |  |"


@pytest.mark.parametrize("lacking", ["a/labels", "classes.txt", "start.safetensors"])
def test_what_is_missing_is_told_in_a_line(lacking: str, data: Path) -> None:
    (data / lacking).rename(data / "elsewhere")
    done = run("table2", data, "--rows", "propagation")
    assert done.exit_code == 1
    (line,) = done.output.strip().splitlines()
    assert f"has no {Path(lacking).name}" in line


def test_a_folder_without_clips_and_foreign_figures_are_told(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no clips" in run("table1", tmp_path / "empty").output
    (data / "printed.toml").write_text("[table1]\nFrame = 'much'\n")
    assert "write a table [table1] of lines" in run("table1", data).output


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["table1", "table2", "figure7", "figure8", "iterations"])
def test_rooms_in_place_of_scenenet(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("pybullet")
    from tools.rooms.__main__ import main as rooms

    root = tmp_path_factory.getbasetemp() / "paper"
    if not (root / "rooms").exists():  # the five share the clip and its runs
        asked = ["--distribution", "test", "--clips", "1", "--frames", "6", "--size", "108x144"]
        made = CliRunner().invoke(rooms, [*asked, "--seed", "3", "--out", str(root / "rooms")])
        assert made.exit_code == 0, made.output
    start = Path(paper.__file__).parents[1] / "hvsa_cvat/data/demo/pretrained.safetensors"
    more = ("--method", "paper", "--epochs", "1", "--size", "48x64", "--checkpoint", str(start))
    done = run(name, root / "rooms", *more)
    assert done.exit_code == 0, done.output
    assert all(f"| {row} |" in done.output for row in paper.EXPERIMENTS[name])
    assert (root / f"out/{name}-rooms.png").exists()
