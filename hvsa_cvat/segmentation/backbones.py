"""The networks that can be used: four HRNets, and the backbones of timm that give feature maps."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hvsa_cvat.config import NETWORKS
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.segmentation.checkpoint_info import IMAGENET, InputStatistics
from hvsa_cvat.segmentation.hrnet import resize
from hvsa_cvat.types import Size

QUARTER = 4
"""The logits and the feature map have a quarter of the image's sides, rounded up."""

_SIDE = 64
"""Pixels; the side of the square image with which a backbone is tried, without arithmetic."""

_FLEXIBLE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"strict_img_size": False},
    {},
)
"""How timm's families are told that images may have any size, the first that is taken."""


def input_statistics(name: str) -> InputStatistics:
    """Of the weights that timm has for `name`; where it has none, `IMAGENET`."""
    found = timm.get_pretrained_cfg(name)
    return IMAGENET if found is None else InputStatistics(_three(found.mean), _three(found.std))


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def check_network(name: str) -> None:
    """`ConfigError` where no network has this name, or gives no feature maps."""
    if name not in NETWORKS:
        with torch.device("meta"):
            PyramidBackbone(name)


@lru_cache
def _names() -> tuple[str, ...]:
    return tuple(dict.fromkeys((*NETWORKS, *timm.list_models())))


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name, _names(), n=3) or NETWORKS
    return ConfigError(
        f"there is no network {name!r}; did you mean {', '.join(near)}? `hvsa-agent networks list` "
        "lists those that are tested"
    )


def _timm_backbone(name: str) -> Any:
    if not timm.is_model(name):
        raise _unknown(name)
    last: Exception | None = None
    for options in _FLEXIBLE:
        try:
            return timm.create_model(name, pretrained=False, features_only=True, **options)
        except TypeError as error:  # the family does not know the option
            last = error
        except (RuntimeError, AttributeError, AssertionError) as error:
            last = error
            break
    raise ConfigError(
        f"network {name!r} gives no feature maps ({_first_line(last)}); choose another one, see "
        "`hvsa-agent networks list`"
    )


def _first_line(error: Exception | None) -> str:
    return (str(error).splitlines() or ["no reason told"])[0]


class PyramidBackbone(nn.Module):
    """A backbone of timm as one that gives maps at a quarter of the image, the largest first.

    Images may have any size: they are padded at the right and at the bottom, and the maps are cut.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.body = _timm_backbone(name)
        info = self.body.feature_info
        reductions = info.reduction()
        self._multiple = math.lcm(QUARTER, *(int(one) for one in reductions))
        # what is finer than a quarter costs much and says little of classes
        self._used = [k for k, one in enumerate(reductions) if one >= QUARTER]
        self.plain = len(set(reductions)) == 1
        """Whether all maps have one size, as those of a vision transformer."""
        self.channels: list[int] = [info.channels()[k] for k in self._used]
        if not self._used:
            raise ConfigError(f"network {name!r} has no feature map at a quarter or less")
        self._try(name)

    def renamed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of timm's whole model by the names that they have here; others are left
        out."""
        own = self.state_dict().keys()
        found = {}
        for name, value in tensors.items():
            for here in (name, re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", name), f"model.{name}"):
                if f"body.{here}" in own:
                    found[f"body.{here}"] = value
        return found

    def _try(self, name: str) -> None:
        """Run a backbone whose tensors hold nothing, to see what it gives."""
        weights = next(self.body.parameters())
        if weights.device.type != "meta":
            return
        image = torch.zeros(1, 3, _SIDE, _SIDE + 1, device="meta")
        try:
            found = self.eval()(image)
        except (RuntimeError, AssertionError, IndexError) as error:
            raise ConfigError(
                f"network {name!r} does not take images of any size ({_first_line(error)}); "
                "choose another one, see `hvsa-agent networks list`"
            ) from error
        assert [one.shape[1] for one in found] == self.channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """float (B, 3, H, W), normalised -> (B, c, h, w) maps, `channels` of them each.

        Their h and w are those of the padded image over the reductions; see `at_a_quarter`.
        """
        height, width = images.shape[-2:]
        below, right = -height % self._multiple, -width % self._multiple
        padded = F.pad(images, (0, right, 0, below), mode="replicate")
        maps = self.body(padded)
        return [_channels_first(maps[k], c) for k, c in zip(self._used, self.channels, strict=True)]

    def at_a_quarter(self, branches: Sequence[Tensor], size: Size) -> list[Tensor]:
        """Maps of `forward`, of any channels, at a quarter of the image of `size`, rounded up."""
        height, width = ((side + -side % self._multiple) // QUARTER for side in size)
        cut = slice(0, -(-size[0] // QUARTER)), slice(0, -(-size[1] // QUARTER))
        return [resize(one, (height, width), False)[(..., *cut)] for one in branches]


def _channels_first(values: Tensor, channels: int) -> Tensor:
    """Some of timm's families put the channels last."""
    if values.shape[1] != channels and values.shape[-1] == channels:
        return values.permute(0, 3, 1, 2)
    return values
