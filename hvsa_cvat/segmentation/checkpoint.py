"""Networks on disk: safetensors files that say how they were made.

Nothing here unpickles code. `official.py` converts the official HRNet state dicts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.lookalikes import twin_hint
from hvsa_cvat.segmentation.backbones import (
    IMAGENET,
    InputStatistics,
    check_network,
)
from hvsa_cvat.segmentation.checkpoint_checks import check_metadata, check_weights
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.weights import read_tensors
from hvsa_cvat.types import LabelSet, Size

_CLASSIFIER = {"last_layer.3.weight", "last_layer.3.bias"}


@dataclass(frozen=True)
class CheckpointInfo:
    """What is stored beside the weights."""

    network: str
    labels: tuple[str, ...]
    """Class names in the order of the head's rows; empty where only the backbone is of use."""
    size: Size
    """(height, width) in pixels at which the network was last trained, or is to be trained."""
    align_corners: bool
    round: int
    """0 for a pre-trained network, k after k rounds."""
    mean: tuple[float, float, float] = IMAGENET.mean
    std: tuple[float, float, float] = IMAGENET.std
    """RGB normalisation of values from 0 to 1."""


def describe(
    network: SegmentationNetwork, classes: Sequence[str], size: Size, round_number: int
) -> CheckpointInfo:
    """What is stored beside the weights of `network`."""
    statistics = network.statistics
    return CheckpointInfo(
        network.name,
        tuple(classes),
        size,
        network.align_corners,
        round_number,
        statistics.mean,
        statistics.std,
    )


def save_checkpoint(network: SegmentationNetwork, info: CheckpointInfo, path: Path) -> None:
    """Write `path` (safetensors) as a whole, or not at all."""
    # one memory layout, so that equal weights give equal bytes
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    # one entry, because safetensors writes several in any order
    metadata = {"info": json.dumps(asdict(info))}
    with atomic_write(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:  # it raises this when the disk is full
            raise OSError(str(error)) from error


def read_info(path: Path) -> CheckpointInfo:
    """The metadata of one of our checkpoints."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint {path}; check the path, or make one with `hvsa-agent pretrain`"
        ) from None
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} is truncated or not a safetensors file ({error}); "
            "copy it again or make it anew"
        ) from error
    if "info" not in metadata:
        raise CheckpointError(
            f"checkpoint {path} was not written by hvsa-agent; "
            "give an official HRNet state dict as .pth, or make one with `hvsa-agent pretrain`"
        )
    try:
        fields = json.loads(metadata["info"])
        check_metadata(fields)
        for name in ("labels", "size", "mean", "std"):
            fields[name] = tuple(fields[name])
        info = CheckpointInfo(**fields)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"checkpoint {path} has broken metadata ({error}); copy it again or make it anew"
        ) from error
    try:
        check_network(info.network)
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {path} cannot be used: {error}") from error
    return info


def known_classes(path: Path, labels: LabelSet) -> tuple[int, ...]:
    """Indices of the labels whose names the checkpoint knows.

    Empty where `load_checkpoint` starts the head anew.
    """
    return _known_classes(read_info(path).labels, labels)


def _known_classes(theirs: Sequence[str], labels: LabelSet) -> tuple[int, ...]:
    known = tuple(k for k, name in enumerate(labels.names) if name in theirs)
    # one known class among several cannot be told from the others
    return known if len(known) > 1 or len(known) == len(labels) else ()


def new_network(
    name: str,
    classes: int,
    *,
    align_corners: bool = False,
    seed: int = 0,
    statistics: InputStatistics | None = None,
) -> SegmentationNetwork:
    """A network with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegmentationNetwork(
            name, classes, align_corners=align_corners, statistics=statistics
        )


def load_checkpoint(
    path: Path, labels: LabelSet, *, align_corners: bool = True, seed: int = 0
) -> tuple[SegmentationNetwork, str]:
    """The network of `path` for `labels`, and one line that says what was loaded.

    Classes are found by their names, in any order. A class that the checkpoint does not know
    starts as the mean of those that it knows, so that it is never predicted before it is taught.
    Where the checkpoint knows none of the classes, or one of several, its backbone is kept and the
    head starts anew, from `seed`. `align_corners` has no effect: the checkpoint says it.
    """
    info = read_info(path)
    network = new_network(
        info.network,
        len(labels),
        align_corners=info.align_corners,
        seed=seed,
        statistics=InputStatistics(info.mean, info.std),
    )
    tensors = read_tensors(path)
    known = _known_classes(info.labels, labels)
    if known:
        tensors = _head_for(labels, known, info.labels, tensors, path)
    load_tensors(network, tensors, path, with_classifier=bool(known))
    told = f"{path.name}: {info.network}"
    if not known:
        theirs = f"its classes ({', '.join(info.labels)}) are not this run's"
        why = theirs if info.labels else "it knows no classes"
        twins = "".join(twin_hint(name, info.labels) for name in labels)
        return network, f"{told}; {why}, so the backbone is kept and the head starts anew{twins}"
    new = [name for name in labels.names if name not in info.labels]
    if new:
        return network, (
            f"{told}, {len(known)} of {len(labels)} classes, round {info.round}; "
            f"{', '.join(new)} start as the mean of these"
            f"{''.join(twin_hint(name, info.labels) for name in new)}"
        )
    return network, f"{told}, {len(labels)} classes, round {info.round}"


def _head_for(
    labels: LabelSet,
    known: Sequence[int],
    theirs: Sequence[str],
    tensors: dict[str, Tensor],
    path: Path,
) -> dict[str, Tensor]:
    """The tensors, with one row of the classifier for each of `labels`."""
    changed = dict(tensors)
    for name in sorted(_CLASSIFIER & set(tensors)):
        rows = tensors[name]
        if rows.ndim == 0 or len(rows) != len(theirs):
            raise CheckpointError(
                f"checkpoint {path}: {name!r} has shape {tuple(rows.shape)} and the metadata name "
                f"{len(theirs)} classes; copy it again or make it anew"
            )
        kept = rows[[theirs.index(labels.names[k]) for k in known]]
        # the mean of the rows gives the mean of their logits, which is never the largest
        changed[name] = kept.mean(dim=0).repeat(len(labels), *[1] * (rows.ndim - 1))
        changed[name][list(known)] = kept
    return changed


def load_tensors(
    network: SegmentationNetwork, tensors: dict[str, Tensor], path: Path, *, with_classifier: bool
) -> None:
    """Put the tensors of `path` into a network; `CheckpointError` where they do not fit."""
    own = network.state_dict()
    wanted = set(own) if with_classifier else set(own) - _CLASSIFIER
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(wanted - set(tensors) - counters)
    if missing:
        raise CheckpointError(
            f"checkpoint {path} lacks {len(missing)} of the tensors of {network.name}, "
            f"first {missing[0]!r}; it was made for another network"
        )
    for name in sorted(wanted & set(tensors)):
        if tensors[name].shape != own[name].shape:
            raise CheckpointError(
                f"checkpoint {path}: {name!r} has shape {tuple(tensors[name].shape)}, "
                f"{network.name} with {network.classes} classes needs {tuple(own[name].shape)}"
            )
    taken = {name: tensors[name] for name in wanted & set(tensors)}
    try:
        check_weights(taken)
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint {path}: {error}; take a checkpoint of an earlier round, or train again"
        ) from error
    network.load_state_dict(taken, strict=False)
