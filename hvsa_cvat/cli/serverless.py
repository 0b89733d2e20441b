"""`hvsa-agent serverless`: the network as a function inside CVAT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.options import PATH, TASK

if TYPE_CHECKING:
    from hvsa_cvat.serving.render import Kind, PlannedFunction


@click.group()
def serverless() -> None:
    """Put the network into CVAT as a function that annotators call."""


@serverless.command()
@click.option(
    "--checkpoint",
    required=True,
    type=PATH,
    help="A checkpoint of hvsa-agent: a pre-trained network, or the one of a round.",
)
@click.option(
    "--out",
    required=True,
    type=PATH,
    help="Folder of functions; this one is written to OUT/NAME/nuclio.",
)
@click.option("--name", help="Name of the function in Nuclio. Default: the name of the checkpoint.")
@click.option(
    "--interactor",
    is_flag=True,
    help="A function that answers clicks with regions, instead of one that annotates frames.",
)
@click.option(
    "--shapes",
    type=click.Choice(["masks", "polygons"]),
    default="masks",
    show_default=True,
    help="The shapes that a detector answers with.",
)
@click.option(
    "--mount",
    type=PATH,
    help="Folder of the Docker host that holds the checkpoint. Default: the image holds it.",
)
@click.option(
    "--url",
    help="Address from which the function downloads the checkpoint; its SHA-256 is checked.",
)
@click.option(
    "--base-image",
    default="hvsa-agent",
    show_default=True,
    help="The image that the Dockerfile of hvsa-cvat makes.",
)
@click.option(
    "--task",
    type=TASK,
    help="Check the classes against the labels of this task, and the name against the functions "
    "that CVAT has.",
)
@click.option("--server", help="Address of CVAT, for --task. Default: CVAT_HOST.")
@click.option(
    "--organization",
    help="Short name of the organisation, for --task. Default: your personal space.",
)
def render(
    checkpoint: Path,
    out: Path,
    interactor: bool,
    task: int | None,
    server: str | None,
    organization: str | None,
    **options: Any,
) -> None:
    """Write a folder that CVAT's deploy_cpu.sh or deploy_gpu.sh deploys.

    \b
    Example:
      hvsa-agent serverless render --checkpoint kitchen.safetensors --out functions --task 12
    """
    from hvsa_cvat.serving.render import FunctionOptions, plan, write

    kind: Kind = "interactor" if interactor else "detector"
    planned = plan(checkpoint, out, FunctionOptions(kind=kind, **options))
    if task is not None:
        _check_at_server(planned, task, server, organization)
    write(planned)
    say(f"{planned.folder}: {kind} {planned.name} for {', '.join(planned.info.labels)}")
    say(f"next, in CVAT's repository: serverless/deploy_cpu.sh {out.resolve()}")


def _check_at_server(
    planned: PlannedFunction, task: int, server: str | None, organization: str | None
) -> None:
    from hvsa_cvat.agent.settings import load_settings
    from hvsa_cvat.cvat.http.client import CvatClient
    from hvsa_cvat.cvat.http.errors import NotFound, Unreachable
    from hvsa_cvat.serving.render import check_deployed, check_labels

    settings = load_settings(None, server=server, organization=organization)
    with CvatClient(settings.address, settings.credentials, log=say) as client:
        check_labels(planned.info.labels, client.rows("labels", task_id=task))
        try:
            functions = client.get("lambda/functions")
        except (NotFound, Unreachable):
            say("CVAT lists no functions (its serverless part is off, or Nuclio is down)")
        else:
            check_deployed(planned, functions)
