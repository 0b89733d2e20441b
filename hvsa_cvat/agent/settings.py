"""`hvsa.toml`, the environment and options, in rising order of precedence.

Secrets come from the environment, or from files that it names, and are stored nowhere.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hvsa_cvat.config import (
    CARRIED,
    WHOLE_FROM,
    Method,
    RunConfig,
    Strategy,
    choose_strategy,
    parse_budgets,
    parse_size,
)
from hvsa_cvat.cvat.http.client import Address, Credentials
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.name_lists import split_names
from hvsa_cvat.plain_text import decode_text, expand_home, without_mark
from hvsa_cvat.types import Size
from hvsa_cvat.video.segments import granularity_by_round

FILE = "hvsa.toml"

_RECTANGLES_A_SIDE = 6
"""The paper's 40 pixels of a frame of 240."""

_LONG_SIDE = {"cpu": 320, "cuda": 800}
"""Pixels of the longer side at which the network works unless told otherwise: what trains in
minutes on two cores, and in seconds on a GPU."""

_STRIDE = 32


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_M = TypeVar("_M", bound=BaseModel)


class CareOptions(_Model):
    """How a task is cared for. Everything has a default; `enroll` fixes it for a task."""

    method: Method = "hvsa"
    strategy: Strategy | None = None
    """None: as `choose_strategy` says."""
    granularity: str | None = None
    """As `granularity_by_round` parses it; None: squares of a sixth of the frames' height, and
    whole frames in rounds that begin with `WHOLE_FROM` spent, where answers are carried."""
    budget: str = "5%"
    rounds: int = Field(3, ge=1)
    size: str | None = None
    """HEIGHTxWIDTH of the network; None: the frames' own, shrunk to what the device trains well."""
    seed: int = Field(0, ge=0)
    flow: str = "auto"
    flow_weights: Path | None = None
    epsilon: float = Field(1.0, ge=0)
    checkpoint: Path | None = None
    """None: the network that comes with the package, whose classes are not the task's."""
    new_classes: bool = False
    """Take a checkpoint even if it knows none of the task's classes: its backbone is used."""
    align_corners: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    annotators: tuple[str, ...] = ()
    """User names; nobody: the jobs are left for anyone to take."""
    accepted_only: bool = False
    """Answers count only when a reviewer has accepted their job, not already when it is done."""
    gap_percent: float = Field(5.0, ge=0, le=100)
    """A job with samples of which more is left without a class goes back, once."""
    shapes: Literal["masks", "polygons"] = "masks"
    background: tuple[str, ...] = ()
    """Classes that are learned and not published; a name with commas may stand in its parts."""
    quiet_minutes: float = Field(15.0, ge=0)
    """A job in progress is written to only when nobody has saved it for so long."""

    _split = field_validator("annotators", "background", mode="before")(split_names)

    def run_config(self, frames: Size, device: str) -> RunConfig:
        """The settings of the loop for frames of this size, on `cpu` or `cuda`."""
        budgets = parse_budgets(self.budget, self.rounds)
        granularity = self.granularity or self._granularity(frames, budgets)
        whole = any(kind.whole for kind in granularity_by_round(granularity, len(budgets)))
        return RunConfig(
            method=self.method,
            strategy=choose_strategy(self.strategy, self.method, whole),
            granularity=granularity,
            budgets=budgets,
            size=parse_size(self.size) if self.size else network_size(frames, device),
            seed=self.seed,
            flow=self.flow,
            epsilon=self.epsilon,
        )

    def _granularity(self, frames: Size, budgets: Sequence[float]) -> str:
        side = max(1, round(frames[0] / _RECTANGLES_A_SIDE))
        begun = (0.0, *budgets[:-1])
        carried = self.method in CARRIED
        small = sum(spent < WHOLE_FROM or not carried for spent in begun)
        if small == len(begun):
            return f"rectangle:{side}"
        return ",".join([f"rectangle:{side}"] * small + ["frame"])


def network_size(frames: Size, device: str) -> Size:
    """The size at which the network works on frames of a size, in multiples of its stride."""
    scale = min(1.0, _LONG_SIDE[device] / max(frames))
    height, width = (max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in frames)
    return height, width


class _Server(_Model):
    url: str | None = None
    organization: str | None = None
    ca: Path | None = None


