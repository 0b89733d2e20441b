"""The agent's settings: hvsa.toml, then the environment, then the command line; the last one wins.

Secrets come from the environment, or from files that it names. They are stored nowhere.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.database import Place, checked_address
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.objects import checked_artefacts
from hvsa_cvat.plain_text import decode_text, expand_home, without_mark

FILE = "hvsa.toml"

LogFormat = Literal["text", "json"]

WEBHOOK_SECRET = "HVSA_WEBHOOK_SECRET"
DASHBOARD_TOKEN = "HVSA_DASHBOARD_TOKEN"
NOTIFY_URLS = "HVSA_NOTIFY_URLS"

ENVIRONMENT = {
    "CVAT_HOST": "Address of the server, instead of `url` in the settings file.",
    "CVAT_ACCESS_TOKEN": "Personal access token of the agent's account (CVAT 2.48 or newer).",
    "CVAT_ACCESS_TOKEN_FILE": "File that holds the token in one line.",
    "CVAT_USER": "User name, for servers without access tokens.",
    "CVAT_PASSWORD": "Password of that user.",
    "CVAT_PASSWORD_FILE": "File that holds the password in one line.",
    WEBHOOK_SECRET: "Secret that CVAT signs webhook deliveries with.",
    f"{WEBHOOK_SECRET}_FILE": "File that holds this secret in one line.",
    DASHBOARD_TOKEN: "Token that opens the pages of `dashboard`.",
    f"{DASHBOARD_TOKEN}_FILE": "File that holds this token in one line.",
    NOTIFY_URLS: "Addresses for messages, as apprise writes them, with blanks between them.",
    f"{NOTIFY_URLS}_FILE": "File that holds these addresses in one line.",
    "HVSA_CONFIG": f"Settings file, instead of `{FILE}` in the current folder.",
    "HVSA_WORKSPACE": "Folder of everything that the agent remembers.",
    "HVSA_DATABASE": "Address of the PostgreSQL database, instead of `database` in that file.",
    "PGPASSWORD": "Password of that database; PGPASSFILE and the others of libpq work, too.",
    "HVSA_ARTEFACTS": "Address of the bucket for files, instead of `artefacts` in that file.",
    "HVSA_CACHE": "On a machine of a Ray cluster: folder for files that are kept in a bucket.",
    "HVSA_HEARTBEAT": "File that `sync --watch` touches while it works or waits.",
}
"""Every environment variable that is read, and its meaning."""

SECRETS = frozenset(
    f"{name}{ending}"
    for name in (
        "CVAT_ACCESS_TOKEN",
        "CVAT_USER",
        "CVAT_PASSWORD",
        WEBHOOK_SECRET,
        DASHBOARD_TOKEN,
        NOTIFY_URLS,
    )
    for ending in ("", "_FILE")
)
"""The variables that hold secrets, or name files that do. Workers are started without them."""

_SECRET_KEYS = ("token", "access_token", "password", "secret")
_SPAN = re.compile("([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
_FILE_OPTIONS = ("checkpoint", "weights", "flow_weights")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_M = TypeVar("_M", bound=BaseModel)


class ServerSection(_Section):
    """`[server]`: the CVAT server."""

    url: str | None = Field(
        None, description="Address with http:// or https://. CVAT_HOST replaces it."
    )
    organization: str | None = Field(
        None, description="Short name of the organisation. Default: the personal space."
    )
    ca: Path | None = Field(
        None, description="PEM file of a private certificate authority. Default: the system's."
    )


class NoticeKind(StrEnum):
    """What people are told."""

    ASSIGNED = "assigned"
    """People were asked."""
    SENT_BACK = "sent back"
    """A job went back to its annotator."""
    READY = "round ready"
    """The masks of a round are published."""
    BUDGET = "budget reached"
    """All rounds are done, because the budget is spent or the target is reached."""
    STUCK = "stuck"
    """Nothing has happened for long."""
    DOWN = "agent down"
    """An agent that watches has given no sign of life for long."""


class NotifySection(_Section):
    """`[notify]`: the messages that go to the addresses in HVSA_NOTIFY_URLS."""

    events: tuple[NoticeKind, ...] = Field(
        tuple(NoticeKind),
        description="What people are told.",
    )
    stuck_hours: float = Field(
        24.0, gt=0, description="Hours without anything new after which a task is stuck."
    )
    down_minutes: float = Field(
        15.0, ge=2, description="Minutes without a sign of life after which an agent is down."
    )
    digest_minutes: float = Field(
        0.0, ge=0, description="Minutes for which news are gathered into one message."
    )
    quiet: str | None = Field(
        None,
        description="Hours without messages, such as 19:00-07:30, in the time zone of the agent's "
        "machine. What is new then is sent afterwards.",
    )

    @field_validator("quiet")
    @classmethod
    def _is_span(cls, text: str | None) -> str | None:
        if text is not None and not _SPAN.fullmatch(text):
            raise ValueError("write hours as 19:00-07:30")
        return text

    def is_quiet(self, at: datetime) -> bool:
        """Whether no message may be sent at this time of day."""
        match = _SPAN.fullmatch(self.quiet or "")
        if match is None:
            return False
        begin, end = (60 * int(match[k]) + int(match[k + 1]) for k in (1, 3))
        minute = 60 * at.hour + at.minute
        return begin <= minute < end if begin <= end else not end <= minute < begin


class ComputeSection(_Section):
    """`[compute]`: where `sync` computes."""

    engine: Literal["workers", "ray"] = Field(
        "workers",
        description="workers: processes on the agent's machine, as many as `workers` says. ray: "
        "tasks of a Ray cluster; needs hvsa-cvat[cluster].",
    )
    address: str = Field(
        "local",
        description="The Ray cluster: ray://HOST:10001, HOST:6379 from one of its machines, auto "
        "for the one that runs on this machine, local to start one here.",
    )
    gpus_per_task: float | None = Field(
        None,
        ge=0,
        description="GPUs of a task; 0.5 puts two tasks on one. From 2 on they are those of one "
        "machine, and fine-tuning takes all. Default: 1 where the cluster has GPUs, else 0.",
    )
    cpus_per_task: float = Field(
        1.0, gt=0, description="Processor cores of a task. Give GPUs all that are beside them."
    )
    retries: int = Field(
        3, ge=0, description="How often what a lost worker did is begun again within one pass."
    )

    @field_validator("gpus_per_task")
    @classmethod
    def _whole_gpus(cls, gpus: float | None, info: ValidationInfo) -> float | None:
        if gpus is None or gpus <= 1:
            return gpus
        if not gpus.is_integer():
            raise ValueError("write a share below 1, or a whole number of GPUs")
        if info.data.get("engine") == "workers":
            raise ValueError(
                'several GPUs for a task need engine = "ray"; without Ray, `torchrun` starts a '
                "process for each GPU of the machine"
            )
        return gpus


class SettingsFile(_Section):
    """`hvsa.toml`. Paths in it are relative to the folder of the file."""

    workspace: Path = Field(
        Path("hvsa-workspace"),
        description="Folder of everything that the agent remembers. HVSA_WORKSPACE replaces it.",
    )
    database: str | None = Field(
        None,
        description="Address of a PostgreSQL database without a password, such as "
        "postgresql+psycopg://hvsa@db/hvsa. HVSA_DATABASE replaces it. Default: SQLite files in "
        "the workspace.",
    )
    artefacts: str | None = Field(
        None,
        description="Where the files of sessions are kept, for agents on several machines: "
        "s3://bucket/prefix or another address that fsspec opens, without a login, or a shared "
        "folder. HVSA_ARTEFACTS replaces it. The workspace's folder is a cache of them then. "
        "Default: the workspace.",
    )
    interval: float = Field(30.0, gt=0, description="Seconds between two passes of `sync --watch`.")
    metrics: str | None = Field(
        None,
        description="HOST:PORT at which `sync --watch` tells metrics and answers health checks. "
        "Default: nowhere.",
    )
    log_format: LogFormat = Field(
        "text",
        description="What `sync` and `dashboard` write: text for people, or one JSON object a "
        "line for programs.",
    )
    workers: int = Field(
        1, ge=1, description="Processes in which `sync` computes: so many tasks at once."
    )
    compute: ComputeSection = Field(ComputeSection(), description="Where `sync` computes.")
    server: ServerSection = Field(ServerSection(), description="The CVAT server.")
    notify: NotifySection = Field(NotifySection(), description="Messages about what is new.")
    defaults: dict[str, Any] = Field({}, description="Options of `enroll` for all tasks.")
    projects: dict[str, dict[str, Any]] = Field(
        {}, description="Options of `enroll` for the tasks of one project, over the defaults."
    )


@dataclass(frozen=True)
class LocalSettings:
    """Where the agent works, and how it annotates tasks unless told otherwise."""

    address: Address
    workspace: Path
    """Folder of everything that the agent remembers."""
    database: str | None
    """Address of the PostgreSQL database; None: SQLite files in the workspace."""
    artefacts: str | None
    """Address of the bucket for the files of sessions; None: they are in the workspace."""
    interval: float
    """Seconds between two passes of `sync --watch`."""
    metrics: str | None
    """`HOST:PORT` at which `sync --watch` tells metrics."""
    log_format: LogFormat
    workers: int
    """Processes in which `sync` computes."""
    compute: ComputeSection
    """Where `sync` computes."""
    defaults: Mapping[str, Any]
    projects: Mapping[str, Mapping[str, Any]]
    """Options by project id, over the defaults."""
    notify: NotifySection
    """What people are told, and when."""

    @property
    def place(self) -> Place:
        """Where the workspace is."""
        return Place(self.workspace, self.database, artefacts=self.artefacts)

    def enroll_options(self, project: int | None, given: Mapping[str, Any]) -> EnrollOptions:
        """The options for a task of a project; values of `given` that are None were not given."""
        over = {name: value for name, value in given.items() if value is not None}
        merged = {**self.defaults, **self.projects.get(str(project), {}), **over}
        return _checked(EnrollOptions, merged, "options of a task")


@dataclass(frozen=True)
class AgentSettings(LocalSettings):
    """The same, and who the agent is on the server."""

    credentials: Credentials


def load_settings(
    file: Path | None,
    environment: Mapping[str, str] = os.environ,
    *,
    server: str | None = None,
    organization: str | None = None,
    workspace: Path | None = None,
) -> AgentSettings:
    """Read `file` (or `hvsa.toml` here, if there is one), the environment, then what is given."""
    local = load_local_settings(
        file, environment, server=server, organization=organization, workspace=workspace
    )
    credentials = Credentials(
        token=read_secret("CVAT_ACCESS_TOKEN", environment),
        user=environment.get("CVAT_USER") or None,
        password=read_secret("CVAT_PASSWORD", environment),
    )
    values = {field.name: getattr(local, field.name) for field in fields(local)}
    return AgentSettings(**values, credentials=credentials)


def load_local_settings(
    file: Path | None,
    environment: Mapping[str, str] = os.environ,
    *,
    server: str | None = None,
    organization: str | None = None,
    workspace: Path | None = None,
) -> LocalSettings:
    """The same without a login, for commands that ask nothing of the server."""
    content = _read(file or Path(FILE), required=file is not None)
    url = server or environment.get("CVAT_HOST") or content.server.url
    if not url:
        raise ConfigError(
            f"no server is named; write `url` under [server] in {FILE}, set CVAT_HOST, or give "
            "--server https://cvat.example.com"
        )
    database = environment.get("HVSA_DATABASE") or content.database
    artefacts = environment.get("HVSA_ARTEFACTS") or content.artefacts
    folder = workspace or content.workspace
    if content.compute.engine == "ray":
        folder = folder.absolute()  # its machines are in other folders
    settings = LocalSettings(
        address=Address(
            url,
            organization if organization is not None else content.server.organization,
            content.server.ca,
        ),
        workspace=folder,
        database=_address(database, folder) if database else None,
        artefacts=checked_artefacts(artefacts, Path.cwd()) if artefacts else None,
        interval=content.interval,
        metrics=content.metrics,
        log_format=content.log_format,
        workers=content.workers,
        compute=content.compute,
        defaults=content.defaults,
        projects=content.projects,
        notify=content.notify,
    )
    for project in (None, *map(int, content.projects)):
        settings.enroll_options(project, {})
    return settings


def _address(database: str, folder: Path) -> str:
    address = checked_address(database)
    if (folder / "workspace.db").exists():
        raise ConfigError(
            f"database: {folder} holds a workspace in SQLite files, whose tasks are not in "
            f"{address}; name another folder by `workspace`, or leave `database` out"
        )
    return address


def read_secret(name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The secret in the variable `name`, or in the file that the variable `name`_FILE names.

    Containers get their secrets as files. None where neither variable is set.
    """
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


