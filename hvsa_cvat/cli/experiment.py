"""The experiment that `simulate` and `demo` share: its options, and the run on a labelled clip."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from hvsa_cvat.budgets import BUDGET_HELP, parse_budget
from hvsa_cvat.cli.console import OUT, progress_bars, say
from hvsa_cvat.cli.frame_size import own_size
from hvsa_cvat.cli.options import PATH, device_option, together
from hvsa_cvat.cli.round_table import round_line, round_row, round_table
from hvsa_cvat.config import (
    AUDIT_EACH_HELP,
    AUDIT_HELP,
    CONFIRMED_HELP,
    EACH_OF_NONE,
    FLOW_NAMES,
    FREEZE_HELP,
    PLANTED_HELP,
    Answering,
    Freeze,
    Method,
    RunConfig,
    StartOptions,
    Strategy,
    choose_answers,
    choose_strategy,
)
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.ports import Progress
from hvsa_cvat.rates import CURRENCY_HELP, RATE_HELP, read_rate
from hvsa_cvat.targets import TARGET_HELP, no_audit, parse_target
from hvsa_cvat.types import LabelSet, Size

if TYPE_CHECKING:
    from hvsa_cvat.simulation.experiment import Experiment
    from hvsa_cvat.simulation.scores import RoundMetrics


run_options = together(
    click.option(
        "--granularity",
        default="frame",
        show_default=True,
        help="What people are asked for: frame, rectangle:16 (or HxW), superpixel:300, "
        "superpixel-merged:300, or maps:DIR with one segment map per frame. Or one for each "
        "round, comma separated; the last one holds for the rounds after it "
        "(rectangle:16,frame).",
    ),
    click.option(
        "--strategy",
        type=click.Choice([one.value for one in Strategy]),
        help="How samples are chosen; uniform spaces whole frames evenly, and chooses smaller "
        "samples as active does. Default: uniform where hvsa asks for frames, else active.",
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
        "--freeze",
        type=click.Choice(get_args(Freeze)),
        default="auto",
        show_default=True,
        help=FREEZE_HELP,
    ),
    click.option(
        "--budget",
        default="6%",
        show_default=True,
        help=BUDGET_HELP,
    ),
    click.option(
        "--rounds", type=int, default=3, show_default=True, help="How many rounds ask people."
    ),
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
        "--answers",
        type=click.Choice(get_args(Answering)),
        help="How people answer. draw: from nothing. correct: they confirm or correct the masks of "
        "the round before, or draw anew, whichever takes the fewest clicks. Default: correct with "
        "hvsa, else draw.",
    ),
    click.option(
        "--tolerance",
        type=click.FloatRange(min=0),
        help="With --answers correct: wrong bands along a border that are not thicker than this "
        "many pixels are left as they are. Default: --epsilon.",
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
        type=PATH,
        help="State dict of torchvision's RAFT, for machines that cannot download it.",
    ),
    click.option("--audit", type=click.IntRange(min=1), help=AUDIT_HELP),
    click.option("--audit-each", is_flag=True, help=AUDIT_EACH_HELP),
    click.option("--target", help=TARGET_HELP),
    click.option(
        "--planted-percent",
        type=click.FloatRange(0, 50),
        default=0.0,
        show_default=True,
        help=PLANTED_HELP,
    ),
    click.option(
        "--confirmed-weight",
        type=click.FloatRange(0, 1, min_open=True),
        default=1.0,
        show_default=True,
        help=CONFIRMED_HELP,
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Seed of all random choices.",
    ),
    click.option("--hourly-rate", type=float, help=RATE_HELP),
    click.option("--currency", help=CURRENCY_HELP),
    device_option,
)
"""The options that `simulate` and `demo` share; `RunOptions` holds their values."""


@dataclass(frozen=True)
class RunOptions:
    granularity: str
    strategy: str | None
    method: Method
    freeze: Freeze
    budget: str
    rounds: int
    audit: int | None
    planted_percent: float
    epsilon: float
    charge_junctions: bool
    answers: Answering | None
    tolerance: float | None
    flow: str
    flow_weights: Path | None
    seed: int
    device: str
    target: str | None = None
    hourly_rate: float | None = None
    currency: str | None = None
    confirmed_weight: float = 1.0
    audit_each: bool = False


@dataclass(frozen=True)
class Clip:
    """A labelled video and the network to start from."""

    video: Path
    labels_folder: Path
    labels: LabelSet
    start: StartOptions
    size: Size | None = None
    """(height, width) in pixels at which the network works; None: the frames' own."""
    align_corners: bool = True
    """How an official state dict was trained."""


