"""What the server says of a task's frames: their size, numbers and chunks."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.errors import MediaError
from hvsa_cvat.types import Size


@dataclass(frozen=True)
class Chunk:
    """Neighbouring frames of one job that the server sends as one file."""

    job: int
    index: int
    """Position among the job's chunks, from 0."""
    start: int
    """Number of its first frame."""
    length: int
    """Number of frames in it, deleted ones included."""
    numbers: tuple[int, ...]
    """Numbers of the frames in use that are read from it. Where jobs overlap, a frame is read from
    one chunk only."""


@dataclass(frozen=True)
class TaskMedia:
    """What the server says of a task's frames.

    Frame numbers are those of the task, from 0, as in shapes, jobs and issues. They do not depend
    on the first frame and the frame step that the task takes from its source.
    """

    task: int
    kind: Literal["images", "video"]
    """What a chunk is: a zip of images, or an H.264 film."""
    size: Size
    numbers: tuple[int, ...]
    """Numbers of the frames in use, ascending."""
    deleted: frozenset[int]
    """Numbers of the frames that people have deleted, whether in use or not."""
    chunks: tuple[Chunk, ...]
    """In order of time, without the chunks that hold no frame in use."""
    chunks_updated: str
    """When the content of the chunks last changed, as the server wrote it."""
    files: tuple[str, ...] = ()
    """Names of the images as they were uploaded, of those in use; empty for a video."""

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each frame in use, made of its number: `frame_000012`."""
        return tuple(f"frame_{number:06d}" for number in self.numbers)

    def position(self, number: int) -> int | None:
        """Position in `numbers`; None for a frame that is not in use or does not exist."""
        at = bisect.bisect_left(self.numbers, number)
        return at if at < len(self.numbers) and self.numbers[at] == number else None


def read_media(client: CvatClient, row: Json, in_use: Sequence[int] | None = None) -> TaskMedia:
    """The frames of a task, `row` being the server's description of it.

    `in_use` are the numbers of the frames in use, deleted or not; by default all that are not
    deleted now.

    `MediaError` if the task holds no 2-D frames of one size, `NotFound` if its jobs are not listed.
    """
    task: int = row["id"]
    kind = row.get("media_type") or "image"
    # CVAT 2.73 leaves the dimension empty while a task has no data
    if kind != "image" or (row.get("dimension") or "2d") != "2d":
        what = "audio" if kind == "audio" else "point clouds"
        raise MediaError(f"task {task} holds {what}; choose a task of images or of a 2-D video")
    if not row.get("size") or not row.get("mode") or (row.get("jobs") or {}).get("count") == 0:
        raise _without_frames(client, task)
    if row.get("validation_mode") == "gt_pool":
        raise MediaError(
            f"task {task} mixes honeypots into its jobs, so its frames are in no order of time; "
            "make a task without honeypots"
        )
    meta: Json = client.get(f"tasks/{task}/data/meta")
    _check_frames(task, meta, in_use or ())
    deleted = frozenset(meta["deleted_frames"])
    numbers = tuple(in_use or (n for n in range(meta["size"]) if n not in deleted))
    if not numbers:
        raise MediaError(f"all frames of task {task} are deleted; restore some of them in CVAT")
    return TaskMedia(
        task=task,
        kind="video" if row["data_original_chunk_type"] == "video" else "images",
        size=_common_size(task, meta["frames"], numbers),
        numbers=numbers,
        deleted=deleted,
        chunks=_chunks(client, task, numbers, meta["chunk_size"]),
        chunks_updated=meta["chunks_updated_date"],
        files=_file_names(meta["frames"], numbers),
    )


def _check_frames(task: int, meta: Json, in_use: Sequence[int]) -> None:
    """`MediaError` where what is said of the frames cannot be true together."""
    length, described = meta["size"], len(meta["frames"])
    if described not in (1, length) or max(in_use, default=0) >= length:
        raise MediaError(
            f"task {task} has {length} frames and the server describes {described}"
            + (f"; it was enrolled with {max(in_use) + 1}" if in_use else "")
            + "; make the task anew"
        )


def _file_names(frames: Sequence[Json], numbers: Sequence[int]) -> tuple[str, ...]:
    """For a video the server describes one frame, under the name of the film."""
    return tuple(frames[number]["name"] for number in numbers) if len(frames) > 1 else ()


def missing_task(address: Address, task: int) -> NotFound:
    """The error of a task that is not in our organisation or personal space.

    CVAT lets an account read a task from any organisation, but lists its jobs only in its own.
    """
    return NotFound(
        f"{address.url} has no task {task} in {address.space}; check the number, and set the "
        "organisation that the task belongs to"
    )


def _chunks(
    client: CvatClient, task: int, numbers: Sequence[int], chunk_size: int
) -> tuple[Chunk, ...]:
    """The chunks of the task's jobs.

    The chunks of the task itself are not used: the server makes them from the chunks of the jobs,
    which compresses a film a second time, takes longer and changes the pixels.
    """
    jobs = [job for job in client.rows("jobs", task_id=task) if job["type"] == "annotation"]
    if not jobs:
        raise missing_task(client.address, task)
    unread = set(numbers)
    chunks = []
    for job in sorted(jobs, key=lambda job: (job["start_frame"], job["id"])):
        stop = job["stop_frame"] + 1
        for index, start in enumerate(range(job["start_frame"], stop, chunk_size)):
            length = min(chunk_size, stop - start)
            served = tuple(number for number in range(start, start + length) if number in unread)
            if served:
                chunks.append(Chunk(job["id"], index, start, length, served))
                unread.difference_update(served)
    if unread:
        raise MediaError(f"frame {min(unread)} of task {task} is in no job; make the task anew")
    return tuple(chunks)


def _without_frames(client: CvatClient, task: int) -> MediaError:
    """Why a task has no frames, according to its import."""
    request: Json = {}
    # The server forgets an import after some minutes, and shows it only to who began it.
    with suppress(NotFound, Forbidden):
        name = quote(f"action=create&target=task&target_id={task}", safe="")
        request = client.get(f"requests/{name}")
    # An import that is finished by now was not when the task was read.
    if request.get("status") in ("queued", "started", "finished"):
        return MediaError(f"task {task} is still importing its frames; try again in a while")
    if request.get("status") == "failed":
        reason = (str(request.get("message") or "").strip().splitlines() or ["no reason given"])[-1]
        return MediaError(f"the import of task {task} failed ({reason}); delete it, make it anew")
    return MediaError(f"task {task} has no frames; upload images or a video to it in CVAT")


def _common_size(task: int, frames: Sequence[Json], numbers: Sequence[int]) -> Size:
    """The size of the frames in use. For a video the server describes one frame for all."""
    if len(frames) == 1:
        return frames[0]["height"], frames[0]["width"]
    first = frames[numbers[0]]
    for number in numbers:
        other = frames[number]
        if (other["height"], other["width"]) != (first["height"], first["width"]):
            raise MediaError(
                f"frame {number} of task {task} ({other['name']}) is "
                f"{other['width']}x{other['height']} but frame {numbers[0]} is "
                f"{first['width']}x{first['height']}; all frames must have one size, so delete "
                "the others in CVAT"
            )
    return first["height"], first["width"]
