"""`~` in every option that is a path, wherever it comes from: `--out=~/run`, a variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hvsa_cvat.plain_text import expand_home


class HomePath(click.Path):
    """A path of which a leading `~` is the home folder; shells replace it only in front."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(str(expand_home(value)), param, ctx)


def know_home(command: click.Command) -> click.Command:
    """The command, and those below it, with `HomePath` for each of its paths."""
    for param in command.params:
        if type(param.type) is click.Path:
            param.type = HomePath(path_type=Path)
    if isinstance(command, click.Group):
        for below in command.commands.values():
            know_home(below)
    return command
