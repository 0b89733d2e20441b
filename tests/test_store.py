import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from hvsa_cvat.errors import HvsaError, SessionError
from hvsa_cvat.selection.pool import Pool
from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.checksums import Checksums
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, Answers, Clicks, FrameAnnotation, LabelSet, Sample


def session(name: str = "s") -> Session:
    return Session(name, "clip", LabelSet(("road", "sky")), {"seed": 1, "lr": [0.004, None]}, 2)


def answers() -> Answers:
    first = np.full((2, 3), IGNORE, np.uint8)
    first[0] = 1
    return Answers(
        (FrameAnnotation(2, (0, 4), first), FrameAnnotation(7, (), np.zeros((2, 3), np.uint8))),
        {Sample(2, 4): Clicks(5, 1), Sample(2, 0): Clicks(0, 1)},
    )


def scores() -> Pool:
    return Pool(
        np.array([0, 0, 1], np.int32),
        np.array([0, 1, 0], np.int32),
        np.array([0.5, 1, 2], np.float32),
        np.arange(12, dtype=np.float32).reshape(3, 4),
    )


def unchecked(root: Path) -> RoundFiles:
    """Round 1 as a session has it that was made before there were checksums."""
    return RoundFiles(root, 1, Checksums(root))


def run_sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_a_session_comes_back_as_it_was(tmp_path: Path) -> None:
    with Store(tmp_path / "new" / "run") as store:
        assert store.load() is None
        store.create(session())
        assert store.load() == session()
        later = session().finish_phase(Phase.PREDICT, 3.0).finish_phase(Phase.PUBLISH)
        later = later.finish_phase(Phase.SELECT, queried=[Sample(3, 1)], expected_clicks=4.5)
        store.save(later)
    with Store(tmp_path / "new" / "run") as store:
        assert store.load() == later