def _read(path: Path, *, required: bool) -> SettingsFile:
    if not required and not path.exists():
        return SettingsFile()
    content = _read_toml(path)
    _check_no_secrets(path, content)
    wrong = [name for name in content.get("projects", {}) if not name.isdecimal()]
    if wrong:
        raise ConfigError(f"{path}: [projects.{wrong[0]}] must be named by the project's number")
    folder = path.resolve().parent
    read = _checked(SettingsFile, content, str(path))
    ca = read.server.ca
    return read.model_copy(
        update={
            "workspace": _absolute(read.workspace, folder),
            "artefacts": checked_artefacts(read.artefacts, folder) if read.artefacts else None,
            "server": read.server.model_copy(
                update={"ca": _absolute(ca, folder) if ca is not None else None}
            ),
            "defaults": _with_absolute_paths(read.defaults, folder),
            "projects": {
                name: _with_absolute_paths(options, folder)
                for name, options in read.projects.items()
            },
        }
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(decode_text(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML ({error}); correct that line") from error


def _check_no_secrets(path: Path, content: Mapping[str, Any]) -> None:
    for section in (content, *(v for v in content.values() if isinstance(v, dict))):
        for name in _SECRET_KEYS:
            if name in section:
                raise ConfigError(
                    f"{path} holds a {name}; remove it there, and put secrets into the "
                    "environment only (CVAT_ACCESS_TOKEN, or CVAT_USER and CVAT_PASSWORD)"
                )


def _absolute(path: str | Path, folder: Path) -> Path:
    return folder / expand_home(path)


def _with_absolute_paths(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {
        name: str(_absolute(value, folder)) if name in _FILE_OPTIONS and value else value
        for name, value in options.items()
    }


def _checked(model: type[_M], values: Mapping[str, Any], source: str) -> _M:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(model.model_fields)
        hint = f"; known are {known}" if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{source}: {name}: {first['msg'].lower()}{hint}") from error
