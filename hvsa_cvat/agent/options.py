"""The options of `enroll`: declared here once, for hvsa.toml, the command line and the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hvsa_cvat.annotation.effort import rough_seconds
from hvsa_cvat.budgets import BUDGET_HELP, Budget, BudgetUnit, parse_budget
from hvsa_cvat.config import (
    AUDIT_EACH_HELP,
    AUDIT_HELP,
    CARRIED,
    CONFIRMED_HELP,
    EACH_OF_NONE,
    FLOW_NAMES,
    FREEZE_HELP,
    PLANTED_HELP,
    WHOLE_FROM,
    Answering,
    Freeze,
    Init,
    Method,
    RunConfig,
    StartOptions,
    Strategy,
    choose_answers,
    choose_strategy,
    parse_size,
)
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.name_lists import split_names
from hvsa_cvat.rates import CURRENCY_HELP, RATE_HELP, Rate, read_rate
from hvsa_cvat.targets import TARGET_HELP, no_audit, parse_target
from hvsa_cvat.types import Size

_RECTANGLES_PER_HEIGHT = 6
"""The paper's rectangles of 40 pixels, in a frame of 240."""

_LONG_SIDE = {"cpu": 320, "cuda": 800}
"""Default longer side of the network's frames, in pixels: two cores train 320 in minutes, a GPU
trains 800 in seconds."""

_STRIDE = 32


