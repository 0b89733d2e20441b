"""The settings of a run. They are frozen and validated, and can be written as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hvsa_cvat.budgets import BudgetUnit
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.types import Size

Method = Literal["hvsa", "paper", "paper-exact", "finetune-only", "label-propagation"]
Sampling = Literal["every-frame", "half-labeled"]
Answering = Literal["draw", "correct"]
"""How people answer a sample. `draw`: from nothing. `correct`: they see the masks of the round
before and confirm them, correct them or draw anew, whichever takes the fewest clicks."""


Init = Literal["imagenet", "package"]
"""Where the first network comes from, if not from a checkpoint. `imagenet`: weights of a backbone
alone, and a head that starts at random. `package`: the small network of the package."""

Freeze = Literal["auto", "backbone", "nothing"]
"""What of the network does not learn. `auto`: the backbone of a vision transformer, nothing of
others."""

FREEZE_HELP = (
    "What of the network does not learn. backbone: features of the video are computed once, and "
    "the head alone learns in each round; auto: so for vision transformers; nothing: all of it "
    "learns."
)

NETWORKS = ("hrnet_w48", "hrnet_w32", "hrnet_w18", "hrnet_w18_small")

CARRIED: tuple[Method, ...] = ("hvsa", "label-propagation")
"""The methods that carry people's labels along the flow by default."""

WHOLE_FROM = 0.04
"""A share of the clicks of annotating every frame. Once this much is spent, a method that carries
labels gains more from whole frames than from smaller samples: from 4 % to 10 % that was so on every
clip that was measured."""

FLOW_NAMES = ("auto", "dis", "raft-large", "raft-small")


class Strategy(StrEnum):
    """How samples are chosen: ACTIVE by uncertainty and diversity, RANDOM at random, UNIFORM evenly
    spaced in time. UNIFORM spaces whole frames; smaller samples are then chosen as by ACTIVE."""

    ACTIVE = "active"
    RANDOM = "random"
    UNIFORM = "uniform"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingConfig(_Settings):
    """How the network learns from the answers of a round (Eq. 3 to 6)."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.004, gt=0)
    """The rate at the start of every round. It decays to 0 by (1 - progress) ** 0.9."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD only."""
    weight_decay: float = Field(0.0005, ge=0)
    epochs: int = Field(15, ge=1)
    """Passes over all frames of the video, with or without labels."""
    batch_pairs: int = Field(14, ge=1)
    """Frame pairs in one optimizer step."""
    sampling: Sampling = "every-frame"
    """Which frames are the anchors of an epoch's pairs. `every-frame`: each frame once.
    `half-labeled`: also as many frames again, drawn from those with people's labels; a step takes
    no frame of these twice."""
    consistency_weight: float = Field(1.0, ge=0)
    """Lambda of Eq. 6. With 0 the network is trained on the labels alone."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """The share of the steps in which the learning rate rises linearly from 0."""


class CarryingConfig(_Settings):
    """How a run that trains a network also uses people's labels carried along the flow."""

    fine: bool = False
    """Carry at the frames' own size (up to a longer side of 640 pixels), not at the network's."""
    without_drift: bool = False
    """Correct the sum of the flow's errors (drift) by comparing the frames' pixels."""
    by_colour: bool = False
    """Among the pixels around a place, those of a similar colour have more votes on the label."""
    taught: bool = False
    """Train the network on the carried labels of all frames, weighted by their confidence."""
    fused: bool = False
    """Combine the carried labels and the network's probabilities in the label maps."""

    remembered: bool = False
    """In fused label maps, take classes that are in no answer yet from the network of round 0, if
    it knows the classes. Training on answers without a class makes the network forget it."""
    refined: bool = False
    """Refine the probabilities that are fused by a small network at half the frames' own size. It
    learns from the carried labels of all frames."""
    smoothed: bool = False
    """In fused label maps, average the evidence for the classes over neighbouring frames."""

    @property
    def used(self) -> bool:
        return self.taught or self.fused


HVSA_CARRYING = CarryingConfig(
    fine=True,
    without_drift=True,
    by_colour=True,
    taught=True,
    fused=True,
    remembered=True,
    refined=True,
    smoothed=True,
)

PAPER_EXACT = TrainingConfig()
"""The paper's own numbers, for HRNet-W48 with weights from ImageNet and ScanNet."""

PAPER = TrainingConfig(
    optimizer="adamw",
    learning_rate=1.5e-3,
    weight_decay=0.01,
    epochs=8,
    batch_pairs=4,
    sampling="half-labeled",
    warmup=0.05,
)
"""The paper's losses, with an optimizer and a sampling that suit a small network too."""

FINETUNE_ONLY = PAPER.model_copy(update={"consistency_weight": 0.0})

HVSA = PAPER.model_copy(update={"sampling": "every-frame", "epochs": 6, "learning_rate": 2e-3})
"""`HVSA` takes three eighths of the steps of `PAPER`. Carried labels give every frame labels, and
with fusion more steps improve the network but not the masks (docs/method.md)."""

TRAINING: dict[Method, TrainingConfig | None] = {
    "hvsa": HVSA,
    "paper": PAPER,
    "paper-exact": PAPER_EXACT,
    "finetune-only": FINETUNE_ONLY,
    "label-propagation": None,
}
"""How each method trains its network. Label propagation has no network."""


