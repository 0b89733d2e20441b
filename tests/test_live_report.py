"""The report of a task under way, and the command that writes it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hvsa_cvat.cli import main
from hvsa_cvat.cvat.state import State
from hvsa_cvat.enrolled.live_report import live_report
from hvsa_cvat.session.store import Store
from tests.lead import DONE, FAILED, FRESH, HOSTILE, WAITING, Filled, run_of
from tests.team import LENGTH


def command(filled: Filled, *args: object) -> Result:
    names = ("CVAT_ACCESS_TOKEN", "CVAT_USER", "CVAT_PASSWORD", "HVSA_CONFIG")
    environment = {**filled.environment(), **dict.fromkeys(names)}
    return CliRunner().invoke(main, ["report", *map(str, args)], env=environment)


def refused(result: Result, code: int = 2) -> str:
    assert result.exit_code == code, (result.output, result.exception)
    (line,) = result.stderr.strip().splitlines()
    return line


def test_the_report_tells_what_the_session_has(filled: Filled) -> None:
    run = run_of(filled, DONE)
    report = live_report(DONE, run)
    assert [r.number for r in report.rounds] == [0, 1, 2]
    assert report.rounds[-1].clicks == run.session.clicks > 0
    expected = run.files(2).outlook()
    assert expected is not None
    assert report.rounds[-1].outlook is not None
    assert report.rounds[-1].outlook.expected_miou == expected.expected_miou
    assert all(r.scores is None for r in report.rounds)
    asked = np.sum([r.chosen for r in report.rounds], axis=0)
    assert asked.sum() == len(run.session.queried)
    assert len(report.pictures) == LENGTH
    marked = [int(picture.chosen.max()) > 0 for picture in report.pictures]
    assert marked == (asked > 0).tolist()
    percent = [r.clicks_percent or 0 for r in report.rounds]
    assert percent == sorted(percent)
    minutes = [r.minutes or 0 for r in report.rounds]
    assert minutes == sorted(minutes)
    assert report.people is not None
    assert report.people.figures["spent_minutes"] == pytest.approx(minutes[-1])
    assert minutes[-1] > 0


def test_a_round_that_people_are_asked_in_now_is_there_without_masks(filled: Filled) -> None:
    run = run_of(filled, WAITING)
    report = live_report(WAITING, run)
    assert [r.finished for r in report.rounds] == [True, True, False]
    assert report.rounds[-1].chosen.any()
    (asked,) = [note for note in report.notes if "People are asked for" in note]
    request = run.request_of(2)
    assert request is not None
    # the same as for each job, which may show masks already
    assert f"about {sum(job.expected_minutes for job in request.jobs):.0f} min" in asked


@pytest.mark.parametrize("task", [DONE, WAITING, FRESH, FAILED])
@pytest.mark.parametrize("form", ["html", "md", "csv", "json"])
def test_every_form_of_every_task(filled: Filled, tmp_path: Path, task: int, form: str) -> None:
    out = tmp_path / f"report.{form}"
    result = command(filled, task, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    text = out.read_text(encoding="utf-8")
    rounds = {DONE: 3, WAITING: 3, FRESH: 0, FAILED: 2}[task]
    if form == "json":
        content = json.loads(text)
        assert len(content["rounds"]) == rounds
        assert (HOSTILE in content["title"]) == (task == WAITING)
    if form == "csv":
        assert [row["round"] for row in csv.DictReader(io.StringIO(text))] == [
            str(number) for number in range(rounds)
        ]
    if form == "md":
        assert " <img" not in text
    if form == "html":
        assert "<img src=x" not in text
    if form == "html" and task == DONE:
        assert "expected to reach a mean IoU of" in text
        assert "Expected mIoU over clicks" in text


def test_the_form_is_named_or_is_the_ending(filled: Filled, tmp_path: Path) -> None:
    assert command(filled, DONE, "--out", tmp_path / "a", "--format", "md").exit_code == 0
    assert (tmp_path / "a").read_text().startswith("# clip")
    assert "--format" in refused(command(filled, DONE, "--out", tmp_path / "report.pdf"))


def test_the_server_is_not_needed_and_nothing_changes(filled: Filled, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in filled.workspace.rglob("*")}
    assert command(filled, DONE, "--out", tmp_path / "report.html").exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in filled.workspace.rglob("*")} == before


def test_a_task_that_an_agent_works_on_can_be_read(filled: Filled, tmp_path: Path) -> None:
    folder = run_of(filled, DONE).root
    with Store(folder):
        assert command(filled, DONE, "--out", tmp_path / "report.md").exit_code == 0


def test_bad_input_is_one_line(copied: Filled, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert "task 99 of" in refused(command(copied, 99, "--out", out))
    nowhere = Filled(tmp_path / "nothing here", copied.url)
    assert "is not enrolled" in refused(command(nowhere, 1, "--out", out))
    assert not nowhere.workspace.exists()
    shutil.rmtree(run_of(copied, FAILED).root)
    assert "holds no session" in refused(command(copied, FAILED, "--out", out), 1)
    with closing(sqlite3.connect(copied.workspace / "workspace.db")) as database, database:
        database.execute("UPDATE version SET version = 99")
    assert "install the newer hvsa-agent" in refused(command(copied, DONE, "--out", out), 1)


def test_artefacts_that_are_gone_are_left_out(copied: Filled, tmp_path: Path) -> None:
    run = run_of(copied, DONE)
    run.files(1).label_map_path(run.names[0]).unlink()
    run.files(2).label_map_path(run.names[1]).unlink()
    (run.root / "rounds/2/answers.npz").unlink()
    report = live_report(DONE, run)
    assert [picture.name for picture in report.pictures] == [run.names[0], *run.names[2:]]
    (run.root / "frames.npy").unlink()
    assert live_report(DONE, run_of(copied, DONE)).pictures == ()
    shutil.rmtree(run.root / "rounds/2")
    assert command(copied, DONE, "--out", tmp_path / "report.html").exit_code == 0
    (run.root / "rounds/1/agreement.json").write_text("{")
    assert "damaged" in refused(command(copied, DONE, "--out", tmp_path / "report.html"), 1)


def test_class_colours_are_those_of_the_server(copied: Filled) -> None:
    run = run_of(copied, DONE)
    assert len(run.memory.colours) == len(run.session.labels)
    state = State(run.root / "cvat")
    state.facts.set_class_colours(["#FF0080", "#010203", "red; }"])
    colours = run_of(copied, DONE).colours.tolist()
    assert colours[:2] == [[255, 0, 128], [1, 2, 3]]
    assert colours[2] != [255, 0, 0]
