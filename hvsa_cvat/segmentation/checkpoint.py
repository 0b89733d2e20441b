"""Networks on disk: safetensors files that say how they were made.

Nothing here unpickles code. `official.py` converts the official HRNet state dicts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.lookalikes import twin_hint
from hvsa_cvat.segmentation.backbones import check_network
from hvsa_cvat.segmentation.checkpoint_checks import check_weights
from hvsa_cvat.segmentation.checkpoint_info import (
    CheckpointInfo,
    InputStatistics,
    known_among,
    stored_info,
)
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.weights import read_tensors
from hvsa_cvat.types import LabelSet, Size

_CLASSIFIER = {"last_layer.3.weight", "last_layer.3.bias"}


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
    """The metadata of one of our checkpoints, whose network this version can build."""
    info = stored_info(path)
    try:
        check_network(info.network)
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {path} cannot be used: {error}") from error
    return info


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
    known = known_among(info.labels, labels)
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
