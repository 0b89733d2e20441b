"""`hvsa-agent simulate`, `demo` and `pretrain`: the loop without a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from rich.markup import escape
from rich.table import Table

from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.cli.console import OUT, bars
from hvsa_cvat.config import (
    FLOW_NAMES,
    NETWORKS,
    Method,
    RunConfig,
    Strategy,
    choose_strategy,
    parse_budgets,
    parse_size,
)
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.files import check_writable
from hvsa_cvat.plain_text import expand_home
from hvsa_cvat.ports import Progress
from hvsa_cvat.types import Image, LabelMap, LabelSet, Size

if TYPE_CHECKING:
    from hvsa_cvat.simulation.scores import RoundMetrics

F = TypeVar("F", bound=Callable[..., Any])


def _run_options(command: F) -> F:
    """The options that `simulate` and `demo` share."""
    options = [
        click.option(
            "--granularity",
            default="frame",
            show_default=True,
            help="What people are asked for: frame, rectangle:16 (or HxW), superpixel:300, "
            "superpixel-merged:300, or maps:DIR with one segment map a frame; or one a round, "
            "comma separated, of which the last holds on (rectangle:16,frame).",
        ),
        click.option(
            "--strategy",
            type=click.Choice([one.value for one in Strategy]),
            help="How samples are chosen; uniform spaces whole frames evenly, and chooses smaller "
            "samples as active does. Default: uniform for hvsa where it asks for frames, else "
            "active.",
        ),
        click.option(
            "--method",
            type=click.Choice(get_args(Method)),
            default="hvsa",
            show_default=True,
            help="hvsa: labels carried along the flow teach the network and join its answer; "
            "paper: the paper's losses with settings that suit small networks too; "
            "paper-exact: the paper's own settings; finetune-only: without temporal "
            "consistency; label-propagation: no training at all.",
        ),
        click.option(
            "--budget",
            default="6%",
            show_default=True,
            help="Clicks, in % of annotating every frame: a total that is split evenly over the "
            "rounds, or the totals after each round (2%,5%,10%).",
        ),
        click.option("--rounds", type=int, default=3, show_default=True),
        click.option(
            "--epsilon",
            type=click.FloatRange(min=0),
            default=1.0,
            show_default=True,
            help="How far, in pixels, a drawn outline may lie from the true one.",
        ),
        click.option(
            "--charge-junctions/--free-junctions",
            default=False,
            show_default=True,
            help="Whether the points where an outline meets the border of a rectangle or "
            "superpixel cost a click.",
        ),
        click.option(
            "--flow",
            type=click.Choice(FLOW_NAMES),
            default="auto",
            show_default=True,
            help="Optical flow; auto takes RAFT on a GPU and DIS elsewhere.",
        ),
        click.option(
            "--flow-weights",
            type=click.Path(path_type=Path),
            help="State dict of torchvision's RAFT, for machines without a model hub.",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        _device_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


_device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)

_labels_option = click.option(
    "--labels",
    "labels_folder",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder with the true label map of every frame: 8-bit PNG of class indices, 255 unknown.",
)

_classes_option = click.option(
    "--classes",
    required=True,
    help="Class names in order of their indices, comma separated, or a text file with one a line.",
)

_size_option = click.option(
    "--size",
    help="HEIGHTxWIDTH in pixels at which network and optical flow work; default: the frames' own.",
)


@click.command()
@click.argument("video", type=click.Path(path_type=Path))
@_labels_option
@_classes_option
@click.option(
    "--checkpoint",
    required=True,
    type=click.Path(path_type=Path),
    help="The network of round 0: made by `hvsa-agent pretrain`, or an official HRNet .pth.",
)
@_size_option
@click.option(
    "--align-corners/--no-align-corners",
    default=True,
    show_default=True,
    help="How an official .pth was trained; ours know.",
)
@_run_options
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the run; given again, the run there goes on.",
)
def simulate(
    video: Path,
    labels_folder: Path,
    classes: str,
    checkpoint: Path,
    size: str | None,
    align_corners: bool,
    out: Path,
    **options: Any,
) -> None:
    """Run the whole loop on a labelled VIDEO (a file or a folder of frames), with a simulated
    annotator who draws polygons around the true labels.

    \b
    Example:
      hvsa-agent simulate frames/ --labels labels/ --classes road,car,sky \\
        --checkpoint pretrained.safetensors --granularity rectangle:16 \\
        --budget 2%,5%,10% --size 192x256 --out runs/first
    """
    with bars() as progress:
        _simulate(
            video=video,
            labels_folder=labels_folder,
            labels=read_classes(classes),
            checkpoint=checkpoint,
            size=parse_size(size) if size else None,
            align_corners=align_corners,
            out=out,
            progress=progress,
            **options,
        )


@click.command()
@_run_options
@click.option(
    "--out",
    default=Path("runs/demo"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the run; given again, the run there goes on.",
)
def demo(out: Path, **options: Any) -> None:
    """Run the loop on the clip that comes with the package, on any machine, in a few minutes."""
    with as_file(files("hvsa_cvat") / "data" / "demo") as folder, bars() as progress:
        _simulate(
            video=folder / "images",
            labels_folder=folder / "labels",
            labels=read_classes(str(folder / "classes.txt")),
            checkpoint=folder / "pretrained.safetensors",
            size=None,
            align_corners=True,
            out=out,
            progress=progress,
            **options,
        )


@click.command("pretrain")
@click.argument("frames_dir", type=click.Path(path_type=Path))
@_labels_option
@_classes_option
@click.option(
    "--network", type=click.Choice(NETWORKS), default="hrnet_w18_small", show_default=True
)
@_size_option
@click.option("--epochs", type=click.IntRange(min=1), default=120, show_default=True)
@click.option(
    "--batch", type=click.IntRange(min=2), default=8, show_default=True, help="Frames a step."
)
@click.option(
    "--init",
    default="random",
    show_default=True,
    help="Where the weights start: random, imagenet (needs the model hub), or a checkpoint FILE.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@_device_option
@click.option("--out", required=True, type=click.Path(path_type=Path), help="*.safetensors")
def pretrain_command(
    frames_dir: Path,
    labels_folder: Path,
    classes: str,
    network: str,
    size: str | None,
    epochs: int,
    batch: int,
    init: str,
    seed: int,
    device: str,
    out: Path,
) -> None:
    """Train the network that round 1 starts from, on labelled frames of any kind.

    \b
    Example:
      hvsa-agent pretrain frames/ --labels labels/ --classes road,car,sky \\
        --size 192x256 --out pretrained.safetensors
    """
    labels = read_classes(classes)
    asked = parse_size(size) if size else None
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {str(out)!r}: name a file that ends in .safetensors")

    from hvsa_cvat.segmentation import checkpoint, pretrain
    from hvsa_cvat.segmentation.device import choose_device
    from hvsa_cvat.simulation.datasets import check_labels, open_labels, tell_unseen
    from hvsa_cvat.video.frames import open_images

    chosen = choose_device(device)
    with bars() as progress:
        frames = open_images(frames_dir, progress, _say)
        if asked is None and len(set(frames.sizes)) > 1:
            raise ConfigError(
                f"the frames in {frames_dir} have several sizes; choose one by --size"
            )
        at = asked or _own_size(frames.size)
        label_maps = open_labels(labels_folder, frames, labels, frames.sizes)
        tell_unseen(check_labels(label_maps, progress), labels, _say)
        check_writable(out)
        if init in ("random", "imagenet"):
            net = checkpoint.new_network(network, len(labels), seed=seed)
            if init == "imagenet":
                checkpoint.load_imagenet_backbone(net)
        else:
            net, line = checkpoint.load_checkpoint(expand_home(init), labels, seed=seed)
            OUT.print(escape(line), soft_wrap=True)

        # decoding costs as much as a quarter of a training step; 1 GiB holds a small set
        @lru_cache(maxsize=max(1, 2**30 // max(4 * h * w for h, w in frames.sizes)))
        def read(frame: int) -> tuple[Image, LabelMap]:
            return frames[frame], label_maps[frame]

        run = pretrain.pretrain(
            net,
            read,
            len(frames),
            at,
            pretrain.pretraining(epochs, batch),
            seed=seed,
            device=chosen,
            progress=progress,
        )
        info = checkpoint.CheckpointInfo(net.name, labels.names, at, net.align_corners, 0)
        checkpoint.save_checkpoint(net, info, out)
    OUT.print(
        f"{escape(str(out))}: {net.name}, {len(labels)} classes, {len(frames)} frames, "
        f"{epochs} epochs, mean loss of the last one {run.losses[-1]:.3f}",
        soft_wrap=True,
    )


def _simulate(
    *,
    video: Path,
    labels_folder: Path,
    labels: LabelSet,
    checkpoint: Path,
    size: Size | None,
    align_corners: bool,
    out: Path,
    progress: Progress,
    granularity: str,
    strategy: str | None,
    method: Method,
    budget: str,
    rounds: int,
    epsilon: float,
    charge_junctions: bool,
    flow: str,
    flow_weights: Path | None,
    seed: int,
    device: str,
) -> None:
    budgets = parse_budgets(budget, rounds)

    from hvsa_cvat.segmentation.checkpoint import load_checkpoint
    from hvsa_cvat.segmentation.device import choose_device
    from hvsa_cvat.session.context import RunInputs
    from hvsa_cvat.session.memory import check_fits, demand_of, this_machine
    from hvsa_cvat.simulation.datasets import check_labels, open_labels, tell_unseen
    from hvsa_cvat.simulation.experiment import Experiment, run_experiment
    from hvsa_cvat.video.flow import choose_flow
    from hvsa_cvat.video.frames import open_frames
    from hvsa_cvat.video.segments import granularity_by_round

    kinds = granularity_by_round(granularity, len(budgets))
    asked = Strategy(strategy) if strategy is not None else None
    chosen = choose_device(device)
    frames = open_frames(video, progress, _say)
    truths = open_labels(labels_folder, frames, labels)
    tell_unseen(check_labels(truths, progress), labels, _say)
    network, line = load_checkpoint(checkpoint, labels, align_corners=align_corners)
    OUT.print(escape(line), soft_wrap=True)
    estimator, line = choose_flow(flow, chosen.type, flow_weights)
    OUT.print(escape(line), soft_wrap=True)
    config = RunConfig(
        method=method,
        strategy=choose_strategy(asked, method, any(kind.whole for kind in kinds)),
        granularity=granularity,
        budgets=budgets,
        size=size or _own_size(frames.size),
        seed=seed,
        flow=flow,
        epsilon=epsilon,
        charge_junctions=charge_junctions,
    )
    demand = demand_of(
        frames.names, frames.size, len(labels), network.name, config, estimator.name, chosen
    )
    OUT.print(f"Takes {check_fits(demand, this_machine(out, chosen))}.", soft_wrap=True)
    experiment = Experiment(
        video=video.name if video.name != "images" else video.resolve().parent.name,
        truths=truths,
        inputs=RunInputs(
            source=frames,
            labels=labels,
            config=config,
            checkpoint=checkpoint,
            flow=estimator,
            device=chosen,
            align_corners=align_corners,
        ),
    )
    table = _round_table()

    def tell(metrics: RoundMetrics) -> None:
        table.add_row(*_round_row(metrics))
        OUT.print(
            f"round {metrics.round}: {metrics.clicks_percent:.1f} % of clicks, "
            f"mIoU {_percent(metrics.miou)}{_foreseen(metrics)}{_unseen(metrics)}",
            soft_wrap=True,
        )

    run_experiment(experiment, out, clock=time.perf_counter, progress=progress, tell=tell)
    OUT.print(table)
    OUT.print(f"Report: {escape(str(out / 'report.html'))}", soft_wrap=True)
    OUT.print(f"Numbers: {escape(str(out / 'metrics.json'))}", soft_wrap=True)


def _say(line: str) -> None:
    OUT.print(escape(line), soft_wrap=True)


def _round_table() -> Table:
    table = Table()
    for column in (
        "round",
        "clicks",
        "% of full\nannotation",
        "mIoU %",
        "pixel\naccuracy %",
        "Boundary\nIoU %",
        "TC %",
        "seconds",
    ):
        table.add_column(column, justify="right")
    return table


def _round_row(metrics: RoundMetrics) -> list[str]:
    return [
        str(metrics.round),
        str(metrics.clicks),
        f"{metrics.clicks_percent:.2f}",
        _percent(metrics.miou),
        _percent(metrics.pixel_accuracy),
        _percent(metrics.boundary_iou),
        _percent(metrics.temporal_consistency),
        f"{sum(metrics.seconds.values()):.1f}",
    ]


def _foreseen(metrics: RoundMetrics) -> str:
    """What the session would have told without the truth."""
    seen = metrics.outlook
    if seen is None:
        return ""
    return (
        f" (without truth: {_percent(seen.expected_miou)}, {_percent(seen.low)} to "
        f"{_percent(seen.high)}; advice: {seen.advice})"
    )


def _unseen(metrics: RoundMetrics) -> str:
    return f"; no answer shows {', '.join(metrics.unseen)} yet" if metrics.unseen else ""


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def _own_size(size: Size) -> Size:
    """The frames' own size, which a network takes as it is when it is not tiny."""
    height, width = size
    return max(height, 32), max(width, 32)
