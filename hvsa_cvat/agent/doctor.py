"""What this machine has for the agent: the part of `hvsa-agent doctor` that needs no server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from hvsa_cvat.agent.looking import is_workspace
from hvsa_cvat.agent.settings import LocalSettings
from hvsa_cvat.cvat.doctor import Finding
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.files import check_writable
from hvsa_cvat.segmentation.checkpoint import read_info
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.segmentation.official import is_official, load_official
from hvsa_cvat.video.flow_estimators import DisFlow, choose_flow

_LITTLE_DISK = 5 * 2**30
"""Bytes that the frames, flow and label maps of one long video take."""


def examine_machine(settings: LocalSettings) -> Iterator[Finding]:
    """GPU, optical flow, start network and disk; one that fails does not stop the others."""
    options = settings.enroll_options(None, {})
    yield _gpu(options.device)
    yield _flow(options.flow, options.flow_weights)
    yield _checkpoint(options.checkpoint)
    yield _disk(settings.workspace)
    if settings.database is not None:
        yield _database(settings)


def _gpu(name: str) -> Finding:
    try:
        device = choose_device(name)
    except HvsaError as error:
        return Finding("GPU", "failure", str(error), 'set device = "auto" in hvsa.toml')
    if device.type == "cpu":
        return Finding(
            "GPU",
            "warning",
            f"none in use; rounds take minutes on {os.cpu_count()} processor cores",
            "run the agent where PyTorch finds a CUDA device, if rounds should take seconds",
        )
    properties = torch.cuda.get_device_properties(device)
    return Finding("GPU", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _flow(name: str, weights: Path | None) -> Finding:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        estimator, line = choose_flow(name, device, weights)
    except HvsaError as error:
        return Finding("optical flow", "failure", str(error), 'set flow = "auto" in hvsa.toml')
    if name == "auto" and device == "cuda" and isinstance(estimator, DisFlow):
        return Finding(
            "optical flow",
            "warning",
            line,
            "download the weights of torchvision's RAFT large and name them by flow_weights",
        )
    return Finding("optical flow", "ok", line)


def _checkpoint(path: Path | None) -> Finding:
    if path is None:
        return Finding(
            "start network",
            "warning",
            "the small one of the package, which knows none of your classes; the first round "
            "teaches it",
            "name a better one by checkpoint in hvsa.toml: an official HRNet .pth, or, only if "
            "you have labelled frames already, one made by `hvsa-agent pretrain`",
        )
    try:
        known = _known_by(path)
    except HvsaError as error:
        return Finding("start network", "failure", str(error), "name another checkpoint")
    return Finding("start network", "ok", f"{path}: {known}")


def _known_by(path: Path) -> str:
    if is_official(path):
        return load_official(path, 1)[1]
    info = read_info(path)
    return f"{info.network}, {', '.join(info.labels)}"


def _database(settings: LocalSettings) -> Finding:
    try:
        begun = is_workspace(settings.place)
    except HvsaError as error:
        what, _, fix = str(error).rpartition("; ")
        return Finding("database", "failure", what, fix)
    state = "holds the workspace" if begun else "is empty; the first command makes its tables"
    return Finding("database", "ok", f"{settings.database} {state}")


def _disk(workspace: Path) -> Finding:
    try:
        check_writable(workspace / "probe")
        free = shutil.disk_usage(workspace).free
    except (HvsaError, OSError) as error:
        return Finding("disk", "failure", str(error), "choose another folder by --workspace")
    text = f"{free / 2**30:.0f} GiB free in {workspace}"
    if free < _LITTLE_DISK:
        return Finding("disk", "warning", text, "free space; a long video takes a few GiB")
    return Finding("disk", "ok", text)
