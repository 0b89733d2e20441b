"""Settings of a run, with the paper's numbers as defaults. Frozen, checked, JSON-able."""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.types import Size

Method = Literal["hvsa", "paper", "paper-exact", "finetune-only", "label-propagation"]
Sampling = Literal["every-frame", "half-labeled"]


NETWORKS = ("hrnet_w48", "hrnet_w32", "hrnet_w18", "hrnet_w18_small")

CARRIED: tuple[Method, ...] = ("hvsa", "label-propagation")
"""Methods that carry people's labels along the flow as they are set up."""

WHOLE_FROM = 0.04
"""Share of the clicks of annotating every frame that, once spent, is better followed by whole
frames, where answers are carried: from there to 10 % they were better on every clip measured."""

FLOW_NAMES = ("auto", "dis", "raft-large", "raft-small")


class Strategy(StrEnum):
    """How samples are chosen: by uncertainty and diversity, at random, or evenly spaced (whole
    frames only; smaller samples are chosen as by ACTIVE then)."""

    ACTIVE = "active"
    RANDOM = "random"
    UNIFORM = "uniform"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingConfig(_Settings):
    """How the network learns from the answers of a round (Eq. 3 to 6)."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.004, gt=0)
    """At the start of every round; poly decay to 0, power 0.9."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD only."""
    weight_decay: float = Field(0.0005, ge=0)
    epochs: int = Field(15, ge=1)
    """Passes over all frames of the video, labeled or not."""
    batch_pairs: int = Field(14, ge=1)
    """Frame pairs in one optimizer step."""
    sampling: Sampling = "every-frame"
    """`every-frame`: each frame is an anchor once an epoch. `half-labeled`: the same, and as many
    anchors again drawn from the frames that people labeled, none twice in a step."""
    consistency_weight: float = Field(1.0, ge=0)
    """Lambda of Eq. 6; 0 trains on the labels alone."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the steps over which the learning rate rises linearly from 0."""


class CarryingConfig(_Settings):
    """What is made of people's labels carried along the flow while a network is trained too."""

    fine: bool = False
    """Carried at the frames' own size (a long side of 640 pixels at most), not the network's."""
    without_drift: bool = False
    """What the flow's errors add up to is taken out by what the frames show."""
    by_colour: bool = False
    """Labels are read more from pixels that look alike, among those around their places."""
    taught: bool = False
    """The network learns from the carried labels of all frames, weighted by their confidence."""
    fused: bool = False
    """Label maps join the carried labels and the network's probabilities."""

    remembered: bool = False
    """Fused label maps show classes that no answer has shown as the network of round 0 does, if it
    knows the classes: training on answers without a class unlearns it."""

    @property
    def used(self) -> bool:
        return self.taught or self.fused


HVSA_CARRYING = CarryingConfig(
    fine=True, without_drift=True, by_colour=True, taught=True, fused=True, remembered=True
)

PAPER_EXACT = TrainingConfig()
"""The numbers the paper prints, for HRNet-W48 with ImageNet and ScanNet weights."""

PAPER = TrainingConfig(
    optimizer="adamw",
    learning_rate=1.5e-3,
    weight_decay=0.01,
    epochs=8,
    batch_pairs=4,
    sampling="half-labeled",
    warmup=0.05,
)
"""The paper's losses with an optimizer and a sampling that also work for a small network."""

FINETUNE_ONLY = PAPER.model_copy(update={"consistency_weight": 0.0})

HVSA = PAPER.model_copy(update={"sampling": "every-frame", "epochs": 6, "learning_rate": 2e-3})
"""Three eighths of the steps of `PAPER`: with carried labels every frame is a labeled one, and with
fusion more steps make the network better but not the masks (docs/method.md)."""

TRAINING: dict[Method, TrainingConfig | None] = {
    "hvsa": HVSA,
    "paper": PAPER,
    "paper-exact": PAPER_EXACT,
    "finetune-only": FINETUNE_ONLY,
    "label-propagation": None,
}
"""What each method trains; label propagation trains nothing."""