def test_one_folder_holds_one_session(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        with pytest.raises(SessionError, match="does not hold session 's'"):
            store.save(session())
        store.create(session())
        with pytest.raises(SessionError, match="already holds session 's'"):
            store.create(session("t"))
        with pytest.raises(SessionError, match="does not hold session 't'"):
            store.save(session("t"))
        assert store.load() == session()


def test_killed_between_artefact_and_save_the_phase_is_repeated(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def run() -> None:
        with Store(tmp_path) as store:
            store.create(session())
            store.round(0).save_scores(scores())
            raise Killed

    with pytest.raises(Killed):
        run()
    with Store(tmp_path) as store:
        assert store.load() == session()
        store.round(0).save_scores(scores())
        store.save(session().finish_phase(Phase.PREDICT))
        assert store.load() == session().finish_phase(Phase.PREDICT)


def test_a_save_that_fails_half_way_leaves_the_state_before(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create(session())
        # The database refuses the second round, after the first was deleted and written again.
        run_sql(
            store.database,
            "create trigger refuse before insert on rounds when new.number = 1 "
            "begin select raise(abort, 'refused'); end",
        )
        later = session().finish_phase(Phase.PREDICT).finish_phase(Phase.PUBLISH)
        with pytest.raises(SessionError, match=r"session\.db"):
            store.save(later)
        assert store.load() == session()


def test_a_folder_is_held_alone(tmp_path: Path) -> None:
    with Store(tmp_path):
        with pytest.raises(SessionError, match="in use by another run") as caught:
            Store(tmp_path)
        assert str(tmp_path) in str(caught.value)
        code = (
            "import sys, pathlib; from hvsa_cvat.session.store import Store\n"
            "try: Store(pathlib.Path(sys.argv[1]))\n"
            "except Exception as error: sys.exit(str(error))"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
        )
        assert other.returncode == 1
        assert "in use by another run" in other.stderr
    with Store(tmp_path) as store:
        store.close()
        Store(tmp_path).close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SessionError, match="choose another folder"):
        Store(tmp_path / "file" / "run")


def test_foreign_databases_are_named(tmp_path: Path) -> None:
    database = tmp_path / "session.db"
    database.write_bytes(b"not a database at all" * 100)
    with pytest.raises(SessionError, match=r"session\.db is not a session"):
        Store(tmp_path)
    database.unlink()
    run_sql(database, "create table cakes (name text)")
    with pytest.raises(SessionError, match=r"session\.db was not made by hvsa-agent"):
        Store(tmp_path)
    database.unlink()
    Store(tmp_path).close()  # the failures above let go of the lock


def test_a_newer_schema_is_refused_with_the_mend(tmp_path: Path) -> None:
    Store(tmp_path).close()
    run_sql(tmp_path / "session.db", "update schema_version set version = 99")
    with pytest.raises(SessionError, match=r"version 99.*install the newer"):
        Store(tmp_path)


def test_a_session_with_nonsense_in_it(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create(session())
        run_sql(store.database, "update rounds set phase = 'lunch'")
        with pytest.raises(SessionError, match=r"session\.db does not hold a whole session"):
            store.load()


def test_answers_come_back(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.round(1).save_answers(answers())
        store.round(2).save_answers(Answers(()))
        back = store.round(1).answers()
        assert store.round(2).answers() == Answers(())
        assert store.path("rounds", 1, "answers.npz").exists()
    assert [(a.frame, a.segments) for a in back.annotations] == [(2, (0, 4)), (7, ())]
    for mine, theirs in zip(back.annotations, answers().annotations, strict=True):
        assert mine.label_map.dtype == np.uint8
        assert mine.label_map.tolist() == theirs.label_map.tolist()
    assert back.clicks == answers().clicks
    assert back.total_clicks == 7


def test_scores_come_back(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.round(0).save_scores(scores())
        back = store.round(0).scores()
    assert back.samples == scores().samples
    assert back.uncertainty.tolist() == [0.5, 1, 2]
    assert back.features.tolist() == scores().features.tolist()
    assert back.features.dtype == back.uncertainty.dtype == np.float32


def test_artefacts_that_are_missing_truncated_or_foreign_are_named(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        with pytest.raises(SessionError, match=r"scores\.npz is missing"):
            store.round(3).scores()
        store.round(1).save_answers(answers())
        path = store.path("rounds", 1, "answers.npz")
        whole = path.read_bytes()
        damaged = whole[:300] + bytes(300) + whole[600:]
        cases = [whole[:n] for n in (0, 5, len(whole) // 2, len(whole) - 3)]
        for content in (*cases, damaged, b"\x80\x04N."):
            path.write_bytes(content)
            with pytest.raises(SessionError, match=r"answers\.npz is damaged: .*; restore it"):
                store.round(1).answers()
            with pytest.raises(SessionError, match=r"answers\.npz is truncated or foreign"):
                unchecked(tmp_path).answers()
        np.savez(path, frames=np.arange(3))
        with pytest.raises(SessionError, match=r"answers\.npz is truncated or foreign"):
            unchecked(tmp_path).answers()
        with path.open("wb") as file:
            np.save(file, np.arange(3))
        with pytest.raises(SessionError, match=r"answers\.npz is truncated or foreign"):
            unchecked(tmp_path).answers()
        path.unlink()
        with pytest.raises(SessionError, match=r"answers\.npz is missing; restore it"):
            store.round(1).answers()


def test_an_artefact_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        (tmp_path / "rounds").write_text("in the way")
        with pytest.raises(HvsaError, match=r"answers\.npz"):
            store.round(1).save_answers(answers())


def test_answers_of_frames_of_any_size_come_back(tmp_path: Path) -> None:
    kept = Answers(
        (
            FrameAnnotation(0, (1,), np.array([[3, IGNORE]], np.uint8)),
            FrameAnnotation(1, (), np.arange(12, dtype=np.uint8).reshape(4, 3)),
        )
    )
    with Store(tmp_path) as store:
        store.round(1).save_answers(kept)
        read = store.round(1).answers()
        assert read == kept
        assert read.annotations[1].label_map.tolist() == np.arange(12).reshape(4, 3).tolist()
