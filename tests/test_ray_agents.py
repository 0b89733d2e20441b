"""Agents that compute on a Ray cluster: as people run them, and while everything is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hvsa_cvat.agent.compute import Contact
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.ray_cluster import connected
from hvsa_cvat.agent.ray_pool import RayPool
from hvsa_cvat.agent.settings import ComputeSection
from hvsa_cvat.agent.workspace import HeldLease
from hvsa_cvat.ports import silent
from hvsa_cvat.session.rounds import Phase
from tests.ray_nodes import started
from tests.standin import StandIn
from tests.story import command, masks, memory_of, run_to_the_end, said, session_of, watching
from tests.team import Team, only_folder
from tests.worker_orders import Steps

pytestmark = pytest.mark.cluster

_LEASE = 4.0
"""Seconds after which the tasks of a dead agent are free."""


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    with StandIn() as cvat:
        yield Team(cvat, tmp_path, checkpoint)


def computes_on(team: Team, address: str) -> None:
    text = f'[compute]\nengine = "ray"\naddress = "{address}"\n'
    (team.root / "hvsa.toml").write_text(text)


def below(parents: set[int]) -> dict[int, str]:
    """The processes that others started, and the name of each."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            name = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent in parents and name:
            found[int(folder.name)] = name
    return found


def test_the_command_starts_a_cluster_of_its_own(team: Team) -> None:
    enroll(team.agent(), team.task, {**team.options, "budget": "40%", "rounds": 1})
    computes_on(team, "local")
    with watching(team) as process:
        said(team, "on the Ray cluster at local", process)
        said(team, "not finished (", process)
        team.answer()
        said(team, "all rounds are done", process)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        assert memory_of(process.pid) < 300e6
        raylets = {pid for pid, name in below({process.pid}).items() if "raylet" in name}
        workers = [pid for pid, name in below(raylets).items() if name.startswith("ray::")]
        assert workers
        secret = team.cvat.admin.token.encode()
        for pid in (*raylets, *workers):
            assert secret not in Path(f"/proc/{pid}/environ").read_bytes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (team.root / "log").read_text().rstrip().endswith("stopped")
    assert not any(Path(f"/proc/{pid}").exists() for pid in raylets)


def test_a_task_without_a_gpu_is_refused_before_anything_moves(team: Team) -> None:
    enroll(team.agent(), team.task, team.options)
    computes_on(team, "local")
    with (team.root / "hvsa.toml").open("a") as file:
        file.write("gpus_per_task = 1\n")
    arguments, environment = command(team)
    done = subprocess.run(
        arguments, env=environment, cwd=team.root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "no machine of the Ray cluster at local has 1 GPUs and 1 CPUs" in line
    assert "0 GPUs); add such a one, or lower [compute] gpus_per_task" in line
    assert session_of(only_folder(team)).current.number == 0


def test_a_worker_whose_machine_has_no_memory_is_retried_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By Ray's own watch over the memory, of which 2 % may be in use here."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.02")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "250")
    lines: list[str] = []
    contact = Contact(lines.append, silent, lambda: False, time.time)
    options = ComputeSection(engine="ray", address="local", retries=1)
    with connected(options, None) as cluster, RayPool(cluster) as pool:
        pool.begin(Steps(4), contact, HeldLease(), ExitStack())
        while (ended := pool.take(4)) is None:
            pool.wait(lambda: False)
    killed = "the worker was killed, because the memory of its machine ran out"
    assert str(ended.computed.error).startswith(f"{killed}, 2 times; raise cpus_per_task")
    assert f"task 4: {killed}; begun again (1 of 1 times)" in lines


class Agents:
    """Two agents of one workspace, each started anew when it was killed; people answer."""

    def __init__(self, team: Team, tasks: list[int]) -> None:
        self.team = team
        self.tasks = tasks
        self.started = 0
        self.alive: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *error: object) -> None:
        for one in self.alive:
            one.kill()
            one.wait()

    @property
    def done(self) -> bool:
        return all(session_of(only_folder(self.team, task)).done for task in self.tasks)

    def live(self, seconds: float) -> None:
        while len(self.alive) < 2:
            self.started += 1
            _, environment = command(self.team)
            program = [sys.executable, "-m", "tests.agent_life", "workspace"]
            with (self.team.root / "log").open("ab") as log:
                one = subprocess.Popen(
                    [*program, f"agent {self.started}", str(_LEASE)],
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd=self.team.root,
                )
            self.alive.append(one)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.done:
            phases = [session_of(only_folder(self.team, task)).current.phase for task in self.tasks]
            if Phase.ANNOTATE in phases:
                self.team.answer()
            for one in self.alive:
                assert one.poll() in (None, 0), (self.team.root / "log").read_text()
            time.sleep(0.1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kills", "seed"), [(6, 0), *(pytest.param(20, k, marks=pytest.mark.slow) for k in (1, 2))]
)
def test_two_agents_and_three_workers_are_killed(team: Team, kills: int, seed: int) -> None:
    """At any moment: the masks are those of one process, nothing is twice, nothing is lost."""
    options = {**team.options, "method": "hvsa", "budget": "40%", "rounds": 1}
    tasks = [team.task, team.add_task("two"), team.add_task("three")]
    other, alone = team.add_task("clip"), team.agent(workspace="undisturbed")
    enroll(alone, other, options)
    run_to_the_end(team, alone, other)
    for task in tasks:
        enroll(team.agent(), task, options)
    rng, killed = random.Random(seed), Counter[str]()
    with started(3) as nodes:
        computes_on(team, nodes.address)
        raylets = {info.process.pid for info in nodes.head_node.all_processes["raylet"]}
        with Agents(team, tasks) as agents:
            agents.live(20)
            while not agents.done:
                if killed.total() < kills:
                    workers = [
                        (pid, name)
                        for pid, name in below(raylets).items()
                        if name.startswith(("ray::carry_out", "ray::Mailbox"))
                    ]
                    if workers and rng.random() < 0.7:
                        pid, name = rng.choice(sorted(workers))
                        os.kill(pid, signal.SIGKILL)
                        killed[name.partition(".")[0]] += 1
                    else:
                        one = agents.alive.pop(rng.randrange(len(agents.alive)))
                        one.kill()
                        one.wait()
                        killed["agent"] += 1
                agents.live(rng.uniform(0, 8))
    (undisturbed,) = (team.root / "undisturbed" / "tasks").iterdir()
    for task in tasks:
        assert masks(only_folder(team, task)) == masks(undisturbed)
        assert session_of(only_folder(team, task)).clicks == session_of(undisturbed).clicks
        # `shown` refuses two masks on one pixel
        assert [m.tolist() for m in team.shown(task)] == [m.tolist() for m in team.shown(other)]
    asked = set(team.cvat.world.tasks) - {*tasks, other}
    assert len(asked) == 4  # each once
    print(dict(killed), f"{agents.started} agents started")
