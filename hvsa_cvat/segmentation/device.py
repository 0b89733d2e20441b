"""Where the arithmetic happens, and in what precision."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from hvsa_cvat.errors import CapacityError, ConfigError


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one; asking for an absent one is an error."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch sees no CUDA device here; choose cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # PyTorch emulates bfloat16 on older processors, slower than float32
    return torch.backends.cpu.get_cpu_capability() != "DEFAULT" and bool(
        torch.cpu._is_avx512_bf16_supported()
    )


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 for convolutions where the hardware multiplies in it, else float32."""
    if not computes_in_bfloat16(device):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


_RESIDENT_SHARE = 0.4
"""Of a device's free memory, what a video may take; the rest is for the network's step."""


def resident_bytes(device: torch.device) -> int:
    """Up to what size a video is worth sending to the device whole. 0 on a CPU: there the file
    that is mapped into memory is read where it lies."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(_RESIDENT_SHARE * free)


@contextmanager
def fitting_memory(what: str, device: torch.device) -> Iterator[None]:
    """Where the GPU's memory runs out inside, a `CapacityError` that says that `what` did not fit.

    A run is checked before it starts, but other programs may take the memory afterwards.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"the memory of the GPU ({_memory(device)}) ran out at {what}; stop other programs on "
            "the GPU, or choose a smaller --size or --device cpu"
        ) from error


def _memory(device: torch.device) -> str:
    if device.type != "cuda":
        return "none here"
    free, whole = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return f"{name}, {free / 2**30:.1f} of {whole / 2**30:.1f} GiB free"


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Of glibc's mallopt."""


_SEARCH_FROM = 2000
"""Steps of a training. On an H200 a search took 6 to 10 s in a new process for each shape of a
batch, and a step of W48 then took 53 ms in place of 59, or 50 in place of 54."""


@contextmanager
def searched_kernels(device: torch.device, steps: int) -> Iterator[None]:
    """In a long training on a GPU, cuDNN tries its kernels at the first batch of a shape and keeps
    the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or (device.type == "cuda" and steps >= _SEARCH_FROM)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """On a CPU the arrays of one step are not given back to the system before the next one.

    A training step frees and asks for hundreds of megabytes; returned each time, they come back
    as pages to be cleared and mapped one by one, which took a tenth of the step. Where the C
    library is not glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if device.type == "cpu" else None
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # what glibc's own adjustment ends at
        mallopt(_MMAP_MAX, 65536)
        mallopt(_MMAP_THRESHOLD, 2**25)
        mallopt(_TRIM_THRESHOLD, 2**26)
        ctypes.CDLL(None).malloc_trim(0)