class _File(_Model):
    workspace: Path = Path("hvsa-workspace")
    interval: float = Field(30.0, gt=0)
    server: _Server = _Server()
    defaults: dict[str, Any] = {}
    projects: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class AgentSettings:
    """Where the agent works, and how it cares for tasks unless told otherwise."""

    address: Address
    credentials: Credentials
    workspace: Path
    """Folder of everything the agent remembers."""
    interval: float
    """Seconds between two passes of `sync --watch`."""
    defaults: Mapping[str, Any]
    projects: Mapping[str, Mapping[str, Any]]
    """Options by project id, over the defaults."""

    def care(self, project: int | None, options: Mapping[str, Any]) -> CareOptions:
        """The options for a task of a project; `options` that are None were not given."""
        given = {name: value for name, value in options.items() if value is not None}
        merged = {**self.defaults, **self.projects.get(str(project), {}), **given}
        return _checked(CareOptions, merged, "options of a task")


def load_settings(
    file: Path | None,
    environment: Mapping[str, str] = os.environ,
    *,
    server: str | None = None,
    organization: str | None = None,
    workspace: Path | None = None,
) -> AgentSettings:
    """Read `file` (or `hvsa.toml` here, if there is one), the environment, then what is given."""
    content = _read(file or Path(FILE), required=file is not None)
    url = server or environment.get("CVAT_HOST") or content.server.url
    if not url:
        raise ConfigError(
            f"no server is named; write `url` under [server] in {FILE}, set CVAT_HOST, or give "
            "--server https://cvat.example.com"
        )
    known = AgentSettings(
        address=Address(
            url,
            organization if organization is not None else content.server.organization,
            content.server.ca,
        ),
        credentials=Credentials(
            token=read_secret("CVAT_ACCESS_TOKEN", environment),
            user=environment.get("CVAT_USER") or None,
            password=read_secret("CVAT_PASSWORD", environment),
        ),
        workspace=workspace or content.workspace,
        interval=content.interval,
        defaults=content.defaults,
        projects=content.projects,
    )
    for project in (None, *map(int, content.projects)):
        known.care(project, {})
    return known


def read_secret(name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The secret in the variable `name`, or in the file that `name`_FILE names: containers get
    theirs as files. None where neither is set."""
    value, file = without_mark(environment.get(name, "")), environment.get(f"{name}_FILE")
    if not file:
        return value or None
    if value:
        raise ConfigError(f"{name} and {name}_FILE are both set; unset one of them")
    try:
        lines = decode_text(expand_home(file).read_bytes()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(
            f"{name}_FILE: cannot read {file}: {reason}; check the path, and that the agent's user "
            "may read it"
        ) from error
    if len(lines) != 1 or not lines[0]:
        raise ConfigError(f"{name}_FILE: {file} must hold the secret in one line, and nothing else")
    return lines[0]


def _read(path: Path, *, required: bool) -> _File:
    if not required and not path.exists():
        return _File()
    try:
        content = tomllib.loads(decode_text(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML ({error}); mend that line") from error
    for section in (content, *(v for v in content.values() if isinstance(v, dict))):
        for name in ("token", "access_token", "password", "secret"):
            if name in section:
                raise ConfigError(
                    f"{path} holds a {name}; remove it there, and put secrets into the "
                    "environment only (CVAT_ACCESS_TOKEN, or CVAT_USER and CVAT_PASSWORD)"
                )
    wrong = [name for name in content.get("projects", {}) if not name.isdecimal()]
    if wrong:
        raise ConfigError(f"{path}: [projects.{wrong[0]}] must be named by the project's number")
    base = path.resolve().parent
    read = _checked(_File, content, str(path))
    return read.model_copy(
        update={
            "workspace": base / expand_home(read.workspace),
            "server": read.server.model_copy(
                update={"ca": base / expand_home(read.server.ca) if read.server.ca else None}
            ),
            "defaults": _absolute(read.defaults, base),
            "projects": {name: _absolute(one, base) for name, one in read.projects.items()},
        }
    )


def _absolute(options: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Files are named relative to the settings file, wherever the agent is started."""
    files = ("checkpoint", "flow_weights")
    return {k: str(base / expand_home(v)) if k in files and v else v for k, v in options.items()}


def _checked(model: type[_M], values: Mapping[str, Any], where: str) -> _M:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(model.model_fields)
        hint = f"; known are {known}" if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{where}: {name}: {first['msg'].lower()}{hint}") from error
