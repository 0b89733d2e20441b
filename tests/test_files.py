import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvsa_cvat.errors import HvsaError, SessionError
from hvsa_cvat.files import atomic_directory, atomic_write, check_writable, remove_partial


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.json"

    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.suffix == ".json"
        temporary.write_text("whole")

    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    with atomic_write(path) as temporary:
        temporary.write_text("new")

    assert path.read_text() == "new"


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), SessionError("no"), KeyboardInterrupt(), full_disk()]
)
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises((type(error), HvsaError)):
        fail()

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    error = SessionError("no")

    with pytest.raises(SessionError) as raised, atomic_write(tmp_path / "x"):
        raise error

    assert raised.value is error


def test_a_full_disk_is_told_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(HvsaError) as raised, atomic_write(tmp_path / "x"):
        raise full_disk()

    message = str(raised.value)
    assert str(tmp_path / "x") in message
    assert "No space left on device" in message
    assert "\n" not in message

    with (
        pytest.raises(HvsaError, match="No space left") as raised,
        atomic_directory(tmp_path / "d"),
    ):
        raise full_disk()

    assert str(tmp_path / "d") in str(raised.value)


@pytest.mark.parametrize("atomic", [atomic_write, atomic_directory])
def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path, atomic) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(HvsaError, match="cannot write") as raised,
        atomic(tmp_path / "file" / "x"),
    ):
        pass

    assert str(tmp_path / "file" / "x") in str(raised.value)


def test_a_folder_in_the_way_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()

    with pytest.raises(HvsaError, match="cannot write"), atomic_write(tmp_path / "x"):
        pass

    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("atomic", [atomic_write, atomic_directory])
def test_a_folder_that_is_read_only_is_told(tmp_path: Path, atomic) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(HvsaError, match="Permission denied"), atomic(tmp_path / "x"):
        pass

    tmp_path.chmod(0o700)


def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "x"):
            pass
        with atomic_directory(tmp_path / "d"):
            pass
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "d"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "old").write_text("")

    with atomic_directory(path) as temporary:
        (temporary / "new").write_text("")
        assert (path / "sub" / "old").exists()

    assert list(path.iterdir()) == [path / "new"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), full_disk()])
def test_a_failure_leaves_the_old_folder_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").write_text("")

    def fail() -> None:
        with atomic_directory(path) as temporary:
            (temporary / "half").write_text("")
            raise error

    with pytest.raises((type(error), HvsaError)):
        fail()

    assert list(path.iterdir()) == [path / "old"]
    assert list(tmp_path.iterdir()) == [path]


def test_writing_can_be_tried_beforehand(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x"

    check_writable(path)

    assert list(path.parent.iterdir()) == []

    path.write_text("before")
    check_writable(path)
    assert path.read_text() == "before"

    for hopeless in (path.parent, path / "y"):
        with pytest.raises(HvsaError, match="cannot write") as raised:
            check_writable(hopeless)
        assert str(hopeless) in str(raised.value)


recording: list[tuple[str, str]] | None = None
"""(event, path) of the flushes and renames while they are recorded."""


def record(event: str, args: tuple[object, ...]) -> None:
    if recording is None:
        return
    if event == "os.rename":
        recording.append(("rename", str(args[1])))
    elif event == "hvsa_cvat.flush":
        recording.append(("flush", str(args[0])))


sys.addaudithook(record)


@contextmanager
def recorded() -> Iterator[list[tuple[str, str]]]:
    global recording
    recording = found = []
    try:
        yield found
    finally:
        recording = None


def test_a_file_is_flushed_before_it_gets_its_name_and_its_folder_after(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x"
    with recorded() as events, atomic_write(path) as temporary:
        temporary.write_text("whole")
    assert events == [
        ("flush", str(tmp_path)),  # which now names the folder a
        ("flush", str(temporary)),
        ("rename", str(path)),
        ("flush", str(path.parent)),
    ]


def test_a_folder_is_flushed_with_all_in_it_before_it_gets_its_name(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for round_ in range(2):
        with recorded() as events, atomic_directory(path) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "x").write_text(f"{round_}")
        content = [temporary, temporary / "sub", temporary / "sub" / "x"]
        renames = [path] if round_ == 0 else [temporary.with_name(f"{temporary.name}-old"), path]
        moved = len(content) + len(renames)
        assert sorted(events[: len(content)]) == sorted(("flush", str(p)) for p in content)
        assert events[len(content) : moved] == [("rename", str(p)) for p in renames]
        assert events[moved:] == [("flush", str(tmp_path))]


KILLED = """
import os, signal, sys
from pathlib import Path
from hvsa_cvat.files import atomic_directory
left = [int(sys.argv[2])]
def hook(event, args):
    if event == "os.rename":
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
with atomic_directory(Path(sys.argv[1])) as folder:
    (folder / "x").write_text("new")
"""


@pytest.mark.parametrize("renames", [0, 1])
@pytest.mark.parametrize("recovery", ["opening", "writing"])
def test_killed_while_a_folder_is_replaced(tmp_path: Path, renames: int, recovery: str) -> None:
    path = tmp_path / "d"
    with atomic_directory(path) as folder:
        (folder / "x").write_text("old")
    command = [sys.executable, "-c", KILLED, str(path), str(renames)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert path.exists() == (renames == 0)
    if recovery == "opening":
        remove_partial(tmp_path)
        assert list(tmp_path.iterdir()) == [path]
    else:  # the next writer fails, so the old content must be there still

        def fail() -> None:
            with atomic_directory(path):
                raise RuntimeError("bug")

        with pytest.raises(RuntimeError, match="bug"):
            fail()
    assert (path / "x").read_text() == "old"


def test_what_was_moved_aside_goes_when_its_successor_is_there(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / ".d-partial-1-old").mkdir()
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "d"]


def test_files_of_other_threads_keep_the_umask(tmp_path: Path) -> None:
    before, stop = os.umask(0o077), threading.Event()

    def write() -> None:
        while not stop.is_set():
            with atomic_write(tmp_path / "x"), atomic_directory(tmp_path / "d"):
                pass

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for name in range(2000):
            (tmp_path / f"{name}").touch()
    finally:
        stop.set()
        thread.join()
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) & 0o077 for p in tmp_path.iterdir()} == {0}


def test_a_file_that_a_library_replaces_has_the_rights_of_any_other(tmp_path: Path) -> None:
    ordinary, replaced = tmp_path / "ordinary", tmp_path / "replaced"
    ordinary.touch()
    with atomic_write(replaced) as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    assert replaced.stat().st_mode == ordinary.stat().st_mode