class RunConfig(_Settings):
    """Everything that decides the result of a session, except the video and the checkpoint."""

    method: Method = "hvsa"
    strategy: Strategy = Strategy.ACTIVE
    granularity: str = "frame"
    """The samples of each round, in the form of `video.segments.granularity_by_round`."""
    budgets: tuple[float, ...]
    """What may be spent up to and with each round, in `budget_unit`."""
    budget_unit: BudgetUnit = BudgetUnit.CLICKS
    target: float | None = Field(None, gt=0, lt=1)
    """The mIoU at which no round asks any more: where the lower end of an audit reaches it."""
    size: Size
    """(height, width) in pixels. The network and the flow see the frames at this size."""
    seed: int = 0
    flow: str = "auto"
    epsilon: float = Field(1.0, ge=0)
    """Tolerance of the Ramer-Douglas-Peucker algorithm, in frame pixels."""
    charge_junctions: bool = False
    """Whether a point where a class boundary meets the border of a sample costs a click."""
    answers: Answering = "draw"
    tolerance: float | None = Field(None, ge=0)
    """Pixels. Where people correct masks, wrong bands along a border that are no thicker are left
    as they are. None: `epsilon`."""
    planted: float = Field(0.0, ge=0, le=0.5)
    """The share of the samples with masks in which an error is planted, where people correct
    masks."""
    confirmed_weight: float = Field(1.0, gt=0, le=1)
    """How much the labels count that people left as they were shown, where 1 is what drawn ones
    count: when they teach and when they are carried. The share of planted errors that people found
    lowers it further."""
    training: TrainingConfig | None = None
    """If not given, the entry of `TRAINING` for the method: None for label propagation."""
    freeze: Freeze = "auto"
    """`backbone`: the head alone learns, on features of the video that are computed once."""
    carrying: CarryingConfig = CarryingConfig()
    """If not given, every setting is on for `hvsa` and off for the other methods."""

    farthest: bool = False
    """How active selection chooses small samples. True: those that are farthest from all samples
    asked for before. False: one of each cluster, as in the paper. If not given, True for `hvsa`."""

    @property
    def correcting_tolerance(self) -> float | None:
        """`tolerance` where people correct masks; None where they draw."""
        if self.answers == "draw":
            return None
        return self.epsilon if self.tolerance is None else self.tolerance

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


@dataclass(frozen=True)
class StartOptions:
    """What the user says about the network that a run starts from; None where nothing."""

    checkpoint: Path | None = None
    init: Init | None = None
    network: str | None = None
    weights: Path | None = None
    """Weights of a backbone."""

    def __post_init__(self) -> None:
        made = {"init": self.init, "network": self.network, "weights": self.weights}
        given = [f"--{name}" for name, value in made.items() if value is not None]
        if self.checkpoint is not None and given:
            raise ConfigError(
                f"--checkpoint and {given[0]} name two networks to start from; leave one of them "
                "out, also in hvsa.toml"
            )
        if self.init == "package" and len(given) > 1:
            raise ConfigError(
                f"--init package takes the network of the package, so {given[1]} has no meaning; "
                f"leave one of them out"
            )


def choose_answers(asked: Answering | None, method: Method) -> Answering:
    """How people answer: as the user asks, else `hvsa` has them correct, and the others draw, as in
    the paper."""
    return asked or ("correct" if method == "hvsa" else "draw")


def choose_strategy(asked: Strategy | None, method: Method, whole_frames: bool) -> Strategy:
    """The strategy of a session. `whole_frames`: at least one round asks for whole frames.

    If the user asks for none, `hvsa` uses `UNIFORM` where there are whole frames. Everything else
    uses `ACTIVE`.
    """
    if asked is None:
        return Strategy.UNIFORM if whole_frames and method == "hvsa" else Strategy.ACTIVE
    if asked is Strategy.UNIFORM and not whole_frames:
        raise ConfigError(
            "strategy uniform spaces whole frames evenly, so it needs granularity frame; choose "
            "active or random for smaller samples"
        )
    return asked


PLANTED_HELP = (
    "In how many of a hundred samples with masks an error is planted, where people correct masks. "
    "How many of them people mend tells how far confirmed masks can be trusted; what nobody "
    "mends is left out of the answers. 0: none."
)

CONFIRMED_HELP = (
    "How much masks count, from 0 to 1, that people left as they were shown, when they teach and "
    "when they are carried to other frames; 1 is what drawn ones count. Where people miss planted "
    "errors, these masks count less than this."
)

AUDIT_HELP = (
    "Audit the masks after the last round: that many whole frames, evenly spaced at random places, "
    "are asked for in one more round, whatever the budget. They tell the quality of all masks with "
    "an interval, and then teach. Default: no audit."
)

AUDIT_EACH_HELP = (
    "With --audit: audit after each round, not only after the last, so that the outlook of every "
    "round stands on an audit. People's clicks for audits count, so later rounds ask for less."
)

EACH_OF_NONE = "--audit-each needs the number of frames to audit; add --audit 3, or leave it out"


def parse_size(text: str) -> Size:
    """(192, 256) for `192x256`; the height comes first."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--size {text!r}: write HEIGHTxWIDTH in pixels, for example 192x256")
    height, width = int(parts[0]), int(parts[1])
    if min(height, width) < 32 or max(height, width) > 8192:
        raise ConfigError(f"--size {text!r}: each side must be 32 to 8192 pixels")
    return height, width
