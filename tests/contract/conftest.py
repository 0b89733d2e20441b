"""One suite, two servers: the stand-in of the tests, and a real CVAT named by the environment.

`CVAT_HOST` is its URL, `CVAT_ACCESS_TOKEN` (or `CVAT_USER` and `CVAT_PASSWORD`) the account that
acts. More is tested with `CVAT_ORGANIZATION` (short name), `CVAT_WORKER_TOKEN` (or
`CVAT_WORKER_USER` and `CVAT_WORKER_PASSWORD`; a member whom the account may assign) and
`CVAT_LISTENER` (under which the server finds this machine).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from tests.contract.place import Json, Own, Place, desk, write_video
from tests.standin import StandIn


def token(name: str) -> Credentials | None:
    value = os.environ.get(name)
    return Credentials(token=value) if value else None


def password(prefix: str) -> Credentials | None:
    user, secret = (os.environ.get(f"{prefix}_{part}") for part in ("USER", "PASSWORD"))
    return Credentials(user=user, password=secret) if user and secret else None


def place_from_environment() -> Place:
    host, session = os.environ.get("CVAT_HOST"), password("CVAT")
    agent = token("CVAT_ACCESS_TOKEN") or session
    if not host or agent is None:
        pytest.exit("set CVAT_HOST, and CVAT_ACCESS_TOKEN or CVAT_USER and CVAT_PASSWORD", 2)
    return Place(
        Address(host, os.environ.get("CVAT_ORGANIZATION") or None),
        agent,
        session,
        token("CVAT_WORKER_TOKEN") or password("CVAT_WORKER"),
        os.environ.get("CVAT_LISTENER", "127.0.0.1"),
    )


@pytest.fixture(scope="session", params=["standin", pytest.param("cvat", marks=pytest.mark.cvat)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "cvat":
        yield place_from_environment()
        return
    with StandIn() as cvat:
        agent, ann = cvat.add_user("agent"), cvat.add_user("ann", groups=["worker"])
        cvat.add_organization("lab", members={"agent": "maintainer", "ann": "worker"})
        yield Place(
            Address(cvat.url, "lab"),
            Credentials(token=agent.token),
            Credentials(user=agent.name, password=agent.password),
            Credentials(token=ann.token),
            "127.0.0.1",
        )


@pytest.fixture(scope="session")
def client(place: Place) -> Iterator[CvatClient]:
    with place.client() as client:
        yield client


@pytest.fixture(scope="session")
def worker(place: Place) -> Iterator[CvatClient]:
    if place.worker is None:
        pytest.skip("no CVAT_WORKER_TOKEN, nor CVAT_WORKER_USER and CVAT_WORKER_PASSWORD")
    with place.client(place.worker) as client:
        yield client


@pytest.fixture(scope="session")
def own(client: CvatClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    own = Own(client, tmp_path_factory.mktemp("pictures"))
    try:
        yield own
    finally:
        own.remove()
    own.check()


@pytest.fixture(scope="session")
def project(own: Own) -> Json:
    return own.project()


@pytest.fixture(scope="session")
def images(own: Own, project: Json) -> Json:
    """Pictures 2 and 0 in one job, 3 in another, 1 left out; nobody changes it."""
    link = f"hvsa://{own.name}/tasks/1/rounds/0"
    return own.images([(2, 0), (3,)], project_id=project["id"], bug_tracker=link)


@pytest.fixture(scope="session")
def video(own: Own, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Forty frames of 24 x 32; nobody changes it."""
    return own.task([write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 40, 24, 32)])


@pytest.fixture(scope="session")
def unused_jobs(own: Own) -> Iterator[Json]:
    return desk(own)


@pytest.fixture
def job(unused_jobs: Iterator[Json]) -> Json:
    """A job of two frames for this test alone."""
    return next(unused_jobs)


@pytest.fixture
def labels(client: CvatClient, job: Json) -> dict[str, Json]:
    """The labels of the job, by name."""
    return {row["name"]: row for row in client.rows("labels", job_id=job["id"])}
