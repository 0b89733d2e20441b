"""`hvsa-agent`: the only place that reads options, prints, and wires the parts together.

PyTorch, timm and cvat-sdk take seconds to import: the commands import what they run, so that help
and usage errors come at once.
"""

from __future__ import annotations

import os
from typing import Any

import click

from hvsa_cvat import __version__
from hvsa_cvat.cli import agent, runs
from hvsa_cvat.cli.paths import know_home
from hvsa_cvat.cli.serverless import serverless
from hvsa_cvat.errors import HvsaError


class _Misuse(click.ClickException):
    exit_code = 2


def _one_of_several() -> bool:
    """Whether `torchrun` has started other processes beside this one."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ["WORLD_SIZE"] != "1"


class _Group(click.Group):
    """Errors for people become one line on stderr and an exit code; nothing else is caught."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            if not _one_of_several():
                return super().invoke(ctx)
            from hvsa_cvat.segmentation.distributed import joined
            from hvsa_cvat.segmentation.finetune import help_out

            with joined() as team:
                return super().invoke(ctx) if team.rank == 0 else help_out(team)
        except HvsaError as error:
            kind = _Misuse if error.exit_code == _Misuse.exit_code else click.ClickException
            raise kind(" ".join(str(error).split())) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Dense video segmentation from few clicks."""


for _command in (
    agent.doctor,
    agent.enroll,
    agent.sync,
    agent.status,
    agent.withdraw,
    agent.webhook,
    runs.demo,
    runs.simulate,
    runs.pretrain_command,
    serverless,
):
    main.add_command(know_home(_command))
