"""Makes a folder from a checkpoint that CVAT's scripts deploy to Nuclio."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jinja2

from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.files import atomic_directory
from hvsa_cvat.lookalikes import twin_hint
from hvsa_cvat.segmentation.checkpoint import read_info
from hvsa_cvat.segmentation.checkpoint_info import CheckpointInfo
from hvsa_cvat.serving.download import check_address, file_sha256
from hvsa_cvat.serving.model import SegmentationModel

Kind = Literal["detector", "interactor"]
Shapes = Literal["masks", "polygons"]

_MADE_BY = "# Written by `hvsa-agent serverless render`"
_IN_IMAGE = "/opt/nuclio"
_MOUNTED = "/checkpoint"

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")
"""Docker and Kubernetes put it into longer names, which may have at most 63 characters."""

_CARRY_MASKS = ("any", "mask", "polygon")


@dataclass(frozen=True)
class FunctionOptions:
    """How to make a function. Without `mount` and `url` the image contains the checkpoint."""

    kind: Kind = "detector"
    name: str | None = None
    """Nuclio's name of the function. None: a name made from the checkpoint's."""
    shapes: Shapes = "masks"
    mount: Path | None = None
    """A folder of the Docker host that contains a file with the checkpoint's name."""
    url: str | None = None
    """The address from which each worker fetches the checkpoint when it starts."""
    base_image: str = "hvsa-agent"
    """The image that our Dockerfile builds, with this package and Python 3.11."""

    def __post_init__(self) -> None:
        if self.mount and self.url:
            raise ConfigError("--mount and --url cannot be used together; give one of them")
        if self.mount and not self.mount.is_absolute():
            raise ConfigError(f"--mount {self.mount} must be an absolute path on the Docker host")
        if self.url:
            check_address(self.url)
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"--name {self.name!r}: use at most 50 lower-case letters, digits and -, beginning "
                "with a letter"
            )
        if self.kind == "interactor" and self.shapes == "polygons":
            raise ConfigError(
                "--shapes polygons is for detectors; for an interactor leave it out, CVAT converts "
                "masks itself"
            )


@dataclass(frozen=True)
class PlannedFunction:
    """A function that has been checked and can be written."""

    name: str
    folder: Path
    """OUT/NAME/nuclio: the folder to write."""
    checkpoint: Path
    info: CheckpointInfo
    options: FunctionOptions


def plan(checkpoint: Path, out: Path, options: FunctionOptions) -> PlannedFunction:
    """Check everything and return what `write` will write. The checkpoint is loaded as a test."""
    SegmentationModel(checkpoint, "cpu")
    name = options.name or _name_after(checkpoint, options.kind)
    planned = PlannedFunction(
        name, out / name / "nuclio", checkpoint, read_info(checkpoint), options
    )
    _check_place(planned, out)
    return planned


def write(planned: PlannedFunction) -> None:
    """Write the folder. If this fails, nothing is changed. An older folder is replaced."""
    options, values, environment = planned.options, _values(planned), _environment()
    with atomic_directory(planned.folder) as temporary:
        for gpu, file in ((False, "function.yaml"), (True, "function-gpu.yaml")):
            text = environment.get_template("function.yaml.j2").render(values, gpu=gpu)
            (temporary / file).write_text(text, encoding="utf-8")
        for file in ("main.py", "model_handler.py"):
            text = environment.get_template(f"{file}.j2").render()
            (temporary / file).write_text(text, encoding="utf-8")
        if not options.mount and not options.url:
            shutil.copyfile(planned.checkpoint, temporary / planned.checkpoint.name)


def check_labels(labels: Sequence[str], task_labels: Sequence[Mapping[str, Any]]) -> None:
    """`CheckpointError` unless each of `labels` is a label of the task and can have masks.

    `task_labels` are rows of CVAT's API. CVAT itself ignores labels that the task does not have.
    """
    types = {row["name"]: row["type"] for row in task_labels}
    unknown = [name for name in labels if name not in types]
    if unknown:
        raise CheckpointError(
            f"the checkpoint knows {', '.join(unknown)}, but the task has no such label (it has "
            f"{', '.join(types) or 'none'}); use a checkpoint of the same project, or add the label"
            f"{''.join(twin_hint(name, types) for name in unknown)}"
        )
    wrong = [name for name in labels if types[name] not in _CARRY_MASKS]
    if wrong:
        raise CheckpointError(
            f"label {wrong[0]!r} of the task has type {types[wrong[0]]}, which allows no masks; "
            "set it to any or mask in CVAT"
        )


