"""The table of docs/results.md: what is run, what is kept, and what is said of it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import results
from benchmarks.results import Point, Row
from tests import tiny

HVSA, LABEL_PROPAGATION = "`hvsa`, whole frames", "label propagation, whole frames"


def row(
    clip: str, setting: str, *points: tuple[float, float], seed: int = 0, commit: str = "abc"
) -> Row:
    return Row(
        clip=clip,
        group="any",
        frames=50,
        setting=setting,
        seed=seed,
        budget="2%,10%",
        commit=commit,
        device="a processor",
        seconds=1.0,
        points=tuple(Point(clicks=clicks, miou=miou) for clicks, miou in points),
    )


def test_clicks_between_two_rounds_lie_on_a_line() -> None:
    series = row("a", HVSA, (0, 20), (2, 60), (10, 80)).points
    assert results.clicks_for(series, 70) == pytest.approx(6)
    assert results.clicks_for(series, 10) == 0
    assert results.clicks_for(series, 81) is None


def test_the_table_has_means_over_clips_and_spread_over_seeds() -> None:
    rows = [
        row("a", HVSA, (0, 20), (2, 60), (10, 80)),
        row("b", HVSA, (0, 20), (4, 70), (12, 90)),
        row("a", HVSA, (0, 20), (2, 62), (10, 80), seed=1),
        row("b", HVSA, (0, 20), (4, 70), (12, 90), seed=1),
        # a seed that lacks a clip; the last row is of another commit
        row("a", HVSA, (0, 0), (0, 0), (0, 0), seed=2),
        row("a", LABEL_PROPAGATION, (0, 20), (2, 50), (10, 65)),
        row("b", LABEL_PROPAGATION, (0, 20), (4, 50), (12, 66)),
        row("a", HVSA, (0, 1), (2, 1), (10, 1), commit="older"),
    ]
    told = results.report(rows, {"rooms": {"a", "b"}}, "abc", "2%,10%").splitlines()
    assert told[0] == "| | seeds | rooms, 2 % | rooms, 10 % |"
    assert told[2] == f"| {HVSA} | 2 | 3.0 %: **65.5** ±0.7 | 11.0 %: **85.0** ±0.0 |"
    assert told[3] == f"| {LABEL_PROPAGATION} | 1 | 3.0 %: **50.0** | 11.0 %: **65.5** |"
    assert "`abc` (a processor)" in "\n".join(told)
    assert told[-2].endswith("65.5 mIoU for the clicks of 5.5 of 50 drawn frames;")
    assert told[-1] == "  `hvsa` has that for the clicks of 1.5."


def test_nothing_measured_is_said() -> None:
    told = results.report([row("a", HVSA, (0, 1))], {"any": {"a"}}, "other", "2%,10%")
    assert told == "Nothing has been measured on commit other yet."


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    clip = tiny.write_clip(tmp_path / "clip")
    checkpoint = tiny.write_checkpoint(tmp_path / "start.safetensors")
    path = tmp_path / "clips.toml"
    path.write_text(
        f"[stripes]\ngroup = 'drawn'\nvideo = '{clip.images}'\nlabels = '{clip.labels}'\n"
        f"classes = '{','.join(tiny.LABELS.names)}'\ncheckpoint = '{checkpoint}'\nsize = '48x64'\n"
    )
    return path


def command(clips: Path, tmp_path: Path, *more: str) -> list[str]:
    told = [str(clips), "--settings", "label propagation", "--budget", "20%", "--commit", "abc"]
    return [*told, "--device", "cpu", "--out", str(tmp_path / "out"), *more]


@pytest.mark.slow
def test_a_run_is_kept_and_not_repeated(clips: Path, tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text(f"before\n{results.FIRST}\nold\n{results.LAST}\nafter\n")
    asked = command(clips, tmp_path, "--jobs", "2", "--write", str(document))

    assert CliRunner().invoke(results.main, asked, catch_exceptions=False).exit_code == 0
    kept = (tmp_path / "out/rows.json").read_text()
    written = document.read_text()
    again = CliRunner().invoke(results.main, asked, catch_exceptions=False)

    assert again.exit_code == 0
    assert again.output == ""
    assert (tmp_path / "out/rows.json").read_text() == kept
    assert document.read_text() == written
    # label propagation does not depend on the seed, so it is run once
    assert [one["seed"] for one in json.loads(kept)] == [0]
    assert f"| {LABEL_PROPAGATION} | 1 |" in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_are_kept(clips: Path, tmp_path: Path) -> None:
    text = clips.read_text()
    clips.write_text(text + text.replace("stripes", "broken").replace("48x64", "nonsense"))

    told = CliRunner().invoke(results.main, command(clips, tmp_path))

    assert told.exit_code == 1
    assert "broken, label propagation, whole frames, seed 0: exit status 2; see" in told.output
    assert [one["clip"] for one in json.loads((tmp_path / "out/rows.json").read_text())] == [
        "stripes"
    ]


def test_no_run_begins_after_the_time_is_over(clips: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(
        results.main, command(clips, tmp_path, "--minutes", "0"), catch_exceptions=False
    )
    assert told.output == "Nothing has been measured on commit abc yet.\n"
