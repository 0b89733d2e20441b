"""`hvsa-agent workspace`: copies are whole, damage is found, and only what is spare is freed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hvsa_cvat.agent.workspace_prune import unnamed
from hvsa_cvat.cli import main
from hvsa_cvat.database import Place
from hvsa_cvat.enrolled.live_report import live_report
from hvsa_cvat.errors import SessionError
from hvsa_cvat.export.masks import RoundMasks
from hvsa_cvat.objects import bucket_at, forget_buckets
from hvsa_cvat.session.store import Store
from tests.lead import DONE, WAITING, Filled, run_of


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    forget_buckets()
    yield
    forget_buckets()


def run(filled: Filled, *arguments: str, **environment: str) -> Result:
    known = {**filled.environment(), **environment}
    return CliRunner().invoke(main, ["workspace", *arguments], env=known)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".db" and path.name != ".lock"
    }


def rows(folder: Path) -> list[tuple]:
    found: list[tuple] = []
    for path in sorted(folder.rglob("session.db")):
        with closing(sqlite3.connect(path)) as database:
            query = "SELECT path, checksum FROM artefacts ORDER BY 1, 2"
            found += [(path.parent.name, *row) for row in database.execute(query)]
    return found


def test_a_folder_is_copied_to_a_folder(filled: Filled, tmp_path: Path) -> None:
    result = run(filled, "copy", str(filled.workspace), str(tmp_path / "new"))
    assert result.exit_code == 0, result.output
    assert files(tmp_path / "new") == files(filled.workspace)
    assert rows(tmp_path / "new") == rows(filled.workspace)
    again = run(filled, "copy", str(filled.workspace), str(tmp_path / "new"))
    assert again.exit_code == 2
    assert "is not empty; name a new folder" in again.output


def test_a_folder_goes_to_a_bucket_and_back(copied: Filled, tmp_path: Path) -> None:
    address = f"file://{tmp_path}/bucket"
    before = files(copied.workspace)
    result = run(copied, "copy", str(copied.workspace), address)
    assert result.exit_code == 0, result.output
    assert f'write artefacts = "{address}" into hvsa.toml' in result.output
    verified = run(copied, "verify", HVSA_ARTEFACTS=address)
    assert verified.exit_code == 0, verified.output
    back = run(copied, "copy", address, str(tmp_path / "back"))
    assert back.exit_code == 0, back.output
    after = files(tmp_path / "back")
    local = ("frames.npy", "/flow/", "/carrying/", "/features/", "machine.json")
    missing = [name for name in before if name not in after and not any(x in name for x in local)]
    assert missing == []
    assert all(before[name] == content for name, content in after.items() if name in before)
    assert run(Filled(tmp_path / "back", copied.url), "verify").exit_code == 0
    other = run(copied, "copy", str(tmp_path / "back"), address)
    assert other.exit_code == 1
    assert "holds the files of another workspace" in other.output


def test_nothing_is_copied_while_an_agent_works(copied: Filled, tmp_path: Path) -> None:
    with closing(sqlite3.connect(copied.workspace / "workspace.db")) as database:
        import time

        row = ("x", 7, "ann@host:1", time.time() + 30)
        database.execute("INSERT INTO leases (server, task, owner, expires) VALUES (?,?,?,?)", row)
        database.commit()
    for arguments in (
        ["copy", str(copied.workspace), str(tmp_path / "new")],
        ["copy", str(copied.workspace), f"file://{tmp_path}/bucket"],
        ["prune", "--yes"],
    ):
        result = run(copied, *arguments)
        assert result.exit_code == 1
        assert "ann@host:1 works on task 7 now; stop it" in result.output
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "bucket").exists()


def test_no_workspace(filled: Filled, tmp_path: Path) -> None:
    result = run(filled, "copy", str(tmp_path / "nowhere"), str(tmp_path / "new"))
    assert result.exit_code == 1
    assert "there is no workspace at" in result.output
    empty = run(filled, "copy", f"file://{tmp_path}/empty", str(tmp_path / "new"))
    assert empty.exit_code == 1
    assert "holds no sound copy of the databases" in empty.output
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found_and_told(copied: Filled, tmp_path: Path) -> None:
    assert run(copied, "verify").exit_code == 0
    folder = run_of(copied, DONE).root
    (folder / "rounds/1/answers.npz").write_bytes(b"damage")
    (folder / "rounds/2/selection.json").unlink()
    result = run(copied, "verify", str(DONE))
    assert result.exit_code == 1
    assert "rounds/1/answers.npz" in result.output
    assert "2 files missing or damaged; restore them" in result.output
    assert run(copied, "verify", str(WAITING)).exit_code == 0
    refused = run(copied, "copy", str(copied.workspace), str(tmp_path / "new"))
    assert refused.exit_code == 1
    assert "nothing was copied" in refused.output
    assert not (tmp_path / "new").exists()


def test_damaged_objects_are_made_again_from_this_machine(copied: Filled, tmp_path: Path) -> None:
    address = f"file://{tmp_path}/bucket"
    assert run(copied, "copy", str(copied.workspace), address).exit_code == 0
    (damaged,) = (tmp_path / "bucket").rglob(f"*-{DONE}-*/rounds/2/selection.json.*")
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    shutil.rmtree(run_of(copied, DONE).root / "rounds/1")
    (lost,) = (tmp_path / "bucket").rglob(f"*-{DONE}-*/rounds/1/answers.npz.*")
    lost.unlink()
    result = run(copied, "verify", HVSA_ARTEFACTS=address)
    assert result.exit_code == 1
    assert "rounds/1/answers.npz" in result.output
    assert "1 file missing or damaged" in result.output
    assert damaged.read_bytes() != b"x" * damaged.stat().st_size


def test_what_finished_tasks_need_no_longer_is_freed(copied: Filled) -> None:
    before, kept = run_of(copied, DONE), files(copied.workspace)
    exported = [[one.label_map.tolist() for one in RoundMasks(before, n)] for n in (0, 2)]
    report = [(one.number, one.finished, one.clicks) for one in live_report(DONE, before).rounds]
    dry = run(copied, "prune", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "masks of rounds 1" in dry.output
    assert files(copied.workspace) == kept
    assert run(copied, "prune").exit_code == 1, "it asks"
    assert files(copied.workspace) == kept
    done = run(copied, "prune", "--yes")
    assert done.exit_code == 0, done.output
    gone = kept.keys() - files(copied.workspace).keys()
    task = before.root.name
    parts = {name.split("/", 2)[2] for name in gone}
    assert all(name.startswith(f"tasks/{task}/") for name in gone)
    assert {part.split("/")[0] for part in parts} <= {"flow", "carrying", "features", "rounds"}
    of_rounds = {part for part in parts if part.startswith("rounds/")}
    assert all(part.startswith("rounds/1/") for part in of_rounds)
    assert not any(part.endswith(".json") or "answers" in part for part in of_rounds)
    assert not (before.root / "rounds/1/label_maps").exists()

    after = run_of(copied, DONE)
    assert [[one.label_map.tolist() for one in RoundMasks(after, n)] for n in (0, 2)] == exported
    again = live_report(DONE, after).rounds
    assert [(one.number, one.finished, one.clicks) for one in again] == report
    with pytest.raises(SessionError, match="masks of round 1 were removed by `hvsa-agent work"):
        list(RoundMasks(after, 1))
    assert run(copied, "verify").exit_code == 0
    assert "freed 0.0 MB" in run(copied, "prune", "--yes").output


def test_objects_that_nothing_names_are_freed(copied: Filled, tmp_path: Path) -> None:
    address = f"file://{tmp_path}/bucket"
    assert run(copied, "copy", str(copied.workspace), address).exit_code == 0
    bucket = bucket_at(address)
    bucket.write("tasks/gone/rounds/1/answers.npz.00", b"old")
    before = {one.name for one in bucket.stored()}
    workspace = Place(copied.workspace, artefacts=address)
    import time

    now = time.time()
    assert unnamed(workspace, bucket, lambda: now) == ([], 0), "somebody may be about to name it"
    assert unnamed(workspace, bucket, lambda: now + 7200) == (
        ["tasks/gone/rounds/1/answers.npz.00"],
        3,
    )
    result = run(copied, "prune", "--yes", HVSA_ARTEFACTS=address)
    assert result.exit_code == 0, result.output
    left = {one.name for one in bucket.stored()}
    assert any("/rounds/1/label_maps/" in name for name in before - left)
    assert not any("answers" in name for name in before - left)
    assert run(copied, "verify", HVSA_ARTEFACTS=address).exit_code == 0
    run_folder = run_of(copied, DONE).root
    shutil.rmtree(run_folder / "rounds")
    place = Place(run_folder, name=f"tasks/{run_folder.name}", artefacts=address)
    files_of_last = Store.peek_round(place, 2)
    assert files_of_last.label_map(run_of(copied, DONE).names[0]).ndim == 2
