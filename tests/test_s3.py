"""The files of sessions in S3: a server of moto over a socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.withdraw import withdraw
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.database import Place
from hvsa_cvat.errors import SessionError
from hvsa_cvat.objects import Bucket, BucketError, bucket_at, claim, forget_buckets, use_bucket
from hvsa_cvat.session.records import Ahead
from hvsa_cvat.session.store import Store
from tests.buckets import another_machine
from tests.standin import StandIn
from tests.team import Team, only

pytestmark = pytest.mark.cluster

ADDRESS = "s3://hvsa/workspace"
KEY = "AKIAIOSFODNN7EXAMPLE"


class S3:
    """A server that can be stopped."""

    def __init__(self) -> None:
        self._port = 0
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    server = S3()
    yield server
    server.stop()


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An empty bucket; the login is in the environment."""
    import requests

    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    requests.post(f"{server.url}/moto-api/reset", timeout=30)
    requests.put(f"{server.url}/hvsa", timeout=30)
    forget_buckets()
    yield server
    forget_buckets()


def place(folder: Path, name: str = "tasks/one") -> Place:
    return Place(folder, name=name, artefacts=ADDRESS)


def write(store: Store, text: str) -> None:
    store.round(1).save_ahead(Ahead(session=text, seconds=1.0))
    store.save_checksums()


def read(where: Place) -> str:
    return Store.peek_checksums(where).check(where.folder / "rounds/1/ahead.json").read_text()


def test_two_machines_and_one_bucket(s3: S3, tmp_path: Path) -> None:
    claim(place(tmp_path / "workspace", "."))
    one, two = place(tmp_path / "one"), place(tmp_path / "two")
    with Store(one) as store:
        write(store, "first")
        (store.root / "rounds/1/network.safetensors").write_bytes(bytes(6_000_000))
        store.round(1).note_network()
        store.save_checksums()
    another_machine(one.folder, two.folder)
    assert "first" in read(two)
    with Store(two) as store:
        found = store.round(1).newest_network()
        assert found is not None
        assert found.read_bytes() == bytes(6_000_000)
        write(store, "second")
    assert "second" in read(one)
    assert len(bucket_at(ADDRESS).stored("tasks/one")) == 3
    with pytest.raises(BucketError, match="holds the files of another workspace"):
        claim(place(tmp_path / "other", "."))


def test_a_server_that_is_away_for_a_while(s3: S3, tmp_path: Path) -> None:
    """moto forgets everything when it is stopped, so the bucket is made anew."""
    import requests

    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            s3.start()
            requests.put(f"{s3.url}/hvsa", timeout=30)

    use_bucket(Bucket(ADDRESS, sleep=sleep))
    bucket_at(ADDRESS).stored()
    s3.stop()
    with Store(place(tmp_path)) as store:
        write(store, "late")
    assert len(slept) >= 2
    assert len(bucket_at(ADDRESS).stored()) == 1


def test_a_bucket_that_is_not_there(s3: S3, tmp_path: Path) -> None:
    where = Place(tmp_path, artefacts="s3://nobody-made-it/hvsa")
    with pytest.raises(BucketError, match="there is no such bucket; create it, or correct"):
        claim(where)


def test_no_login(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(BucketError, match="there is no login; set AWS_ACCESS_KEY_ID"):
        claim(place(tmp_path, "."))


def test_a_login_without_rights(s3: S3, tmp_path: Path) -> None:
    """moto asks for rights once it is told to."""
    import requests

    url = f"{s3.url}/moto-api/reset-auth"
    requests.post(url, data="0", timeout=30)
    try:
        with pytest.raises(SessionError) as raised:
            claim(place(tmp_path, "."))
    finally:
        requests.post(url, data="inf", timeout=30)
    assert "the login is not accepted" in str(raised.value) or "no right" in str(raised.value)
    assert KEY not in str(raised.value)
    assert "wJalr" not in str(raised.value)


def test_two_machines_with_s3_and_postgresql(
    s3: S3, postgres: str, tmp_path: Path, checkpoint: Path
) -> None:
    """Passes in turn in two folders end in the masks of one machine; a third one withdraws."""
    with StandIn() as cvat:
        team = Team(cvat, tmp_path, checkpoint)
        other, alone = team.add_task("clip"), team.agent()
        enroll(alone, other, team.options)
        one, two, three = (_on(team, name, postgres) for name in ("one", "two", "three"))
        enroll(one, team.task, team.options)
        for number in range(8):
            agent = (two, one)[number % 2]
            reports = [only(sync(agent, team.task)), only(sync(alone, other))]
            assert [report.error for report in reports] == [None, None]
            if reports[0].done:
                break
            team.answer()
        assert [report.done for report in reports] == [True, True]
        shown = [[mask.tolist() for mask in team.shown(task)] for task in (team.task, other)]
        assert shown[0] == shown[1]
        assert not list((team.root / "one").rglob("*.db"))
        withdraw(three, team.task, children=False)
        withdraw(two, team.task, children=True)


def _on(team: Team, folder: str, database: str) -> AgentContext:
    agent = team.agent(workspace="elsewhere")
    root = team.root / folder
    settings = replace(agent.settings, workspace=root, database=database, artefacts=ADDRESS)
    key = server_key(team.cvat.url)
    workspace = Workspace(settings.place, key, folder, lambda: team.now)
    return replace(agent, settings=settings, workspace=workspace)
