"""Folders of functions: what Nuclio and CVAT read of them, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from hvsa_cvat.cli import main
from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.serving.render import FunctionOptions, PlannedFunction, plan, write
from hvsa_cvat.types import LabelSet
from tests import tiny
from tests.nuclio_processor import read_function, variables
from tests.standin import StandIn
from tests.standin.api import ROUTES, Answer, Call, route

ROOT = Path(__file__).parents[1]
DEMO = Path(str(files("hvsa_cvat") / "data" / "demo"))
FILES = ["function-gpu.yaml", "function.yaml", "main.py", "model_handler.py"]


def rendered(checkpoint: Path, out: Path, **options: Any) -> PlannedFunction:
    planned = plan(checkpoint, out, FunctionOptions(**options))
    write(planned)
    return planned


def content(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def test_a_detector(tmp_path: Path, checkpoint: Path) -> None:
    planned = rendered(checkpoint, tmp_path)
    folder = tmp_path / "hvsa-tiny" / "nuclio"
    assert (planned.name, planned.folder) == ("hvsa-tiny", folder)
    assert sorted(path.name for path in folder.iterdir()) == [*FILES, "tiny.safetensors"]
    assert (folder / "tiny.safetensors").read_bytes() == checkpoint.read_bytes()
    for file in ("function.yaml", "function-gpu.yaml"):
        function = read_function(folder / file)
        assert (function["id"], function["kind"], function["name"]) == (
            *("hvsa-tiny", "detector"),
            "HVSA tiny",
        )
        assert function["labels_v2"] == [{"name": n, "type": "mask"} for n in tiny.LABELS]
        assert "hrnet_w18_small" in function["description"]
        assert not function["startswith_box"]
        assert not function["startswith_box_optional"]


def test_what_the_gpu_variant_has_of_its_own(tmp_path: Path, checkpoint: Path) -> None:
    folder = rendered(checkpoint, tmp_path, base_image="registry/hvsa:7").folder
    cpu, gpu = content(folder / "function.yaml"), content(folder / "function-gpu.yaml")
    for one in (cpu, gpu):
        assert one["metadata"]["namespace"] == "cvat"
        spec = one["spec"]
        assert (spec["runtime"], spec["handler"]) == ("python:3.11", "main:handler")
        trigger = spec["triggers"]["myHttpTrigger"]
        assert trigger["attributes"]["maxRequestBodySize"] == 32 * 2**20
        steps = [(step["kind"], step["value"]) for step in spec["build"]["directives"]["preCopy"]]
        assert steps[:2] == [("USER", "root"), ("ENTRYPOINT", "[]")]
        assert spec["build"]["baseImage"] == "registry/hvsa:7"
        assert "volumes" not in spec
    assert cpu["spec"]["build"]["image"] == "cvat.pytorch.hvsa.hvsa-tiny"
    assert gpu["spec"]["build"]["image"] == "cvat.pytorch.hvsa.hvsa-tiny:latest-gpu"
    assert "resources" not in cpu["spec"]
    assert gpu["spec"]["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert variables(folder / "function.yaml")["HVSA_DEVICE"] == "cpu"
    assert variables(folder / "function-gpu.yaml")["HVSA_DEVICE"] == "cuda"


def test_an_interactor(tmp_path: Path, checkpoint: Path) -> None:
    planned = rendered(checkpoint, tmp_path, kind="interactor")
    assert planned.name == "hvsa-tiny-interactor"
    function = read_function(planned.folder / "function.yaml")
    assert (function["kind"], function["version"]) == ("interactor", 2)
    assert (function["min_pos_points"], function["min_neg_points"]) == (1, 0)
    assert "Click into a region" in function["help_message"]
    assert variables(planned.folder / "function.yaml")["HVSA_FUNCTION"] == "interactor"


def test_polygons(tmp_path: Path, checkpoint: Path) -> None:
    folder = rendered(checkpoint, tmp_path, shapes="polygons").folder
    labels = read_function(folder / "function.yaml")["labels_v2"]
    assert {label["type"] for label in labels} == {"polygon"}
    assert variables(folder / "function.yaml")["HVSA_SHAPES"] == "polygons"


def test_a_mounted_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    folder = rendered(checkpoint, tmp_path, mount=Path("/srv/net works")).folder
    assert sorted(path.name for path in folder.iterdir()) == FILES
    (volume,) = content(folder / "function.yaml")["spec"]["volumes"]
    assert volume["volume"]["hostPath"]["path"] == "/srv/net works"
    assert volume["volume"]["name"] == volume["volumeMount"]["name"]
    assert volume["volumeMount"]["readOnly"] is True
    path = Path(variables(folder / "function.yaml")["HVSA_CHECKPOINT"])
    assert path == Path(volume["volumeMount"]["mountPath"]) / "tiny.safetensors"


def test_a_checkpoint_by_url(tmp_path: Path, checkpoint: Path) -> None:
    url = "https://example.com/nets/tiny.safetensors?version=3"
    folder = rendered(checkpoint, tmp_path, url=url).folder
    assert sorted(path.name for path in folder.iterdir()) == FILES
    found = variables(folder / "function.yaml")
    assert found["HVSA_CHECKPOINT_URL"] == url
    digest = subprocess.check_output(["sha256sum", str(checkpoint)], text=True).split()[0]
    assert found["HVSA_CHECKPOINT_SHA256"] == digest
    assert "HVSA_CHECKPOINT" not in found


NAMES = (
    'say "hi"',
    "it's: a # trap",
    "- {x}",
    "\\\\back\\slash",
    "strasse & weg <b>",
    "Straße 🚗",
    "yes",
)


def test_labels_of_any_name(tmp_path: Path) -> None:
    labels = LabelSet(NAMES)
    checkpoint = tiny.write_checkpoint(tmp_path / "odd.safetensors", labels)
    folder = rendered(checkpoint, tmp_path / "out").folder
    for file in ("function.yaml", "function-gpu.yaml"):
        found = read_function(folder / file)["labels_v2"]
        assert tuple(label["name"] for label in found) == NAMES
        assert tuple(json.loads(variables(folder / file)["HVSA_LABELS"])) == NAMES
    # and is known again as the same function
    rendered(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("file", ["Küche 🚗.safetensors", "'it''s' \"one\": \\#.safetensors"])
def test_checkpoints_of_any_name(tmp_path: Path, checkpoint: Path, file: str) -> None:
    odd = tmp_path / file
    odd.write_bytes(checkpoint.read_bytes())
    # a name that plain YAML would read as a truth value
    folder = rendered(odd, tmp_path / "out", name="yes").folder
    assert variables(folder / "function.yaml")["HVSA_CHECKPOINT"] == f"/opt/nuclio/{file}"
    assert (folder / file).exists()
    function = read_function(folder / "function.yaml")
    assert function["id"] == "yes"
    assert file in function["description"]
    rendered(odd, tmp_path / "out", name="yes")
    refuses(ConfigError, "has the name 'yes' too", odd, tmp_path / "out" / "yes", name="yes")


def test_the_files_in_the_repository_are_up_to_date(tmp_path: Path) -> None:
    planned = rendered(
        DEMO / "pretrained.safetensors", tmp_path, name="hvsa", mount=Path("/opt/hvsa")
    )
    kept = ROOT / "serverless" / "pytorch" / "hvsa" / "nuclio"
    assert sorted(path.name for path in kept.iterdir()) == FILES
    for file in FILES:
        assert (kept / file).read_text() == (planned.folder / file).read_text(), "render it again"


def test_handlers_are_thin_and_python(tmp_path: Path, checkpoint: Path) -> None:
    folder = rendered(checkpoint, tmp_path).folder
    for file in ("main.py", "model_handler.py"):
        text = (folder / file).read_text()
        compile(text, file, "exec")
        assert len(text.splitlines()) < 40


def test_rendering_again_takes_newer_weights(tmp_path: Path, checkpoint: Path) -> None:
    first = tmp_path / "net.safetensors"
    first.write_bytes(checkpoint.read_bytes())
    folder = rendered(first, tmp_path / "out").folder
    newer = tiny.write_checkpoint(tmp_path / "newer" / "net.safetensors", tiny.LABELS)
    assert rendered(newer, tmp_path / "out").folder == folder
    rendered(newer, tmp_path / "out", url="https://example.com/net")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["hvsa-net"]


def refuses(error: type[Exception], text: str, checkpoint: Path, out: Path, **options: Any) -> None:
    before = sorted(out.rglob("*"))
    with pytest.raises(error, match=text) as caught:
        rendered(checkpoint, out, **options)
    assert "\n" not in str(caught.value)
    assert sorted(out.rglob("*")) == before


def test_two_functions_of_one_name(tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "out"
    rendered(checkpoint, out, name="net")
    text = r"another function of this name, detector for floor, box, ball; choose another --name"
    refuses(ConfigError, text, checkpoint, out, name="net", kind="interactor")
    other = tiny.write_checkpoint(tmp_path / "other.safetensors", LabelSet(("sky", "road")))
    refuses(ConfigError, text, other, out, name="net")
    # CVAT's own functions, below the same folder
    theirs = out / "intel" / "face" / "nuclio"
    theirs.mkdir(parents=True)
    (theirs / "function.yaml").write_text("metadata:\n  name: 'face-0205'\n  namespace: cvat\n")
    refuses(ConfigError, "face/nuclio/function.yaml has the name", other, out, name="face-0205")
    assert sorted(path.name for path in out.iterdir()) == ["intel", "net"]


def test_what_is_not_ours_is_left_alone(tmp_path: Path, checkpoint: Path) -> None:
    mine = tmp_path / "net" / "nuclio"
    mine.mkdir(parents=True)
    (mine / "function.yaml").write_text("metadata:\n  name: something\n")
    refuses(ConfigError, "was not written by this command", checkpoint, tmp_path, name="net")
    (mine / "function.yaml").unlink()
    (mine / "notes.txt").write_text("mine")
    refuses(ConfigError, "was not written by this command", checkpoint, tmp_path, name="net")
    assert (mine / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "Kitchen", "a_b", "-a", "a-", "7up", "a" * 51, "a/b", "ä"])
def test_names_that_nuclio_cannot_have(tmp_path: Path, checkpoint: Path, name: str) -> None:
    refuses(ConfigError, "--name", checkpoint, tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_be_used(tmp_path: Path, checkpoint: Path) -> None:
    mount, url = Path("/srv"), "https://example.com/a"
    refuses(ConfigError, "cannot be used together", checkpoint, tmp_path, mount=mount, url=url)
    refuses(ConfigError, "absolute", checkpoint, tmp_path, mount=Path("nets"))
    refuses(ConfigError, "no web address", checkpoint, tmp_path, url="/srv/a")
    secret = "https://ann:secret@example.com/a"
    refuses(ConfigError, "user or password", checkpoint, tmp_path, url=secret)
    refuses(
        *(ConfigError, "is for detectors", checkpoint, tmp_path),
        kind="interactor",
        shapes="polygons",
    )
    assert not list(tmp_path.rglob("function.yaml"))


def test_checkpoints_that_cannot_be_served(tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "out"
    refuses(CheckpointError, "no checkpoint", tmp_path / "gone.safetensors", out)
    refuses(CheckpointError, "without the names of classes", tmp_path / "official.pth", out)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    refuses(CheckpointError, "truncated", cut, out)
    unnamed = tmp_path / "___.safetensors"
    unnamed.write_bytes(checkpoint.read_bytes())
    refuses(ConfigError, "give one with --name", unnamed, out)
    assert not list(out.rglob("function.yaml"))


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, ["serverless", "render", *(str(arg) for arg in args)])


def says(result: Result, *patterns: str) -> None:
    assert result.exit_code == 0, (result.stderr, result.exception)
    for pattern in patterns:
        assert pattern in result.stdout


def complains(result: Result, code: int, *patterns: str) -> None:
    assert result.exit_code == code, (result.stderr, result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    for pattern in ("Error: ", *patterns):
        assert pattern in line


def test_the_command(tmp_path: Path, checkpoint: Path) -> None:
    call = ("--checkpoint", checkpoint, "--out", tmp_path / "out")
    says(invoke(*call), "detector hvsa-tiny for floor, box, ball", "deploy_cpu.sh", str(tmp_path))
    says(invoke(*call, "--interactor"), "interactor hvsa-tiny-interactor")
    says(invoke(*call, "--name", "other", "--base-image", "mine:1", "--shapes", "polygons"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("hvsa-tiny", "hvsa-tiny-interactor", "other")
    ]
    complains(invoke(*call, "--interactor", "--name", "other"), 2, "choose another --name")
    complains(invoke("--checkpoint", tmp_path / "no.pth", "--out", tmp_path), 1, "no.pth")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_disk_that_cannot_be_written(tmp_path: Path, checkpoint: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        call = ("--checkpoint", checkpoint, "--out", disk / "out")
        complains(invoke(*call), 1, f"cannot write {disk}/out", "Read-only file system")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        complains(invoke(*call), 1, "cannot write", "No space left on device")
        assert not list(disk.rglob("*.yaml"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_place_that_is_a_file(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "out").write_text("")
    call = ("--checkpoint", checkpoint, "--out", tmp_path / "out")
    complains(invoke(*call), 1, f"cannot write {tmp_path}/out")
    assert (tmp_path / "out").read_text() == ""


DEPLOYED: list[dict[str, Any]] = []


@pytest.fixture
def cvat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """A server with Nuclio, whose functions are `DEPLOYED`."""
    before = len(ROUTES)

    @route("GET", "lambda/functions")
    def list_functions(call: Call) -> Answer:
        return Answer(200, DEPLOYED)

    monkeypatch.chdir(tmp_path)
    with StandIn() as server:
        monkeypatch.setenv("CVAT_HOST", server.url)
        monkeypatch.setenv("CVAT_ACCESS_TOKEN", server.admin.token)
        yield server
    DEPLOYED.clear()
    del ROUTES[before:]


def test_the_classes_are_checked_at_the_server(
    cvat: StandIn, tmp_path: Path, checkpoint: Path
) -> None:
    frames = [np.zeros((8, 8, 3), np.uint8)]
    call = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--task")
    fitting = cvat.add_task("clip", [*tiny.LABELS, "more"], frames=frames)
    lacking = cvat.add_task("clip", ["floor", "sky"], frames=frames)
    points = {"name": "ball", "type": "points"}
    other_type = cvat.add_task("clip", ["floor", "box", points], frames=frames)
    line = "the checkpoint knows box, ball, but the task has no such label (it has floor, sky)"
    complains(invoke(*call, lacking.id), 1, line)
    complains(invoke(*call, other_type.id), 1, "'ball' of the task has type points")
    complains(invoke(*call, 99), 1, "not found")
    assert not (tmp_path / "out").exists()
    says(invoke(*call, fitting.id), "detector hvsa-tiny")


def test_a_name_that_cvat_has_already(cvat: StandIn, tmp_path: Path, checkpoint: Path) -> None:
    task = cvat.add_task("clip", list(tiny.LABELS), frames=[np.zeros((8, 8, 3), np.uint8)])
    call = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--task", task.id)
    labels = [{"name": name, "type": "mask"} for name in tiny.LABELS]
    DEPLOYED[:] = [{"id": "hvsa-tiny", "kind": "detector", "labels_v2": labels[:2]}]
    line = "another function 'hvsa-tiny', detector for floor, box, which would be replaced"
    complains(invoke(*call), 2, line, "--name")
    assert not (tmp_path / "out").exists()
    says(invoke(*call, "--name", "hvsa-second"), "hvsa-second")
    DEPLOYED[:] = [{"id": "hvsa-tiny", "kind": "interactor", "labels_v2": []}]
    complains(invoke(*call), 2, "'hvsa-tiny', interactor, which")
    DEPLOYED[:] = [{"id": "hvsa-tiny", "kind": "detector", "labels_v2": labels[::-1]}]
    says(invoke(*call), "hvsa-tiny")


def test_a_server_without_nuclio(cvat: StandIn, tmp_path: Path, checkpoint: Path) -> None:
    ROUTES.pop()
    task = cvat.add_task("clip", list(tiny.LABELS), frames=[np.zeros((8, 8, 3), np.uint8)])
    call = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--task", task.id)
    says(invoke(*call), "CVAT lists no functions", "detector hvsa-tiny")
    assert list((tmp_path / "out").rglob("function.yaml"))
