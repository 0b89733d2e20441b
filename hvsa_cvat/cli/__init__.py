"""`hvsa-agent`: the only place that reads options, prints, and wires the parts together.

PyTorch, timm and cvat-sdk take seconds to import. The commands import what they run, so that help
and usage errors come at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from hvsa_cvat import __version__
from hvsa_cvat.cli.console import printable
from hvsa_cvat.cli.dashboard import dashboard
from hvsa_cvat.cli.dataset import dataset
from hvsa_cvat.cli.demo import demo
from hvsa_cvat.cli.doctor import doctor
from hvsa_cvat.cli.enroll import enroll
from hvsa_cvat.cli.export import export
from hvsa_cvat.cli.extend import extend
from hvsa_cvat.cli.log import log
from hvsa_cvat.cli.networks import networks
from hvsa_cvat.cli.notify import notify
from hvsa_cvat.cli.pause import pause, resume
from hvsa_cvat.cli.pretrain import pretrain_command
from hvsa_cvat.cli.report import report
from hvsa_cvat.cli.serverless import serverless
from hvsa_cvat.cli.simulate import simulate
from hvsa_cvat.cli.status import status
from hvsa_cvat.cli.sync import sync
from hvsa_cvat.cli.utf8 import read_arguments_as_utf8
from hvsa_cvat.cli.webhook import webhook
from hvsa_cvat.cli.withdraw import withdraw
from hvsa_cvat.cli.workspace import workspace
from hvsa_cvat.errors import HvsaError


class _UsageError(click.ClickException):
    exit_code = 2


def _is_distributed() -> bool:
    """Whether `torchrun` has started other processes beside this one."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ["WORLD_SIZE"] != "1"


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing to a device that takes no more can end in."""


class _Group(click.Group):
    """Errors for people become one line on stderr and an exit code; nothing else is caught."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        """A terminal without a character gets its escape; a device without room is one line."""
        if args is None:
            read_arguments_as_utf8()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            try:
                return super().main(args, *more, **extra)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            _tell_no_room(error)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            if not _is_distributed():
                return super().invoke(ctx)
            from hvsa_cvat.segmentation.distributed import joined
            from hvsa_cvat.segmentation.finetune import help_out

            with joined() as processes:
                leads = processes.team.rank == 0
                return super().invoke(ctx) if leads else help_out(processes)
        except HvsaError as error:
            usage = error.exit_code == _UsageError.exit_code
            kind = _UsageError if usage else click.ClickException
            raise kind(printable(" ".join(str(error).split()))) from error


def _tell_no_room(error: OSError) -> None:
    """Say that the output, or a file, could not be written, if that can be written."""
    with suppress(OSError):
        click.echo(f"Error: cannot write: {error.strerror}; free space and try again", err=True)
    # what is left in the buffers would fail once more when Python ends
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Dense video segmentation from few clicks."""


for _command in (
    doctor,
    enroll,
    sync,
    status,
    dashboard,
    report,
    export,
    log,
    extend,
    pause,
    resume,
    withdraw,
    workspace,
    webhook,
    notify,
    demo,
    simulate,
    dataset,
    pretrain_command,
    networks,
    serverless,
):
    main.add_command(_command)
