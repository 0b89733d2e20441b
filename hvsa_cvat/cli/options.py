"""Options that several commands share, and options made from a settings model."""

from __future__ import annotations

import types
from collections.abc import Callable
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hvsa_cvat.name_lists import split_names
from hvsa_cvat.plain_text import expand_home

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]


class UserPath(click.Path):
    """A path in which `~` is the home folder, also where the shell leaves it as it is."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(str(expand_home(value)), param, ctx)


PATH = UserPath()

TASK = click.IntRange(min=1)
"""The number of a task or project."""

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the network runs; auto takes a GPU if there is one.",
)

labels_option = click.option(
    "--labels",
    "labels_folder",
    required=True,
    type=PATH,
    help="Folder with the true label map of every frame: 8-bit PNG of class indices; 255 is "
    "unknown.",
)

classes_option = click.option(
    "--classes",
    required=True,
    help="Class names in order of their indices, comma separated, or a text file with one name "
    "per line.",
)

size_option = click.option(
    "--size",
    help="HEIGHTxWIDTH in pixels at which network and optical flow work. Default: the frames' own "
    "size.",
)


def together(*options: Decorator[Any]) -> Decorator[Any]:
    """One decorator for several options; help shows them in this order."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


settings_options = together(
    click.option(
        "--config",
        "config_file",
        envvar="HVSA_CONFIG",
        type=PATH,
        help="Settings file. Default: HVSA_CONFIG, or hvsa.toml in this folder if there is one.",
    ),
    click.option("--server", help="Address of CVAT, https://... Default: CVAT_HOST."),
    click.option(
        "--organization", help="Short name of the organisation. Default: your personal space."
    ),
    click.option(
        "--workspace",
        envvar="HVSA_WORKSPACE",
        type=PATH,
        help="Folder of everything that the agent remembers. Default: HVSA_WORKSPACE, or "
        "hvsa-workspace.",
    ),
)


def model_options(model: type[BaseModel]) -> Decorator[Any]:
    """An option for each field of a settings model; the command gets None for what is not given."""
    return together(*(_option(name, field) for name, field in model.model_fields.items()))


def default_text(field: FieldInfo) -> str | None:
    """The default of a field as people write it; None where the description says it in words."""
    if field.default is None or field.default == ():
        return None
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _option(name: str, field: FieldInfo) -> Decorator[Any]:
    default = default_text(field)
    text = (field.description or "") + (f" Default: {default}." if default else "")
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    kind = _click_type(field)
    metavar = "A,B,..." if kind is split_names else None
    return click.option(flag, name, type=kind, default=None, metavar=metavar, help=text)


def _click_type(field: FieldInfo) -> Any:
    """What click takes as the type of an option."""
    kind = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is tuple:
        return split_names
    if kind is Path:
        return PATH
    if kind in (int, float):
        bounds = {"min": _bound(field, "ge"), "max": _bound(field, "le")}
        return click.IntRange(**bounds) if kind is int else click.FloatRange(**bounds)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return click.Choice([one.value for one in kind])
    return click.STRING


def _bound(field: FieldInfo, name: str) -> Any:
    bounds = [one for one in field.metadata if isinstance(one, annotated_types.BaseMetadata)]
    return next((getattr(one, name) for one in bounds if hasattr(one, name)), None)
