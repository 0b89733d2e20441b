"""Damage and loss of a session's files: what was recorded is checked when it is read."""

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from hvsa_cvat.errors import SessionError
from hvsa_cvat.selection.pool import Pool
from hvsa_cvat.session.answers import ANSWER_COLUMNS, answers_of, write_answers
from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.outlook import Advice, Outlook
from hvsa_cvat.session.prepare import prepare
from hvsa_cvat.session.records import Agreement, Propagation, Selection
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import SCHEMA_VERSION, Store
from hvsa_cvat.types import AnswerKind, Answers, Clicks, FrameAnnotation, Sample
from tests import tiny

MAP = np.zeros((4, 6), np.uint8)

VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE sessions (
    id VARCHAR(200) NOT NULL, video TEXT NOT NULL, labels JSON NOT NULL, config JSON NOT NULL,
    rounds_total INTEGER NOT NULL, PRIMARY KEY (id)
);
CREATE TABLE rounds (
    session VARCHAR(200) NOT NULL, number INTEGER NOT NULL, phase VARCHAR(20) NOT NULL,
    queried JSON NOT NULL, expected_clicks FLOAT, request TEXT, clicks INTEGER,
    seconds JSON NOT NULL, PRIMARY KEY (session, number),
    FOREIGN KEY(session) REFERENCES sessions (id)
);
INSERT INTO schema_version VALUES (1);
"""
"""The tables as the version before made them."""


def new_session() -> Session:
    return Session("s", "clip", tiny.LABELS, {}, 2)


def write_everything(files: RoundFiles) -> None:
    """One of each file that a round may have."""
    answers = Answers((FrameAnnotation(0, (0,), MAP),))
    with files.new_masks(3) as keep:
        keep("a", MAP, MAP, MAP > 0)
    files.save_scores(
        Pool(*(np.zeros(1, np.int32),) * 2, np.ones(1, np.float32), np.ones((1, 2), np.float32))
    )
    files.save_selection(Selection((Sample(0, 0),), (3.0,), 90.0))
    files.save_answers(answers)
    files.save_corrections(answers)
    files.save_agreement(Agreement(pixels=1, pixel_accuracy=1.0, miou=1.0))
    files.save_held_out([np.zeros((1, 5), np.int64)])
    files.save_propagation(Propagation(reached_percent=50.0))
    files.save_outlook(
        Outlook(
            miou_before=0.5, expected_miou=0.5, low=0.1, high=0.9, gain=0.1, advice=Advice.GO_ON
        )
    )
    files.network.write_bytes(b"weights" * 100)
    files.note_network()


READ: dict[str, Callable[[RoundFiles], object]] = {
    "label_maps/a.png": lambda files: files.label_map("a"),
    "certainty/a.png": lambda files: files.certainty_levels("a"),
    "origins/a.png": lambda files: files.carried_pixels("a"),
    "certainty/counts.npy": lambda files: files.level_counts(),
    "scores.npz": lambda files: files.scores(),
    "selection.json": lambda files: files.selection(),
    "answers.npz": lambda files: files.answers(),
    "corrections.npz": lambda files: files.corrections(),
    "agreement.json": lambda files: files.agreement(),
    "held_out.npz": lambda files: files.held_out(3),
    "propagation.json": lambda files: files.propagation(),
    "outlook.json": lambda files: files.outlook(),
    "network.safetensors": lambda files: files.of_round(2).newest_network(),
}


def flip(path: Path, place: float = 0.5) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flipped", "cut", "deleted"])
@pytest.mark.parametrize("name", READ)
def test_damage_is_found_when_a_file_is_read(name: str, damage: str, tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create(new_session())
        write_everything(store.round(1))
        store.save(new_session())
    path = tmp_path / "rounds/1" / name
    with Store(tmp_path) as store:
        READ[name](store.round(1))
        if damage == "flipped":
            flip(path)
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            path.unlink()
        named = rf"{path.name} is {'missing' if damage == 'deleted' else 'damaged'}.*; restore it"
        with pytest.raises(SessionError, match=named):
            READ[name](store.round(1))
    with pytest.raises(SessionError, match=named):
        READ[name](Store.peek_round(tmp_path, 1))
    if name.endswith(".json"):
        found = Store.peek_records(tmp_path)
        assert found is not None
        with pytest.raises(SessionError, match=named):
            READ[name](found[1].of_round(1))


def test_every_file_of_a_round_is_recorded(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create(new_session())
        write_everything(store.round(1))
        store.save(new_session())
    with closing(sqlite3.connect(tmp_path / "session.db")) as connection:
        recorded = {row[0] for row in connection.execute("select path from artefacts")}
    assert recorded == {f"rounds/1/{name}" for name in READ}
    assert recorded == {
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("rounds/*/*") if path.is_file()
    } | {
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("rounds/*/*/*") if path.is_file()
    }


def test_what_a_killed_phase_wrote_does_not_count(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create(new_session())
        store.round(1).save_selection(Selection((), (), 1.0))
    # killed before it was saved: the phase runs again and writes another one
    with Store(tmp_path) as store:
        selection = Selection((Sample(1, 0),), (2.0,), 2.0)
        store.round(1).save_selection(selection)
        store.save(new_session())
    with Store(tmp_path) as store:
        assert store.round(1).selection() == selection


@pytest.mark.parametrize("killed", [False, True])
def test_answers_that_people_revise_replace_the_recorded_ones(killed: bool, tmp_path: Path) -> None:
    revised = Answers((FrameAnnotation(0, (0,), MAP + 1),))
    with Store(tmp_path) as store:
        store.create(new_session())
        store.round(1).save_answers(Answers((FrameAnnotation(0, (0,), MAP),)))
        store.save(new_session())
    with Store(tmp_path) as store:
        store.round(1).save_answers(revised)
        if not killed:
            store.save(new_session())
    with Store(tmp_path) as store:
        assert store.round(1).answers() == revised
        flip(tmp_path / "rounds/1/answers.npz")
        with pytest.raises(SessionError, match=r"answers\.npz is damaged"):
            store.round(1).answers()


def test_how_samples_were_answered_is_kept(tmp_path: Path) -> None:
    samples = [Sample(0, one) for one in range(3)]
    kinds = {samples[1]: AnswerKind.CONFIRMED, samples[2]: AnswerKind.CORRECTED}
    clicks = {one: Clicks(one.segment, 1) for one in samples}
    answers = Answers((FrameAnnotation(0, (0, 1, 2), MAP),), clicks, kinds)
    path = tmp_path / "answers.npz"
    write_answers(path, answers)
    columns = [np.load(path)[name] for name in ANSWER_COLUMNS]
    assert answers_of(columns) == answers
    # as version 0.1 wrote it
    columns[-1] = columns[-1][:, :4]
    assert answers_of(columns) == Answers(answers.annotations, clicks)


def test_masks_of_a_round_that_trained_are_not_taken_from_the_network_before(
    tmp_path: Path,
) -> None:
    with Store(tmp_path) as store:
        store.create(new_session())
        for number in (1, 2):
            network = store.round(number).network
            network.parent.mkdir(parents=True)
            network.write_bytes(b"weights")
            store.round(number).note_network()
        store.save(new_session())
        store.round(2).network.unlink()
        with pytest.raises(SessionError, match=r"2/network\.safetensors is missing"):
            store.round(3).newest_network()


def prepared(clip: tiny.Clip, checkpoint: Path, store: Store, steps: list[str]) -> RunContext:
    def progress(step: str, done: int, total: int) -> None:
        if done == total:
            steps.append(step)

    inputs = tiny.experiment(clip, checkpoint, method="hvsa", size=(32, 48)).inputs
    return prepare(inputs, store, full_clicks=None, progress=progress)


@pytest.mark.parametrize(
    ("name", "made_again"),
    [
        ("frames.npy", ["resizing frames"]),
        ("flow/flow.npy", ["computing optical flow"]),
        ("flow/valid.npy", ["computing optical flow"]),
        ("carrying/frames.npy", ["resizing frames"]),
        ("carrying/flow/flow.json", ["computing optical flow"]),
    ],
)
def test_damaged_frames_and_flow_are_made_again(
    name: str, made_again: list[str], clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    with Store(tmp_path) as store:
        store.create(new_session())
        prepared(clip, checkpoint, store, [])
        store.save(new_session())
    before, stamp = (tmp_path / name).read_bytes(), (tmp_path / name).stat().st_mtime_ns
    steps: list[str] = []
    with Store(tmp_path) as store:
        prepared(clip, checkpoint, store, steps)
    assert steps == []
    assert (tmp_path / name).stat().st_mtime_ns == stamp
    flip(tmp_path / name, 0.9)
    with Store(tmp_path) as store:
        prepared(clip, checkpoint, store, steps)
        store.save(new_session())
    assert steps == made_again
    assert (tmp_path / name).read_bytes() == before
    with Store(tmp_path) as store:
        prepared(clip, checkpoint, store, steps)
    assert steps == made_again


def downgrade(root: Path) -> None:
    """Put a database of version 1 with the same session in the place of the one that is there."""
    database, old = root / "session.db", root / "old.db"
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript(VERSION_1)
        connection.execute("attach ? as new", (str(database),))
        for table in ("sessions", "rounds"):
            connection.execute(f"insert into {table} select * from new.{table}")
        connection.commit()
    old.replace(database)


class Stopped(Exception):
    pass


def test_a_run_of_the_version_before_goes_on(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    what = tiny.experiment(clip, checkpoint, method="label-propagation")
    tiny.run(what, tmp_path / "undisturbed")
    carried: list[int] = []

    def progress(step: str, done: int, total: int) -> None:
        if step == "carrying labels" and done == 1:
            carried.append(done)
            if len(carried) == 2:
                raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        tiny.run(what, out, progress=progress)
    downgrade(out)
    assert Store.peek(out) is not None
    assert Store.peek_round(out, 1).selection() is not None
    tiny.run(what, out)
    assert tiny.numbers(out) == tiny.numbers(tmp_path / "undisturbed")
    assert tiny.label_maps(out) == tiny.label_maps(tmp_path / "undisturbed")
    with closing(sqlite3.connect(out / "session.db")) as connection:
        assert connection.execute("select version from schema_version").fetchall() == [
            (SCHEMA_VERSION,)
        ]
        recorded = {row[0] for row in connection.execute("select path from artefacts")}
    # what was there before has no checksum, what was made since has
    assert "rounds/2/label_maps/a0.png" in recorded
    assert "rounds/1/label_maps/a0.png" not in recorded
    assert "frames.npy" in recorded


def test_an_empty_database_beside_rounds_is_no_new_session(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create(new_session())
        store.round(0).save_selection(Selection((), (), 1.0))
    (tmp_path / "session.db").write_bytes(b"")
    with pytest.raises(SessionError, match=r"session\.db is missing or empty.*restore it"):
        Store(tmp_path)


def test_any_name_of_a_folder_can_be_read_and_reading_leaves_no_trace(tmp_path: Path) -> None:
    root = tmp_path / "50% #1?mode=rw&x y"
    assert Store.peek(root) is None
    assert Store.peek_records(root) is None
    assert not root.exists()
    with Store(root) as store:
        store.create(new_session())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert Store.peek(root) == new_session()
    assert Store.peek_round(root, 0).selection() is None
    found = Store.peek_records(root)
    assert found is not None
    assert (found[0], found[1].number) == (new_session(), 0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


class Recorder:
    """Watches flushes and commits below `root`: what a loss of power at a commit would lose."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.flushed: dict[int, int] = {}
        """When each file was written that has been flushed, by inode."""
        self.unflushed_names: set[Path] = set()
        """Files and folders whose names may not have reached the disk."""
        self.commits = 0
        self.lost: list[str] = []

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if event in ("os.rename", "os.mkdir"):
            path = Path(str(args[1 if event == "os.rename" else 0]))
            if self.root in path.parents:
                self.unflushed_names.add(path)
        elif event == "hvsa_cvat.flush":
            path = Path(str(args[0]))
            stat = path.stat()
            self.flushed[stat.st_ino] = stat.st_mtime_ns
            self.unflushed_names = {p for p in self.unflushed_names if p.parent != path}
        elif event == "hvsa_cvat.commit" and str(args[0]) == str(self.root / "session.db"):
            self.commits += 1
            self.lost.extend(f"{self.commits}: {path}" for path in self.losses())

    def losses(self) -> Iterator[Path]:
        for path in self.root.rglob("*"):
            if path.name.startswith(("session.db", ".lock")):
                continue
            stat = path.stat()
            if path in self.unflushed_names or (
                path.is_file() and self.flushed.get(stat.st_ino) != stat.st_mtime_ns
            ):
                yield path


recorder: Recorder | None = None
sys.addaudithook(lambda event, args: recorder(event, args) if recorder is not None else None)


@contextmanager
def recorded(root: Path) -> Iterator[Recorder]:
    global recorder
    recorder = found = Recorder(root)
    try:
        yield found
    finally:
        recorder = None


def test_the_recorder_sees_what_is_not_flushed(tmp_path: Path) -> None:
    with Store(tmp_path) as store, recorded(tmp_path) as found:
        store.create(new_session())
        assert found.lost == []
        (tmp_path / "x").write_text("")
        os.mkdir(tmp_path / "d")
        store.save(new_session())
    assert sorted(found.lost) == [f"2: {tmp_path / 'd'}", f"2: {tmp_path / 'x'}"]


def test_all_that_a_phase_wrote_has_reached_the_disk_before_the_session_moves_on(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    what = tiny.experiment(
        clip, checkpoint, method="hvsa", granularity="superpixel:12", budgets=(0.2,), size=(32, 48)
    )
    out = tmp_path / "out"
    with recorded(out) as found:
        tiny.run(what, out)
    assert found.commits > 8
    assert found.lost == []
