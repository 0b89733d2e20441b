"""What is needed to run the agent in containers: linted, consistent with itself and with the code.

hadolint and the schemas of Compose and Kubernetes come as packages of the `dev` extra.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.version import Version

from hvsa_cvat.agent.settings import load_settings
from hvsa_cvat.cli import main
from tests.standin import StandIn

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "docker-compose.hvsa.yml", ROOT / "docker-compose.hvsa.gpu.yml")
KUBERNETES = ROOT / "deploy" / "kubernetes" / "hvsa-agent.yaml"
RAY = ROOT / "deploy" / "kubernetes" / "hvsa-ray.yaml"
YAML = (*COMPOSE, KUBERNETES, RAY)

Instruction = tuple[str, str]


def instructions(dockerfile: str) -> list[Instruction]:
    """Name and arguments of each, continued lines joined, comments left out."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1]) for line in joined.splitlines() if line]


IMAGE = instructions((ROOT / "Dockerfile").read_text())
FINAL = IMAGE[max(at for at, (name, _) in enumerate(IMAGE) if name == "FROM") :]
"""The instructions of the last stage."""


def given(name: str) -> str:
    """What the last stage says by an instruction that comes once."""
    (value,) = [arguments for one, arguments in FINAL if one == name]
    return value


ENVIRONMENT = dict(pair.split("=", 1) for pair in shlex.split(given("ENV")))
HEALTH = json.loads(given("HEALTHCHECK").partition("CMD")[2])


def complaints(*command: object) -> str:
    """What a tool of the virtual environment has to say where it fails."""
    name, *arguments = map(str, command)
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"{done.returncode}: {done.stdout}{done.stderr}"


