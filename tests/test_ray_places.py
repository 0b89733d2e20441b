"""The same story on one machine, and on a Ray cluster with PostgreSQL and S3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.node_cache import CACHE, in_cache
from hvsa_cvat.agent.orders import FeatureMap
from hvsa_cvat.agent.ray_cluster import connected
from hvsa_cvat.agent.ray_pool import RayPool
from hvsa_cvat.agent.settings import ComputeSection
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.database import Place
from hvsa_cvat.objects import forget_buckets
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import LabelSet
from tests import tiny
from tests.postgres import PASSWORD
from tests.ray_nodes import started
from tests.standin import StandIn
from tests.story import masks, run_to_the_end
from tests.team import Team, only_folder
from tests.test_s3 import ADDRESS, KEY, S3
from tests.worker_orders import Nothing


@pytest.fixture
def everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What a cluster needs in its environment, and its address: files of a bucket go into a folder
    that the agent does not use."""
    server = S3()
    for name, value in {
        CACHE: str(tmp_path / "node"),
        "PGPASSWORD": PASSWORD,
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    requests.put(f"{server.url}/hvsa", timeout=30)
    forget_buckets()
    with started(2) as nodes:
        yield nodes.address
    forget_buckets()
    server.stop()


def on_many_machines(team: Team, database: str) -> AgentContext:
    agent = team.agent(workspace="agent")
    settings = replace(agent.settings, database=database, artefacts=ADDRESS)
    workspace = Workspace(settings.place, server_key(team.cvat.url), "agent", lambda: team.now)
    return replace(agent, settings=settings, workspace=workspace)


@pytest.mark.cluster
def test_masks_are_those_of_one_machine(
    everywhere: str, postgres: str, tmp_path: Path, checkpoint: Path
) -> None:
    with StandIn() as cvat:
        team = Team(cvat, tmp_path, checkpoint)
        options = {**team.options, "method": "hvsa", "budget": "40%", "rounds": 1}
        alone, other = team.agent(), team.add_task("clip")
        enroll(alone, team.task, options)
        run_to_the_end(team, alone, team.task)
        agent = on_many_machines(team, postgres)
        ray = ComputeSection(engine="ray", address=everywhere)
        with connected(ray, None) as cluster, RayPool(cluster) as pool:
            apart = replace(agent, compute=pool)
            enroll(apart, other, options)
            run_to_the_end(team, apart, other)
        expected = masks(only_folder(team, team.task))
        assert len(expected) == 2 * 6
        shown = [[one.tolist() for one in team.shown(task)] for task in (team.task, other)]
        assert shown[0] == shown[1]
        (made,) = (tmp_path / "node" / "tasks").iterdir()
        assert masks(made) == expected
        # what the machine made is in the bucket, from which the agent has published it
        enrollment = agent.workspace.enrollment(other)
        assert enrollment is not None
        place = agent.workspace.session_place(enrollment)
        assert list(place.folder.glob("rounds/*/flow*")) == []
        session = Store.peek(place)
        assert session is not None
        assert session.done


def test_only_what_is_kept_elsewhere_moves_into_the_cache(tmp_path: Path) -> None:
    image = tiny.COLOURS[tiny.truth(0)]
    place = Place(tmp_path / "w" / "tasks" / "one", "postgresql+psycopg://u@h/d", "tasks/one")
    config = RunConfig(size=(48, 64), budgets=(0.1,))

    def order(where: Place) -> FeatureMap:
        checkpoint = where.folder / "start.safetensors"
        return FeatureMap(checkpoint, where, LabelSet(("a", "b")), config, "cpu", image)

    cache = tmp_path / "cache"
    for stays in (place, Place(place.folder, artefacts=ADDRESS, name="tasks/one")):
        assert in_cache(order(stays), cache) == order(stays)
    assert in_cache(Nothing(1), cache) == Nothing(1)
    moved = in_cache(order(replace(place, artefacts=ADDRESS)), cache)
    assert isinstance(moved, FeatureMap)
    assert moved.place.folder == cache / "tasks" / "one"
    assert moved.checkpoint == cache / "tasks" / "one" / "start.safetensors"
    assert moved.place.database == place.database
