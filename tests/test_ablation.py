import json
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks import ablation, paper_table, quality
from hvsa_cvat.config import HVSA, HVSA_CARRYING, PAPER, Strategy
from tests import tiny


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    clip = tiny.write_clip(tmp_path / "clip")
    checkpoint = tiny.write_checkpoint(tmp_path / "start.safetensors")
    path = tmp_path / "clips.toml"
    path.write_text(
        f"[stripes]\nvideo = '{clip.images}'\nlabels = '{clip.labels}'\n"
        f"classes = '{','.join(tiny.LABELS.names)}'\ncheckpoint = '{checkpoint}'\nsize = '48x64'\n"
    )
    return path


@pytest.mark.slow
def test_the_table_is_written_between_the_marks(clips: Path, tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text(f"before\n{ablation.FIRST}\nold\n{ablation.LAST}\nafter\n")
    command = [str(clips), "--rows", "label propagation", "--seeds", "0,1", "--budget", "20%"]
    command += ["--out", str(tmp_path / "out"), "--write", str(document)]

    assert CliRunner().invoke(ablation.main, command, catch_exceptions=False).exit_code == 0
    written = document.read_text()
    again = CliRunner().invoke(ablation.main, [*command, "--table-only"], catch_exceptions=False)

    assert again.exit_code == 0
    assert document.read_text() == written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written
    assert "### stripes" in written
    assert "| label propagation | 2 |" in written


@pytest.mark.slow
def test_runs_side_by_side_make_the_table_of_runs_one_by_one(clips: Path, tmp_path: Path) -> None:
    tables = []
    for jobs in ("1", "2"):
        command = [str(clips), "--rows", "label propagation", "--seeds", "0,1", "--budget", "20%"]
        command += ["--out", str(tmp_path / jobs), "--jobs", jobs]
        ran = CliRunner().invoke(ablation.main, command, catch_exceptions=False)
        tables.append(ran.stdout[: ran.stdout.index("seconds a round")])

    assert tables[0] == tables[1]
    assert "| label propagation | 2 |" in tables[0]


def test_rows_differ_in_what_they_name(clips: Path) -> None:

    clip = ablation.Clip.model_validate(tomllib.loads(clips.read_text())["stripes"])

    def config(row: str):
        return clip.experiment(row, "2%,5%,10%", 3).inputs.config

    assert config("+ smoothed: `hvsa`").carrying == HVSA_CARRYING
    assert config("+ smoothed: `hvsa`").training == HVSA
    neither = HVSA_CARRYING.model_copy(update={"refined": False, "smoothed": False})
    assert config("+ carried labels teach it").carrying == neither
    unsmoothed = HVSA_CARRYING.model_copy(update={"smoothed": False})
    assert config("+ refined").carrying == unsmoothed
    corrected = config("`hvsa`, corrected to 1 px")
    assert (corrected.answers, corrected.tolerance, corrected.carrying) == (
        "correct",
        1.0,
        HVSA_CARRYING,
    )
    without = config("`hvsa` without fusion")
    assert without.carrying == HVSA_CARRYING.model_copy(update={"fused": False})
    assert without.training == HVSA
    untaught = config("+ network of `paper`, fused")
    assert untaught.carrying == neither.model_copy(update={"taught": False})
    assert untaught.training == PAPER
    assert not config("`paper`").carrying.used
    assert config("`paper` with 16-px rectangles").granularity == "rectangle:16"
    assert config("`hvsa` with 16-px rectangles").strategy == Strategy.ACTIVE
    small_first = config("`hvsa` with 16-px rectangles, at last frames")
    assert small_first.granularity == "rectangle:16,rectangle:16,frame"
    assert small_first.farthest
    assert not config("that, one rectangle of each cluster").farthest
    assert not config("`paper`").farthest
    assert config("`paper`").strategy == Strategy.UNIFORM
    assert config("`paper`").budgets == (0.02, 0.05, 0.1)
    assert config("`paper`").seed == 3


def test_the_table_of_what_was_stopped(tmp_path: Path) -> None:
    def run(name: str, *mious: float) -> list[Path]:
        rounds = [
            {
                "clicks_percent": 2.0 * number,
                "miou": miou,
                "boundary_iou": 0.25,
                "temporal_consistency": None,
                "seconds": {"select": 3.0},
            }
            for number, miou in enumerate(mious)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"rounds": rounds}))
        return [tmp_path / name, tmp_path / "not begun"]

    begun, amid = run("begun", 0.5), run("amid", 0.5, 0.75)
    told = paper_table.table({"begun": begun, "amid": amid, "nothing": [tmp_path / "none"]})
    assert "begun" not in told
    assert "nothing" not in told
    assert "| amid | 1 | 0.0 %: **50.0** / 25.0 / 0.0 | 2.0 %: **75.0** / 25.0 / 0.0 |" in told
    assert "| amid | 3.0 |" in told
    assert paper_table.table({"begun": begun}) == "Nothing has been measured yet."


def test_a_document_without_marks_is_left_alone() -> None:
    with pytest.raises(click.ClickException, match="ablation"):
        ablation.between_marks("no marks", "table")


def test_the_product_is_compared_with_the_plain_round(clips: Path) -> None:
    command = [str(clips), "--answered", "1", "--seeds", "0"]

    told = CliRunner().invoke(quality.main, command, catch_exceptions=False).output

    video, ours, plain, apart = (cell.strip() for cell in told.splitlines()[-1].split("|")[1:-1])
    assert video == "stripes"
    assert float(ours) == pytest.approx(float(plain), abs=1)
    assert float(apart) == pytest.approx(float(ours) - float(plain), abs=0.11)