class EnrollOptions(BaseModel):
    """How a task is annotated. Each option has a default; `enroll` stores the values of a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    granularity: str | None = Field(
        None,
        description="What people are asked for: frame, rectangle:40 (or HxW), superpixel:300 or "
        "superpixel-merged:300. Or one for each round, comma separated; the last one holds for "
        "the rounds after it (rectangle:40,frame). Default: squares of a sixth of the frames' "
        "height; with hvsa and label-propagation whole frames in the rounds that begin after "
        f"{WHOLE_FROM:.0%} of the clicks are spent.",
    )
    budget: str = Field(
        "5%",
        description=BUDGET_HELP,
    )
    rounds: int = Field(3, ge=1, description="How many rounds ask people.")
    audit: int | None = Field(None, ge=1, description=AUDIT_HELP)
    audit_each: bool = Field(False, description=AUDIT_EACH_HELP)
    planted_percent: float = Field(5.0, ge=0, le=50, description=PLANTED_HELP)
    confirmed_weight: float = Field(1.0, gt=0, le=1, description=CONFIRMED_HELP)
    target: str | None = Field(None, description=TARGET_HELP)
    annotators: tuple[str, ...] = Field(
        (), description="User names of the annotators. Default: anyone may take the jobs."
    )
    checkpoint: Path | None = Field(
        None,
        description="The network that round 1 starts from: made by `hvsa-agent pretrain`, or an "
        "official HRNet .pth. Default: the small network of the package; on a GPU hrnet_w48 with "
        "ImageNet weights, where these are on this machine or the model hub answers.",
    )
    init: Init | None = Field(
        None,
        description="In place of a checkpoint. imagenet: --network with the weights of --weights "
        "or of the model hub, and a new head, so no labelled data are needed. package: the small "
        "network of the package.",
    )
    network: str | None = Field(
        None,
        description="Network of --init imagenet, see `hvsa-agent networks list`. Default: "
        "hrnet_w18_small on a CPU, hrnet_w48 on a GPU.",
    )
    weights: Path | None = Field(
        None,
        description="Weights of the backbone for --init imagenet, .safetensors or .pth, by timm's "
        "names or those of the official HRNet. Default: the ImageNet weights of the model hub or "
        "its cache.",
    )
    new_classes: bool = Field(
        False,
        description="Accept a checkpoint that knows none of the task's classes, and use its "
        "backbone.",
    )
    align_corners: bool = Field(
        True, description="How an official .pth was trained. Other checkpoints say it themselves."
    )
    method: Method = Field(
        "hvsa",
        description="How answers become masks. hvsa carries labels along the optical flow and "
        "trains a network on them.",
    )
    answers: Answering | None = Field(
        None,
        description="What people see in the pictures that they get: correct shows the masks of the "
        "round before, draw shows none. Default: correct with hvsa, else draw.",
    )
    freeze: Freeze = Field(
        "auto",
        description=FREEZE_HELP,
    )
    strategy: Strategy | None = Field(
        None,
        description="How samples are chosen. Default: uniform (evenly spaced frames) where hvsa "
        "asks for whole frames, else active.",
    )
    size: str | None = Field(
        None,
        description="HEIGHTxWIDTH in pixels at which the network works. Default: the frames' size, "
        f"reduced to a longer side of {_LONG_SIDE['cpu']} on a CPU and {_LONG_SIDE['cuda']} on a "
        "GPU.",
    )
    flow: str = Field("auto", description=f"Optical flow: {', '.join(FLOW_NAMES)}.")
    flow_weights: Path | None = Field(
        None,
        description="State dict of torchvision's RAFT, for machines that cannot download it.",
    )
    epsilon: float = Field(
        1.0,
        ge=0,
        description="How far, in pixels of the frame, an outline may lie from the true one. It "
        "decides how many clicks a region is expected to take.",
    )
    seed: int = Field(0, ge=0, description="Seed of all random choices.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the network runs; auto takes a GPU if there is one."
    )
    accepted_only: bool = Field(
        False, description="Use answers only after a reviewer has accepted their job."
    )
    gap_percent: float = Field(
        5.0,
        ge=0,
        le=100,
        description="A finished job goes back once if more than this percentage of a sample's "
        "pixels has no class.",
    )
    shapes: Literal["masks", "polygons"] = Field(
        "masks", description="The shapes that pre-annotations are made of."
    )
    background: tuple[str, ...] = Field(
        (), description="Classes that are learned but not shown as masks."
    )
    picture_side: int = Field(
        700,
        ge=64,
        le=4096,
        description="Pixels of the longer side of a picture that shows a sample smaller than a "
        "frame, nearly; it is enlarged by a whole number. More suits large screens.",
    )
    job_minutes: float = Field(
        15.0,
        gt=0,
        description="Minutes that a job is to take, about: what a person is asked for in a round "
        "is one job or several.",
    )
    quiet_minutes: float = Field(
        15.0,
        ge=0,
        description="Minutes since the last save after which the agent writes masks to a job that "
        "is in progress.",
    )

    hourly_rate: float | None = Field(None, gt=0, allow_inf_nan=False, description=RATE_HELP)
    currency: str | None = Field(None, pattern=r"^\S{1,8}$", description=CURRENCY_HELP)

    @property
    def rate(self) -> Rate | None:
        """What people's time costs; None where nothing is said of it."""
        return read_rate(self.hourly_rate, self.currency)

    @model_validator(mode="after")
    def _has_a_rate(self) -> EnrollOptions:
        read_rate(self.hourly_rate, self.currency)
        return self

    @property
    def start(self) -> StartOptions:
        """What is said about the network to start from."""
        return StartOptions(self.checkpoint, self.init, self.network, self.weights)

    _split = field_validator("annotators", "background", mode="before")(split_names)

    def run_config(self, frames: Size, device: str, length: int = 1) -> RunConfig:
        """The settings of the loop for `length` frames of this size, on `cpu` or `cuda`."""
        # scikit-learn takes seconds to import, and the help of `enroll` needs none of it
        from hvsa_cvat.video.segments import granularity_by_round, with_audits

        budget = parse_budget(self.budget, self.rounds)
        budgets = budget.totals
        if self.audit_each and self.audit is None:
            raise ConfigError(EACH_OF_NONE)
        granularity = self.granularity or self._granularity(frames, budget, length)
        if self.audit is not None:
            granularity, budgets = with_audits(granularity, budgets, self.audit, self.audit_each)
        kinds = granularity_by_round(granularity, len(budgets))
        target = None if self.target is None else parse_target(self.target)
        if self.target is not None and all(kind.frames is None for kind in kinds):
            raise no_audit(self.target)
        whole = any(kind.whole for kind in kinds)
        return RunConfig(
            method=self.method,
            strategy=choose_strategy(self.strategy, self.method, whole),
            granularity=granularity,
            budgets=budgets,
            budget_unit=budget.unit,
            target=target,
            size=parse_size(self.size) if self.size else network_size(frames, device),
            seed=self.seed,
            flow=self.flow,
            epsilon=self.epsilon,
            answers=choose_answers(self.answers, self.method),
            planted=self.planted_percent / 100,
            confirmed_weight=self.confirmed_weight,
            freeze=self.freeze,
        )

    def _granularity(self, frames: Size, budget: Budget, length: int) -> str:
        side = max(1, round(frames[0] / _RECTANGLES_PER_HEIGHT))
        every = 1.0 if budget.unit is BudgetUnit.CLICKS else rough_seconds(length, frames)
        spent_before = [total / every for total in (0.0, *budget.totals[:-1])]
        carried = self.method in CARRIED
        small = sum(spent < WHOLE_FROM or not carried for spent in spent_before)
        if small == len(spent_before):
            return f"rectangle:{side}"
        return ",".join([f"rectangle:{side}"] * small + ["frame"])


def network_size(frames: Size, device: str) -> Size:
    """The size at which the network works on frames of a size, in multiples of its stride."""
    scale = min(1.0, _LONG_SIDE[device] / max(frames))
    height, width = (max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in frames)
    return height, width
