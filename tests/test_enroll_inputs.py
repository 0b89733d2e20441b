"""`enroll` with labels, names and files as people have them, against the stand-in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hvsa_cvat.agent.compute import InProcess
from hvsa_cvat.cli import main
from hvsa_cvat.types import LabelSet
from tests import tiny
from tests.standin import StandIn

NAMES = tuple(tiny.LABELS)
VARIABLES = ("CVAT_USER", "CVAT_PASSWORD", "HVSA_WORKSPACE", "HVSA_CONFIG")


@pytest.fixture
def cvat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A server without tasks; the agent starts in a folder of its own, with a token."""
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with StandIn() as server:
        monkeypatch.setenv("CVAT_HOST", server.url)
        monkeypatch.setenv("CVAT_ACCESS_TOKEN", server.admin.token)
        yield server


def add_task(
    cvat: StandIn, labels: Sequence[str | dict[str, str]], files: Sequence[str] | None = None
) -> None:
    frames = [tiny.COLOURS[tiny.truth(t)] for t in range(len(files or "123"))]
    cvat.add_task("t", list(labels), frames=frames, names=files)


def network(folder: Path, *names: str) -> Path:
    return tiny.write_checkpoint(folder / "start.safetensors", LabelSet(names))


def enroll(checkpoint: Path, *more: str) -> Result:
    args = ("enroll", "1", "--checkpoint", str(checkpoint), "--device", "cpu", "--size", "48x64")
    return CliRunner().invoke(main, [*args, "--method", "label-propagation", *more])


@pytest.mark.parametrize("more", [[], [{"name": "spot", "type": "points"}]])
def test_one_class_is_refused_and_the_way_out_works(
    cvat: StandIn, tmp_path: Path, more: list[dict[str, str]]
) -> None:
    """A network of one class finds it at every pixel: masks of the whole frame."""
    add_task(cvat, ["box", *more])
    checkpoint = network(tmp_path, "box", "other")
    result = enroll(checkpoint)
    assert result.exit_code != 0
    (line,) = result.stderr.strip().splitlines()
    assert "task 1 has only the class 'box'" in line
    assert "hvsa-agent enroll 1 --background other" in line
    admin = cvat.person(cvat.admin)
    admin.call("PATCH", "tasks/1", {"labels": [{"name": "other", "type": "mask"}]})
    result = enroll(checkpoint, "--background", "other")
    assert result.exit_code == 0, result.stderr
    result = CliRunner().invoke(main, ["sync"], obj=InProcess())
    assert result.exit_code == 0, result.stderr
    box = cvat.label(cvat.task(1), "box")
    shapes = [shape for job in cvat.task(1).jobs for shape in cvat.shapes(job)]
    assert {shape["label_id"] for shape in shapes} <= {box}


def test_a_background_whose_name_holds_a_comma(cvat: StandIn, tmp_path: Path) -> None:
    names = ("traffic light, red", "road", "sky")
    add_task(cvat, names)
    checkpoint = network(tmp_path, *names)
    result = enroll(checkpoint, "--background", "traffic light, red,sky")
    assert result.exit_code == 0, result.stderr
    assert CliRunner().invoke(main, ["sync"], obj=InProcess()).exit_code == 0
    shown = {shape["label_id"] for job in cvat.task(1).jobs for shape in cvat.shapes(job)}
    ids = {label.name: label.id for label in cvat.task(1).labels}
    assert shown <= {ids["road"]}


def test_a_background_that_only_looks_like_a_class_names_its_twin(
    cvat: StandIn, tmp_path: Path
) -> None:
    add_task(cvat, NAMES)
    result = enroll(network(tmp_path, *NAMES), "--background", NAMES[0].upper())
    assert f"{NAMES[0].upper()!r} only looks like {NAMES[0]!r}" in result.stderr


def test_classes_that_the_checkpoint_does_not_know_are_named_with_their_twins(
    cvat: StandIn, tmp_path: Path
) -> None:
    add_task(cvat, NAMES)
    result = enroll(network(tmp_path, NAMES[0].title(), *NAMES[1:]))
    assert result.exit_code == 0, result.stderr
    assert "2 of 3 classes" in result.stdout
    assert f"{NAMES[0]!r} only looks like {NAMES[0].title()!r}" in result.stdout


def test_frames_in_the_order_of_letters_are_told_once(cvat: StandIn, tmp_path: Path) -> None:
    names = [f"frame_{i}.png" for i in sorted(range(12), key=str)]
    add_task(cvat, NAMES, names)
    result = enroll(network(tmp_path, *NAMES))
    assert result.exit_code == 0, result.stderr
    told = [line for line in result.stdout.splitlines() if "comes before" in line]
    assert len(told) == 1
    assert "'frame_11.png' comes before 'frame_2.png'" in told[0]


def test_the_home_folder_in_options_and_variables(
    cvat: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HVSA_WORKSPACE", "~/memory")
    add_task(cvat, NAMES)
    network(home, *NAMES)
    result = enroll(Path("~/start.safetensors"))
    assert result.exit_code == 0, result.stderr
    assert (home / "memory").is_dir()
    assert not (tmp_path / "~").exists()