def run(clip: Clip, options: RunOptions, out: Path) -> None:
    rate = read_rate(options.hourly_rate, options.currency)

    from hvsa_cvat.simulation.experiment import run_experiment

    table = round_table(rate)

    def tell(metrics: RoundMetrics) -> None:
        table.add_row(*round_row(metrics, rate))
        say(round_line(metrics))

    with progress_bars() as progress, tempfile.TemporaryDirectory() as scratch:
        experiment = _open_experiment(clip, options, Path(scratch), progress)
        say(f"Takes {_check_machine(experiment, out)}.")
        metrics = run_experiment(
            experiment, out, clock=time.perf_counter, progress=progress, tell=tell, rate=rate
        )
    OUT.print(table)
    if metrics.people is not None:
        say(f"People: {metrics.people.words}.")
    say(f"Report: {out / 'report.html'}")
    say(f"Numbers: {out / 'metrics.json'}")


def _open_experiment(
    clip: Clip, options: RunOptions, scratch: Path, progress: Progress
) -> Experiment:
    budget = parse_budget(options.budget, options.rounds)
    budgets = budget.totals
    target = None if options.target is None else parse_target(options.target)

    from hvsa_cvat.segmentation.device import choose_device
    from hvsa_cvat.session.context import RunInputs
    from hvsa_cvat.simulation.datasets import check_labels, open_labels, tell_unseen
    from hvsa_cvat.simulation.experiment import Experiment
    from hvsa_cvat.video.flow_estimators import choose_flow
    from hvsa_cvat.video.frames import open_frames
    from hvsa_cvat.video.segments import granularity_by_round, with_audits

    answers = choose_answers(options.answers, options.method)
    if options.tolerance is not None and answers == "draw":
        raise ConfigError(
            "--tolerance is for people who correct masks; add --answers correct, or leave it out"
        )
    if options.audit_each and options.audit is None:
        raise ConfigError(EACH_OF_NONE)
    granularity = options.granularity
    if options.audit is not None:
        granularity, budgets = with_audits(granularity, budgets, options.audit, options.audit_each)
    kinds = granularity_by_round(granularity, len(budgets))
    if options.target is not None and all(kind.frames is None for kind in kinds):
        raise no_audit(options.target)
    whole = any(kind.whole for kind in kinds)
    strategy = Strategy(options.strategy) if options.strategy is not None else None
    device = choose_device(options.device)
    frames = open_frames(clip.video, progress, say)
    truths = open_labels(clip.labels_folder, frames, clip.labels)
    tell_unseen(check_labels(truths, progress), clip.labels, say)
    config = RunConfig(
        method=options.method,
        strategy=choose_strategy(strategy, options.method, whole),
        granularity=granularity,
        budgets=budgets,
        budget_unit=budget.unit,
        target=target,
        size=clip.size or own_size(frames.size),
        seed=options.seed,
        flow=options.flow,
        epsilon=options.epsilon,
        charge_junctions=options.charge_junctions,
        answers=answers,
        tolerance=options.tolerance,
        planted=options.planted_percent / 100,
        confirmed_weight=options.confirmed_weight,
        freeze=options.freeze,
    )
    checkpoint = _own_checkpoint(clip, config.size, device.type, scratch)
    flow, line = choose_flow(options.flow, device.type, options.flow_weights)
    say(line)
    return Experiment(
        video=clip.video.name if clip.video.name != "images" else clip.video.resolve().parent.name,
        truths=truths,
        inputs=RunInputs(
            source=frames,
            labels=clip.labels,
            config=config,
            checkpoint=checkpoint,
            flow=flow,
            device=device,
        ),
    )


def _own_checkpoint(clip: Clip, size: Size, device: str, scratch: Path) -> Path:
    """The start network as a checkpoint of ours; what is none yet becomes one in `scratch`."""
    from hvsa_cvat.segmentation.checkpoint import load_checkpoint
    from hvsa_cvat.segmentation.official import convert_official, is_official
    from hvsa_cvat.segmentation.start import Backbone, choose_start

    start, made = choose_start(clip.start, device, say), scratch / "start.safetensors"
    if isinstance(start, Backbone):
        start.write(made, size)
        say(f"{start}; it knows no classes, so the head starts anew")
        return made
    if is_official(start):
        say(convert_official(start, made, size, align_corners=clip.align_corners))
        return made
    say(load_checkpoint(start, clip.labels)[1])
    return start


def _check_machine(experiment: Experiment, out: Path) -> str:
    """What the run takes, in words; an error where this machine lacks it."""
    from hvsa_cvat.segmentation.checkpoint import read_info
    from hvsa_cvat.session.demand import demand_of
    from hvsa_cvat.session.machine import this_machine
    from hvsa_cvat.session.memory import check_fits

    inputs = experiment.inputs
    demand = demand_of(
        inputs.source.names,
        inputs.source.size,
        len(inputs.labels),
        read_info(inputs.checkpoint).network,
        inputs.config,
        inputs.flow.name,
        inputs.device,
    )
    return str(check_fits(demand, this_machine(out, inputs.device)))
