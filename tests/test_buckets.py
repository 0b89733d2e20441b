"""The files of a session in a bucket: which are sent when, and what its failures leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.agent.settings import load_local_settings
from hvsa_cvat.database import Place
from hvsa_cvat.errors import ConfigError, SessionError
from hvsa_cvat.objects import (
    Bucket,
    BucketError,
    bucket_at,
    checked_artefacts,
    claim,
    forget_buckets,
    use_bucket,
)
from hvsa_cvat.session.records import Ahead
from hvsa_cvat.session.store import Store
from tests.buckets import (
    PROTOCOL,
    FaultyFileSystem,
    Killed,
    Time,
    another_machine,
    patient_bucket,
    without_files,
)

ADDRESS = f"{PROTOCOL}://bucket/hvsa"


@pytest.fixture(autouse=True)
def time() -> Iterator[Time]:
    """Of a bucket that is there, and was reached before."""
    FaultyFileSystem.reset()
    forget_buckets()
    time = Time()
    use_bucket(patient_bucket(ADDRESS, time))
    bucket_at(ADDRESS).stored()
    FaultyFileSystem.heal()
    yield time
    forget_buckets()


def place(folder: Path, name: str = "tasks/one", artefacts: str | None = ADDRESS) -> Place:
    return Place(folder, name=name, artefacts=artefacts)


def write(store: Store, number: int, text: str) -> None:
    store.round(number).save_ahead(Ahead(session=text, seconds=1.0))
    store.save_checksums()


def read(where: Place, number: int) -> str:
    path = where.folder / f"rounds/{number}/ahead.json"
    Store.peek_checksums(where).check(path)
    return str(json.loads(path.read_text())["session"])


def test_another_machine_reads_what_was_written(tmp_path: Path) -> None:
    one, two = place(tmp_path / "one"), place(tmp_path / "two")
    with Store(one) as store:
        write(store, 1, "first")
    another_machine(one.folder, two.folder)
    assert read(two, 1) == "first"
    with Store(two) as store:
        write(store, 1, "second")
    assert read(one, 1) == "second", "what this machine has is of before"
    names = [stored.name for stored in bucket_at(ADDRESS).stored()]
    assert len(names) == 2
    assert all(name.startswith("tasks/one/rounds/1/ahead.json.") for name in names)


def test_without_a_bucket_nothing_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from hvsa_cvat.agent.workspace import Workspace\n"
        "from hvsa_cvat.session.store import Store\n"
        "Store(pathlib.Path(sys.argv[1]) / 'run').close()\n"
        "Workspace(pathlib.Path(sys.argv[1]), 'key', 'me', lambda: 0.0)\n"
        "sys.exit('fsspec' in sys.modules or 'torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert not (tmp_path / "artefacts.db").exists()


def masks(store: Store, number: int, shift: int) -> None:
    import numpy as np

    with store.round(number).new_masks(3) as keep:
        for frame in range(20):
            label_map = np.full((4, 4), (frame + shift) % 3, np.uint8)
            keep(f"frame_{frame}", label_map, np.zeros((4, 4), np.uint8), None)


def test_the_masks_of_a_round_are_few_objects(tmp_path: Path) -> None:
    one, two = place(tmp_path / "one"), place(tmp_path / "two")
    with Store(one) as store:
        masks(store, 1, 0)
        store.save_checksums()
        assert len(bucket_at(ADDRESS).stored()) == 4, "a pack for each folder, and the counts"
        masks(store, 1, 1)
        store.save_checksums()
    another_machine(one.folder, two.folder)
    files = Store.peek_round(two, 1)
    assert [int(files.label_map(f"frame_{frame}")[0, 0]) for frame in range(3)] == [1, 2, 0]
    FaultyFileSystem.heal()
    assert files.count_label_maps() == 20
    assert int(files.label_map("frame_19")[0, 0]) == 20 % 3
    assert FaultyFileSystem.calls == [], "the first has brought all others"
    with Store(two) as store:
        assert store.round(1).label_map("frame_5").shape == (4, 4)


def test_what_is_mapped_into_the_memory_stays(tmp_path: Path) -> None:
    one, two = place(tmp_path / "one"), place(tmp_path / "two")
    for where, content in ((one, b"by one"), (two, b"by two"), (one, None), (two, None)):
        another_machine(one.folder, where.folder) if where is two else None
        with Store(where) as store:
            path = store.video.frames
            with store.video.checked(path):
                assert path.exists() == (content is None), "each keeps its own"
                if content is not None:
                    path.write_bytes(content)
            write(store, 0, "x")
            assert store.checksums.knows(path)
    assert [one.name for one in bucket_at(ADDRESS).stored() if "frames" in one.name] == []
    (two.folder / "frames.npy").write_bytes(b"damaged")
    with Store(two) as store, store.video.checked(store.video.frames):
        assert not (two.folder / "frames.npy").exists()


# -- failures

FAULTS = ("error", "time-out", "cut")


def fail(kind: str, at: int) -> None:
    """Let one call fail."""

    def before(name: str, number: int) -> None:
        if number == at and kind != "cut":
            raise TimeoutError if kind == "time-out" else OSError("connection reset")

    def after(name: str, number: int) -> None:
        if number == at and kind == "cut" and name == "put":
            newest = list(FaultyFileSystem.store)[-1]
            FaultyFileSystem.store[newest].truncate(3)

    FaultyFileSystem.before, FaultyFileSystem.after = staticmethod(before), staticmethod(after)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_call_that_fails_is_repeated(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = place(tmp_path / "one"), place(tmp_path / "two")
    at = 0
    while at == 0 or len(FaultyFileSystem.calls) > at:
        at += 1
        FaultyFileSystem.heal()
        fail(kind, at)
        with Store(one) as store:
            write(store, 1, f"number {at}")
        another_machine(one.folder, two.folder)
        assert read(two, 1) == f"number {at}"
    assert at > 3
    if kind != "cut":
        assert "trying again" in caplog.text


def test_a_bucket_may_be_away_for_a_minute(tmp_path: Path, time: Time) -> None:
    def away(name: str, number: int) -> None:
        if time.now < 60:
            raise OSError("no route to host")

    FaultyFileSystem.before = staticmethod(away)
    with Store(place(tmp_path)) as store:
        write(store, 1, "late")
    assert 60 <= time.now < 120


def test_a_bucket_that_stays_away_is_one_line(tmp_path: Path, time: Time) -> None:
    def away(name: str, number: int) -> None:
        raise OSError("no route to host")

    FaultyFileSystem.before = staticmethod(away)
    with (
        Store(place(tmp_path)) as store,
        pytest.raises(BucketError, match=r"cannot write .*no route to host; it was tried for 120"),
    ):
        write(store, 1, "never")
    FaultyFileSystem.heal()
    assert Store.peek_checksums(place(tmp_path)).below(tmp_path / "rounds") == {}
    assert 120 <= time.now < 130


def test_what_is_wrong_from_the_start_is_told_at_once(time: Time) -> None:
    def away(name: str, number: int) -> None:
        raise OSError("no route to host")

    FaultyFileSystem.before = staticmethod(away)
    with pytest.raises(BucketError, match="no route to host; see whether it answers there"):
        patient_bucket(ADDRESS, time).stored()
    assert time.now == 0


NAMES = st.integers(1, 3)
STEP = st.one_of(
    st.tuples(st.just("put"), st.booleans(), NAMES, st.integers(0, 5)),
    st.tuples(st.just("kill"), st.booleans(), NAMES, st.integers(0, 5), st.integers(1, 4)),
    st.tuples(st.just("fetch"), st.booleans(), NAMES),
    st.tuples(st.just("wipe"), st.booleans()),
)


@settings(max_examples=25)
@given(st.lists(STEP, max_size=8))
def test_every_current_file_can_be_read_whatever_happens(steps: list[tuple]) -> None:
    """Two machines take turns; one is killed at some call to the bucket, before or after it."""
    FaultyFileSystem.reset()
    with tempfile.TemporaryDirectory() as name:
        places = [place(Path(name) / which) for which in ("one", "two", "three")]
        Store(places[0]).close()
        for other in places[1:]:
            another_machine(places[0].folder, other.folder)
        current: dict[int, set[str]] = {}
        for step in steps:
            FaultyFileSystem.heal()
            where = places[step[1]]
            if step[0] == "put":
                with Store(where) as store:
                    write(store, step[2], f"text {step[3]}")
                current[step[2]] = {f"text {step[3]}"}
            elif step[0] == "kill":
                die(step[4])
                number, text = step[2], f"text {step[3]}"
                try:
                    with Store(where) as store:
                        write(store, number, text)
                    current[number] = {text}
                except Killed:
                    if number in current:
                        current[number] |= {text}
                FaultyFileSystem.heal()
            elif step[0] == "fetch" and step[2] in current:
                assert read(where, step[2]) in current[step[2]]
            elif step[0] == "wipe":
                without_files(where.folder)
        FaultyFileSystem.heal()
        without_files(places[2].folder)
        for number, texts in current.items():
            assert read(places[2], number) in texts


def die(at: int) -> None:
    def before(name: str, number: int) -> None:
        if number == at:
            raise Killed

    FaultyFileSystem.before = staticmethod(before)


# -- what people can get wrong


def test_two_workspaces_in_one_prefix(tmp_path: Path) -> None:
    first, second = place(tmp_path / "first", "."), place(tmp_path / "second", ".")
    claim(first)
    claim(first)
    with pytest.raises(BucketError, match="holds the files of another workspace; name another"):
        claim(second)
    claim(place(tmp_path / "second", ".", f"{PROTOCOL}://bucket/other"))
    assert not any("probe" in name for name in FaultyFileSystem.store)
    bucket_at(ADDRESS).write("workspace.json", b"[]")
    with pytest.raises(BucketError, match="was not made by hvsa-agent"):
        claim(first)


def test_no_right_to_write(tmp_path: Path) -> None:
    def refuse(name: str, number: int) -> None:
        if name == "pipe":
            raise PermissionError("Access Denied")

    FaultyFileSystem.before = staticmethod(refuse)
    with pytest.raises(BucketError, match=r"cannot write probe-.*this login has no right to"):
        claim(place(tmp_path, "."))
    assert FaultyFileSystem.store == {}


def test_a_damaged_object_is_one_line(tmp_path: Path) -> None:
    one, two = place(tmp_path / "one"), place(tmp_path / "two")
    with Store(one) as store:
        write(store, 1, "text")
    another_machine(one.folder, two.folder)
    (key,) = FaultyFileSystem.store
    FaultyFileSystem.store[key].seek(0)
    FaultyFileSystem.store[key].write(b"damage")
    assert read(one, 1) == "text"
    with pytest.raises(SessionError, match=rf"ahead\.json is missing, also in {ADDRESS}; restore"):
        read(two, 1)
    assert list((two.folder / "rounds/1").iterdir()) == []


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://key:secret@bucket/hvsa", "holds a login"),
        ("s3://", "names no bucket"),
        ("s3://bucket?secret=x", "holds a login or options"),
    ],
)
def test_addresses_that_cannot_be_used(address: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        checked_artefacts(address, tmp_path)
    assert "secret@" not in str(raised.value)


def test_a_folder_is_an_address(tmp_path: Path) -> None:
    assert checked_artefacts("shared/hvsa", tmp_path) == f"file://{tmp_path}/shared/hvsa"
    assert checked_artefacts("s3://bucket/hvsa/", tmp_path) == "s3://bucket/hvsa"


def test_a_protocol_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="fsspec knows no protocol 'nothing'"):
        Bucket("nothing://bucket")


def test_a_protocol_whose_package_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"needs a package.*pip install 'hvsa-cvat\[cluster\]'"):
        Bucket("dropbox://bucket")


def test_a_shared_folder(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/shared"
    one = place(tmp_path / "one", artefacts=address)
    two = place(tmp_path / "two", artefacts=address)
    claim(place(tmp_path / "workspace", ".", address))
    with Store(one) as store:
        write(store, 1, "text")
    another_machine(one.folder, two.folder)
    assert read(two, 1) == "text"
    names = [stored.name for stored in bucket_at(address).stored()]
    assert len(names) == 2
    bucket_at(address).remove(names[0])
    bucket_at(address).remove(names[0])
    assert len(bucket_at(address).stored()) == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_shared_folder_without_the_right_to_write(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o555)
    with pytest.raises(SessionError, match="cannot write"):
        claim(place(tmp_path / "workspace", ".", f"file://{tmp_path}/shared"))


def test_the_settings_name_the_bucket(tmp_path: Path) -> None:
    file, known = tmp_path / "hvsa.toml", {"CVAT_HOST": "http://cvat"}
    file.write_text('artefacts = "shared"\n')
    assert load_local_settings(file, known).artefacts == f"file://{tmp_path}/shared"
    known["HVSA_ARTEFACTS"] = "s3://bucket/hvsa"
    assert load_local_settings(file, known).place.artefacts == "s3://bucket/hvsa"
    file.write_text("")
    assert load_local_settings(file, {"CVAT_HOST": "http://cvat"}).place.artefacts is None