def test_the_linters_have_nothing_to_say() -> None:
    assert complaints("hadolint", "--failure-threshold", "style", "Dockerfile") == ""
    assert complaints("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE) == ""
    rules = "{extends: default, rules: {line-length: {max: 100}, document-start: disable}}"
    assert complaints("yamllint", "--strict", "--config-data", rules, *YAML) == ""


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_kubernetes_knows_every_field(version: str) -> None:
    assert (
        complaints("kubernetes-validate", "--strict", "--kubernetes-version", version, KUBERNETES)
        == ""
    )


def ray_resources() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(RAY.read_text())}


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_kubernetes_knows_every_field_of_the_pods_of_ray(version: str, tmp_path: Path) -> None:
    """The schema of a RayCluster is that of its operator; the pods in it are Kubernetes's own."""
    cluster = ray_resources()["RayCluster"]["spec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [one["template"] | {"apiVersion": "v1", "kind": "Pod"} for one in groups]
    for number, one in enumerate(pods):
        one["metadata"]["name"] = f"pod-{number}"
    others = [one for kind, one in ray_resources().items() if kind != "RayCluster"]
    file = tmp_path / "pods.yaml"
    file.write_text(yaml.safe_dump_all([*pods, *others]))
    assert (
        complaints("kubernetes-validate", "--strict", "--kubernetes-version", version, file) == ""
    )


def test_the_pods_of_ray_are_those_of_the_agent_with_gpus() -> None:
    cluster = ray_resources()["RayCluster"]["spec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    mine = pod()["securityContext"]
    images = set()
    for group in (head, workers):
        spec = group["template"]["spec"]
        assert spec["securityContext"] == mine
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert mounts["shared"] == ENVIRONMENT["HVSA_WORKSPACE"]
        images.add(container["image"])
    assert len(images) == 1
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert cluster["authOptions"]["secretName"] == ray_resources()["Secret"]["metadata"]["name"]
    assert not any(ray_resources()["Secret"]["stringData"].values())


# -- the image


def test_the_base_is_pinned_and_the_build_stays_behind() -> None:
    (python,) = [value for name, value in IMAGE if name == "ARG" and value.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", python)
    assert [value for name, value in IMAGE if name == "FROM"] == [
        "${PYTHON} AS dependencies",
        "dependencies AS build",
        "${PYTHON}",
    ]
    assert [value for name, value in FINAL if name == "COPY"] == [
        "--from=dependencies /opt/hvsa /opt/hvsa"
    ]


def test_nobody_is_root_and_no_secret_is_inside() -> None:
    user, group = given("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    names = " ".join(value for name, value in IMAGE if name in ("ARG", "ENV"))
    assert not re.search("token|password|secret", names, re.IGNORECASE)


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    rules = [rule for rule in (ROOT / ".dockerignore").read_text().split("\n") if rule[:1] != "#"]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    sources = [
        source.rstrip("/")
        for name, value in IMAGE
        if name == "COPY" and "--from" not in value
        for source in value.split()[:-1]
    ]
    assert sorted(kept) == sorted(sources)
    assert all((ROOT / source).exists() for source in sources)
    for needed in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license-files"]:
        assert any(fnmatch(source, needed) for source in sources)


REQUIREMENTS = (ROOT / "deploy" / "requirements.txt").read_text()
BUILD_REQUIREMENTS = (ROOT / "deploy" / "build-requirements.txt").read_text()


def pins(requirements: str) -> dict[str, Version]:
    """The version of each package; each has a hash."""
    lines = [line for line in requirements.splitlines() if not line.lstrip().startswith("#")]
    found = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        pin, *hashes = line.split()
        name, version = pin.split("==")
        assert hashes
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in hashes)
        found[canonical(name)] = Version(version)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for lines, pinned in (
        (project["project"]["dependencies"], pins(REQUIREMENTS)),
        (project["build-system"]["requires"], pins(BUILD_REQUIREMENTS)),
    ):
        for line in lines:
            requirement = Requirement(line)
            version = pinned.get(canonical(requirement.name))
            assert version is not None, f"make requirements: {requirement.name} is not pinned"
            assert version in requirement.specifier, f"make requirements: {requirement}"
    assert "://" not in REQUIREMENTS + BUILD_REQUIREMENTS


def test_every_file_that_is_installed_is_compared_with_its_hash() -> None:
    """Except our own wheel, and PyTorch without CUDA, which only PyTorch's own index has."""
    run = " && ".join(value for name, value in IMAGE if name == "RUN")
    installs = re.findall(r"pip (?:--\S+ \S+ )?(?:install|wheel) [^&;]*", run)
    free = [one for one in installs if "--require-hashes" not in one]
    assert len(installs) - len(free) == 2
    torch, wheel, own = free
    assert "whl/cpu" in torch
    assert "--no-build-isolation --no-deps" in wheel
    assert "--no-deps /wheel/*.whl" in own


def test_an_image_without_cuda_leaves_out_what_belongs_to_cuda(tmp_path: Path) -> None:
    run = " && ".join(value for name, value in IMAGE if name == "RUN")
    (own,) = re.findall(r"grep -oE '[^']*' requirements.txt", run)
    (others,) = re.findall(r"awk '[^']*' requirements.txt", run)
    (tmp_path / "requirements.txt").write_text(REQUIREMENTS)

    def output(command: str) -> str:
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        return done.stdout

    kept, of_torch = pins(output(others)), output(own).split()
    assert [pin.split("==")[0] for pin in of_torch] == ["torch", "torchvision"]
    left_out = pins(REQUIREMENTS).keys() - kept.keys()
    assert {"torch", "torchvision", "triton"} <= left_out
    assert all(re.match("torch|triton|cuda|nvidia", name) for name in left_out)
    assert not any(name.startswith(("cuda", "nvidia")) for name in kept)


# -- what runs in it


def environment(folder: Path, **more: str) -> dict[str, str]:
    """That of the image, with its folders below `folder`, and what else it is started with."""
    moved = {
        name: str(folder / value.lstrip("/"))
        for name, value in ENVIRONMENT.items()
        if value.startswith(("/tmp", "/var")) and name != "PATH"
    }
    for path in (ENVIRONMENT["HVSA_WORKSPACE"], "/tmp"):
        (folder / path.lstrip("/")).mkdir(parents=True)
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return {**ENVIRONMENT, **moved, **kept, **more}


def healthy(variables: Mapping[str, str]) -> bool:
    return subprocess.run(HEALTH, env=variables, capture_output=True).returncode == 0


def test_a_container_starts_is_healthy_and_stops(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with StandIn() as cvat:
        token.write_text(f"{cvat.admin.token}\n")
        variables = environment(tmp_path, CVAT_HOST=cvat.url, CVAT_ACCESS_TOKEN_FILE=str(token))
        assert not healthy(variables)
        assert json.loads(given("ENTRYPOINT")) == ["hvsa-agent"]
        command = [sys.executable, "-m", "hvsa_cvat", *json.loads(given("CMD"))]
        process = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 60
            while not healthy(variables):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(0.2)
            process.send_signal(signal.Signals[given("STOPSIGNAL")])
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.communicate()
    assert (Path(variables["HVSA_WORKSPACE"]) / "workspace.db").exists()


def test_a_silent_agent_is_ill(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    heartbeat = Path(variables["HVSA_HEARTBEAT"])
    heartbeat.touch()
    assert healthy(variables)
    hour_ago = time.time() - 3600
    os.utime(heartbeat, (hour_ago, hour_ago))
    assert not healthy(variables)


# -- Compose and Kubernetes agree with the image


def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE[0].read_text())["services"]["hvsa_agent"]
    return found


def resources() -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all(KUBERNETES.read_text())}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = resources()["Deployment"]["spec"]["template"]["spec"]
    return found


def test_variables_are_those_that_the_agent_reads() -> None:
    (container,) = pod()["containers"]
    ours = {*service()["environment"], *(one["name"] for one in container["env"]), *ENVIRONMENT}
    options = {param.envvar for param in main.commands["sync"].params if param.envvar}
    known = {"CVAT_HOST", "CVAT_ACCESS_TOKEN_FILE", *options}
    assert {name for name in ours if name.startswith(("CVAT_", "HVSA_"))} <= known


def test_only_the_workspace_and_scratch_can_be_written() -> None:
    workspace = ENVIRONMENT["HVSA_WORKSPACE"]
    assert given("VOLUME") == given("WORKDIR") == workspace
    assert f" {workspace}" in " ".join(value for name, value in FINAL if name == "RUN")
    written = [ENVIRONMENT[n] for n in ("HOME", "TORCH_HOME", "MPLCONFIGDIR", "HVSA_HEARTBEAT")]
    assert all(path.startswith((workspace, "/tmp")) for path in written)

    agent = service()
    assert agent["read_only"]
    assert [entry.partition(":")[0] for entry in agent["tmpfs"]] == ["/tmp"]
    named, settings = agent["volumes"]
    assert named == f"hvsa_workspace:{workspace}"
    assert settings["read_only"]

    (container,) = pod()["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
    assert mounts == {workspace, "/tmp"}


def test_scratch_space_processes_and_memory_are_limited() -> None:
    agent = service()
    assert all("size=" in entry for entry in agent["tmpfs"])
    assert agent["pids_limit"] > 300
    assert "mem_limit" in agent
    (scratch,) = [one for one in pod()["volumes"] if one["name"] == "scratch"]
    assert scratch["emptyDir"]["sizeLimit"]
    (container,) = pod()["containers"]
    assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])


def test_the_network_policy_is_about_the_agent_and_opens_what_it_needs() -> None:
    policy = resources()["NetworkPolicy"]["spec"]
    labels = resources()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule["from"] for rule in policy["ingress"])
    opened = {one["port"] for rule in policy["egress"] for one in rule["ports"]}
    assert {53, 443, 8080} <= opened


def test_no_privileges_anywhere() -> None:
    user, group = map(int, given("USER").split(":"))
    agent = service()
    assert agent["cap_drop"] == ["ALL"]
    assert agent["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "ports", "user"} & set(agent)
    security = pod()["securityContext"]
    assert security["runAsNonRoot"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (
        user,
        group,
        group,
    )
    assert pod()["automountServiceAccountToken"] is False


def metrics_port() -> int:
    (container,) = pod()["containers"]
    (port,) = container["ports"]
    assert port["name"] == "metrics"
    return int(port["containerPort"])


def test_kubernetes_asks_where_the_agent_answers() -> None:
    (container,) = pod()["containers"]
    arguments = container["args"]
    assert arguments[arguments.index("--metrics") + 1] == f"0.0.0.0:{metrics_port()}"
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
    told = resources()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert told == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(metrics_port()),
        "prometheus.io/path": "/metrics",
    }
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_metrics_are_for_the_monitoring_namespace_alone() -> None:
    rules = resources()["NetworkPolicy"]["spec"]["ingress"]
    (rule,) = [one for one in rules if one["ports"][0]["port"] in ("metrics", metrics_port())]
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]


def test_the_pod_of_the_manifest_answers_its_probes(tmp_path: Path) -> None:
    (container,) = pod()["containers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    place = f"0.0.0.0:{metrics_port()}"
    arguments = [address if one == place else one for one in container["args"]]
    with StandIn() as cvat:
        variables = environment(tmp_path, CVAT_HOST=cvat.url, CVAT_ACCESS_TOKEN=cvat.admin.token)
        command = [sys.executable, "-m", "hvsa_cvat", *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 60
            for probe in ("readinessProbe", "livenessProbe"):
                url = f"http://{address}{container[probe]['httpGet']['path']}"
                while not answers(url):
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            process.terminate()
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    lines = [json.loads(line) for line in output.decode().splitlines()]
    assert lines[-1]["message"] == "stopped"
    assert {"time", "level", "message"} <= lines[0].keys()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except URLError:
        return False


def test_the_settings_of_the_manifest_can_be_read(tmp_path: Path) -> None:
    (name,) = resources()["ConfigMap"]["data"]
    text = resources()["ConfigMap"]["data"][name]
    (container,) = pod()["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    values = {one["name"]: one.get("value") for one in container["env"]}
    assert values["HVSA_CONFIG"] == f"{mounts['settings']}/{name}"
    (key,) = resources()["Secret"]["stringData"]
    assert values["CVAT_ACCESS_TOKEN_FILE"] == f"{mounts['token']}/{key}"
    # as it is, and with what is commented out taken in
    for content in (text, re.sub(r"(?m)^# ", "", text)):
        file = tmp_path / name
        file.write_text(content)
        assert load_settings(file, {"CVAT_ACCESS_TOKEN": "x"}).address.url.startswith("https://")


def test_a_manifest_that_was_not_filled_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (token,) = resources()["Secret"]["stringData"].values()
    (tmp_path / "token").write_text(token)
    monkeypatch.setenv("CVAT_ACCESS_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("CVAT_HOST", "https://cvat.example.com")
    refused = CliRunner().invoke(main, ["sync", "--watch"])
    assert refused.exit_code == 2
    assert str(tmp_path / "token") in refused.stderr
