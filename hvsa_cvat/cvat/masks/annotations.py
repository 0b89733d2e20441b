"""The annotations of a job, one at a time, so that a large job takes little memory.

The answer of the server goes to a file, and the file is mapped into memory: the system may drop
its pages at any time. msgspec finds the elements in it without decoding their numbers.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.http.forms import Shape, Track
from hvsa_cvat.errors import ServerError


class _Answer(msgspec.Struct):
    """What the server says of a job; tags cover no pixels and are not read."""

    shapes: list[msgspec.Raw]
    tracks: list[msgspec.Raw]


@dataclass(frozen=True)
class Annotation:
    """One annotation of a job."""

    kind: Literal["shape", "track"]
    content: Json
    text: bytes
    """The same as JSON, as the server sent it."""


def read_annotations(client: CvatClient, job: int, folder: Path) -> Iterator[Annotation]:
    """The shapes of a job, then its tracks; `folder` takes the file while they are read.

    `ServerError` where the answer is not what a CVAT server answers.
    """
    path = folder / "annotations.json"
    try:
        client.download(f"jobs/{job}/annotations/", path)
        answer = _parse(path)
        yield from (_annotation("shape", raw) for raw in answer.shapes)
        yield from (_annotation("track", raw) for raw in answer.tracks)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise _not_understood(client, job, error) from error
    finally:
        path.unlink(missing_ok=True)


def check_annotation(client: CvatClient, job: int, one: Annotation) -> None:
    """`ServerError` where it lacks what is read of a shape or track, or has it as another type."""
    try:
        msgspec.convert(one.content, Shape if one.kind == "shape" else Track)
    except (RecursionError, msgspec.MsgspecError) as error:
        raise _not_understood(client, job, error) from error


def _not_understood(client: CvatClient, job: int, error: Exception) -> ServerError:
    return ServerError(
        f"{client.address.url}: the annotations of job {job} cannot be understood ({error}); "
        "check the server address"
    )


def _parse(path: Path) -> _Answer:
    with path.open("rb") as file:
        # An empty file cannot be mapped.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Not closed: the elements look into it. It goes with the last of them.
    return msgspec.json.decode(content, type=_Answer)


def _annotation(kind: Literal["shape", "track"], raw: msgspec.Raw) -> Annotation:
    text = bytes(raw)
    return Annotation(kind, msgspec.json.decode(text), text)
