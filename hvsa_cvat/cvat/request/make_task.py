"""Making a child task: its frames as files, its upload, and looking at what came of it."""

from __future__ import annotations

import shutil
from itertools import groupby
from pathlib import Path

from PIL import Image as PillowImage

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.errors import Uncertain
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.child_task import ChildTask
from hvsa_cvat.cvat.request.find_task import find_by_key, find_whole
from hvsa_cvat.cvat.request.paint import paint_card
from hvsa_cvat.errors import ServerError
from hvsa_cvat.files import atomic_directory
from hvsa_cvat.ports import FrameSource, Progress

_ATTEMPTS = 3
"""How often the task is made if nobody knows whether it was."""


def find_or_make(
    connection: TaskConnection, wanted: ChildTask, frames: FrameSource
) -> tuple[int, list[Json]]:
    """The number of the child task and its jobs in order; it is made if it is not there."""
    folder = connection.state.folder / "upload"
    doubt: Uncertain | None = None
    try:
        for _ in range(_ATTEMPTS):
            found = find_whole(connection, wanted)
            if found is not None:
                return found
            _write_files(wanted, frames, folder, connection.progress)
            try:
                _make(connection, wanted, folder)
            except Uncertain as error:
                connection.log(f"{error}; making it anew")
                doubt = error
        found = find_whole(connection, wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if found is None:
        raise doubt or ServerError(
            f"{connection.client.address.url} makes other jobs or frames of the child task "
            f"{wanted.name!r} than it was told; check the server's version with `hvsa-agent doctor`"
        )
    return found


def _write_files(wanted: ChildTask, frames: FrameSource, folder: Path, progress: Progress) -> None:
    """The pictures of the child task as lossless files; frames are read in order of time."""
    plan = wanted.plan
    masked = {part.card for part in plan.parts}
    in_time = sorted(range(len(plan.cards)), key=lambda i: plan.cards[i].sample)
    with atomic_directory(folder) as fresh:
        done = 0
        for frame, group in groupby(in_time, key=lambda i: plan.cards[i].sample.frame):
            image = frames[frame]
            for i in group:
                asked = plan.contents[i].array != 0
                picture = paint_card(image, plan.cards[i], asked, masked=i in masked)
                PillowImage.fromarray(picture).save(fresh / wanted.files[i], compress_level=1)
                done += 1
                progress("writing pictures", done, len(in_time))


def _make(connection: TaskConnection, wanted: ChildTask, folder: Path) -> None:
    client = connection.client
    content = {"name": wanted.name, "project_id": wanted.project.id, "bug_tracker": wanted.key}

    def find() -> Json | None:
        return next(iter(find_by_key(client, wanted.key)), None)

    made = client.create("tasks", content, find)
    jobs = [list(wanted.files[share.start : share.stop + 1]) for share in wanted.plan.shares]
    # at a lower quality people would see the frames smeared by JPEG
    data = {"image_quality": 100, "job_file_mapping": jobs}
    paths = [folder / name for name in wanted.files]
    client.upload(made["id"], paths, data, connection.progress, "uploading pictures")