class RunConfig(_Settings):
    """Everything that decides the outcome of a session, besides the video and the checkpoint."""

    method: Method = "hvsa"
    strategy: Strategy = Strategy.ACTIVE
    granularity: str = "frame"
    """As `video.segments.granularity_by_round` parses it."""
    budgets: tuple[float, ...]
    """Clicks that may have been spent after each round, as fractions of annotating every frame."""
    size: Size
    """(height, width) in pixels at which network and flow work."""
    seed: int = 0
    flow: str = "auto"
    epsilon: float = Field(1.0, ge=0)
    """Tolerance of Ramer-Douglas-Peucker, in frame pixels."""
    charge_junctions: bool = False
    """Whether points where a class boundary meets the border of a sample cost a click."""
    training: TrainingConfig | None = None
    """The method's own (see `TRAINING`) unless given; None after all where a method trains none."""
    carrying: CarryingConfig = CarryingConfig()
    """The method's own unless given: everything for `hvsa`, nothing for the others."""

    farthest: bool = False
    """Active selection of small samples takes those farthest from what was asked for before, not
    one of each cluster. The method's own unless given: `hvsa` does, the others do as the paper."""

    @property
    def carries(self) -> bool:
        """Whether people's labels are carried along the flow."""
        return self.method == "label-propagation" or self.carrying.used

    @model_validator(mode="before")
    @classmethod
    def _as_the_method_trains(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        method: Method = values.get("method", "hvsa")
        chosen = dict(values)
        if chosen.get("training") is None:
            chosen["training"] = TRAINING.get(method)
        if chosen.get("carrying") is None:
            chosen["carrying"] = HVSA_CARRYING if method == "hvsa" else CarryingConfig()
        if chosen.get("farthest") is None:
            chosen["farthest"] = method == "hvsa"
        return chosen


def choose_strategy(asked: Strategy | None, method: Method, whole_frames: bool) -> Strategy:
    """The strategy of a session in which at least one round asks for whole frames, or none does.

    Unless another is asked for, `hvsa` spaces whole frames evenly; smaller samples are chosen by
    active selection then.
    """
    if asked is None:
        return Strategy.UNIFORM if whole_frames and method == "hvsa" else Strategy.ACTIVE
    if asked is Strategy.UNIFORM and not whole_frames:
        raise ConfigError(
            "strategy uniform spaces whole frames evenly; it goes with granularity frame only"
        )
    return asked


def parse_budgets(text: str, rounds: int) -> tuple[float, ...]:
    """`6%` split evenly over the rounds, or `2%,5%,10%`: the total after each round."""
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: at least one round is needed")
    _ask_back(text)
    fractions = []
    for part in text.split(","):
        number = part.strip().removesuffix("%").strip()
        try:
            percent = float(number)
        except ValueError:
            raise ConfigError(
                f"--budget {text!r}: {part!r} is not a percentage; write 6% or 2%,5%,10%"
            ) from None
        if not 0 < percent <= 100:
            raise ConfigError(
                f"--budget {text!r}: {part.strip()!r} must be over 0 % and at most 100 % "
                "of the clicks of annotating every frame"
            )
        fractions.append(percent / 100)
    if len(fractions) == 1:
        return tuple(fractions[0] * (k + 1) / rounds for k in range(rounds))
    if any(b <= a for a, b in pairwise(fractions)):
        raise ConfigError(f"--budget {text!r}: the totals after each round must rise")
    return tuple(fractions)


def _ask_back(text: str) -> None:
    """Refuse what may be meant in two ways: a decimal comma, and a fraction in place of percent."""
    comma = re.fullmatch(r"\s*(\d+),(\d+)\s*%?\s*", text)
    if comma:
        raise ConfigError(
            f"--budget {text!r}: a decimal comma, or two totals? write {comma[1]}.{comma[2]}% or "
            f"{comma[1]}%,{comma[2]}%"
        )
    for part in text.split(","):
        if re.fullmatch(r"\s*0?\.\d+\s*", part):
            raise ConfigError(
                f"--budget {text!r}: a fraction, or percent? write {100 * float(part):g}% or "
                f"{part.strip()}%"
            )


def parse_size(text: str) -> Size:
    """`192x256` -> (192, 256), height first."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--size {text!r}: write HEIGHTxWIDTH in pixels, for example 192x256")
    height, width = int(parts[0]), int(parts[1])
    if min(height, width) < 32 or max(height, width) > 8192:
        raise ConfigError(f"--size {text!r}: each side must be 32 to 8192 pixels")
    return height, width