def check_deployed(planned: PlannedFunction, functions: Sequence[Mapping[str, Any]]) -> None:
    """`ConfigError` if deploying would replace another function of the same name.

    `functions` are rows of CVAT's API. The same function with other weights may be replaced.
    """
    for function in functions:
        if function["id"] == planned.name:
            labels = [label["name"] for label in function.get("labels_v2") or ()]
            kind = planned.options.kind
            same_labels = kind == "interactor" or set(labels) == set(planned.info.labels)
            if function["kind"] != kind or not same_labels:
                raise ConfigError(
                    f"CVAT already has another function {planned.name!r}, "
                    f"{_described(function['kind'], labels)}, which would be replaced; choose "
                    "another --name, or delete that function first (nuctl delete function)"
                )


def _described(kind: str, labels: Sequence[str]) -> str:
    return f"{kind} for {', '.join(labels)}" if labels else kind


def _name_after(checkpoint: Path, kind: Kind) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", checkpoint.stem.lower()).strip("-")
    name = f"hvsa-{words}" + ("-interactor" if kind == "interactor" else "")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"no name can be made from {checkpoint.name}; give one with --name")
    return name


def _check_place(planned: PlannedFunction, out: Path) -> None:
    """`ConfigError` if the folder is someone else's, or another function in `out` has the name."""
    folder = planned.folder
    if folder.exists():
        before = _variables(folder / "function.yaml")
        if before is None:
            raise ConfigError(
                f"{folder} was not written by this command; move it, or choose another --out"
            )
        kind, labels = before["HVSA_FUNCTION"], json.loads(before["HVSA_LABELS"])
        if kind != planned.options.kind or set(labels) != set(planned.info.labels):
            raise ConfigError(
                f"{folder} holds another function of this name, {_described(kind, labels)}; "
                "choose another --name, or remove that folder"
            )
    for file in sorted(out.rglob("function*.yaml")):
        if file.parent != folder and _name_in(file) == planned.name:
            raise ConfigError(
                f"{file} has the name {planned.name!r} too, and Nuclio keeps only the function "
                "deployed last; choose another --name"
            )


def _variables(file: Path) -> dict[str, str] | None:
    """The variables HVSA_* of a file that this module wrote; None for any other file."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if not text.startswith(_MADE_BY):
        return None
    pairs = re.findall(r"- name: (HVSA_\w+)\n +value: (.+)", text)
    return {name: json.loads(value) if value[0] == '"' else value for name, value in pairs}


def _name_in(file: Path) -> str | None:
    """The name in the metadata, which are the first entry of these files."""
    text = file.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^  name: *['\"]?([\w.-]+)", text, re.MULTILINE)
    return found and found[1]


def _values(planned: PlannedFunction) -> dict[str, Any]:
    options, info, file = planned.options, planned.info, planned.checkpoint.name
    what = "Regions of one class" if options.kind == "interactor" else "A class for every pixel"
    trained = f"round {info.round}" if info.round else "pre-trained"
    return {
        "name": planned.name,
        "title": f"HVSA {planned.name.removeprefix('hvsa').strip('-')}".strip(),
        "kind": options.kind,
        "base_image": options.base_image,
        "labels": info.labels,
        "shape": options.shapes.removesuffix("s"),
        "description": f"{what}, by {info.network} ({file}, {trained})",
        "mount": options.mount and str(options.mount),
        "mount_path": _MOUNTED,
        "url": options.url,
        "sha256": file_sha256(planned.checkpoint),
        "checkpoint": f"{_MOUNTED if options.mount else _IN_IMAGE}/{file}",
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hvsa_cvat.serving"),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = json.dumps
    # YAML does not read the pair of escapes that JSON in ASCII writes for an emoji
    environment.filters["quoted"] = partial(json.dumps, ensure_ascii=False)
    return environment
