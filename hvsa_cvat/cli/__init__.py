"""`hvsa-agent`: the only place that reads options, prints, and wires the parts together.

PyTorch, timm and cvat-sdk take seconds to import. The commands import what they run, so that help
and usage errors come at once.
"""

from __future__ import annotations

import os
from typing import Any

import click

from hvsa_cvat import __version__
from hvsa_cvat.cli.console import printable
from hvsa_cvat.cli.doctor import doctor
from hvsa_cvat.cli.enroll import enroll
from hvsa_cvat.cli.extend import extend
from hvsa_cvat.cli.pretrain import pretrain_command
from hvsa_cvat.cli.serverless import serverless
from hvsa_cvat.cli.simulate import demo, simulate
from hvsa_cvat.cli.status import status
from hvsa_cvat.cli.sync import sync
from hvsa_cvat.cli.webhook import webhook
from hvsa_cvat.cli.withdraw import withdraw
from hvsa_cvat.errors import HvsaError


class _UsageError(click.ClickException):
    exit_code = 2


def _is_distributed() -> bool:
    """Whether `torchrun` has started other processes beside this one."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ["WORLD_SIZE"] != "1"


class _Group(click.Group):
    """Errors for people become one line on stderr and an exit code; nothing else is caught."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            if not _is_distributed():
                return super().invoke(ctx)
            from hvsa_cvat.segmentation.distributed import joined
            from hvsa_cvat.segmentation.finetune import help_out

            with joined() as team:
                return super().invoke(ctx) if team.rank == 0 else help_out(team)
        except HvsaError as error:
            usage = error.exit_code == _UsageError.exit_code
            kind = _UsageError if usage else click.ClickException
            raise kind(printable(" ".join(str(error).split()))) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Dense video segmentation from few clicks."""


for _command in (
    doctor,
    enroll,
    sync,
    status,
    extend,
    withdraw,
    webhook,
    demo,
    simulate,
    pretrain_command,
    serverless,
):
    main.add_command(_command)
