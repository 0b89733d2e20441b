"""Dense masks into a task: ours, beside the SDK's typed models in one request, as it has it.

    python -m benchmarks.publishing                         # the stand-in of tests/, own process
    CVAT_HOST=http://... CVAT_ACCESS_TOKEN=... python -m benchmarks.publishing

Both get the same smooth label maps, in tasks of black frames that are made before and deleted
after. Typed: a model for each mask, then one request, as `annotate_task` does; the time of the
SDK's encoder is reported separately. Ours is everything that a round takes: reading, encoding, the
ledger, requests, checks. Then the round is replaced by another one, published again, withdrawn.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import click
import cv2
import numpy as np
from cvat_sdk import make_client, models
from cvat_sdk.masks import encode_mask
from PIL import Image as PillowImage

from hvsa_cvat.config import parse_size
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.masks.options import PublishOptions
from hvsa_cvat.cvat.masks.publish import Outcome, publish
from hvsa_cvat.cvat.masks.retract import retract
from hvsa_cvat.cvat.state import State
from hvsa_cvat.cvat.task import WatchedTask, read_task
from hvsa_cvat.ports import silent
from hvsa_cvat.types import LabelMap, Size
from tests.standin import StandIn

_GRAIN = 48
"""Pixels from one sample of the noise to the next; patches are about as large."""


class Scene:
    """Label maps of patches that change slowly; made when asked for."""

    def __init__(self, size: Size, classes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        height, width = size
        shape = (2, classes, height // _GRAIN + 2, width // _GRAIN + 2)
        self._size = size
        self._now, self._later = rng.standard_normal(shape).astype(np.float32)

    def __getitem__(self, frame: int) -> LabelMap:
        angle = frame / 30
        coarse = np.cos(angle) * self._now + np.sin(angle) * self._later
        height, width = self._size
        fine = [cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in coarse]
        return np.argmax(fine, axis=0).astype(np.uint8)


@dataclass(frozen=True)
class Server:
    """Where to publish, and the tasks that are there for it."""

    host: str
    token: str

    @contextmanager
    def task(self, frames: int, size: Size, classes: int) -> Iterator[tuple[CvatClient, int]]:
        labels = [{"name": f"class {index:02}", "type": "mask"} for index in range(classes)]
        with (
            CvatClient(Address(self.host), Credentials(self.token)) as client,
            tempfile.TemporaryDirectory() as folder,
        ):
            body = {"name": "HVSA benchmark of publishing", "labels": labels}
            task = client.send("POST", "tasks", body)["id"]
            try:
                pictures = []
                for frame in range(frames):
                    pictures.append(Path(folder) / f"{frame:06}.png")
                    PillowImage.new("L", (size[1], size[0])).save(pictures[-1])
                client.upload(task, pictures, {"image_quality": 70}, silent, "upload")
                yield client, task
            finally:
                client.change("DELETE", f"tasks/{task}")


class Ours:
    """One watched task."""

    def __init__(self, client: CvatClient, task: int, folder: Path) -> None:
        self._client = client
        self._state = State(folder)
        self._task: WatchedTask = read_task(client, task)

    def publish(self, round_number: int, scene: Sequence[LabelMap] | Scene) -> Outcome:
        frames = range(len(self._task.media.numbers))
        connection = TaskConnection(
            self._client,
            self._state,
            self._task,
            click.echo,
            silent,
            partial(datetime.now, UTC),
        )
        label_maps = ((frame, scene[frame]) for frame in frames)
        return publish(connection, round_number, label_maps, PublishOptions())

    def retract(self) -> None:
        retract(
            self._client,
            self._state,
            self._task.id,
            self._task.label_ids,
            PublishOptions(),
            now=partial(datetime.now, UTC),
            log=click.echo,
        )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def typed(server: Server, task: int, maps: Sequence[LabelMap]) -> tuple[float, float, float]:
    """Seconds of encoding, of building the models, of the request."""
    with make_client(server.host, access_token=server.token) as client:
        labels = {
            int(label.name.split()[1]): label.id
            for label in client.tasks.retrieve(task).get_labels()
        }
        masks: list[tuple[int, int, list[float]]] = []

        def encode() -> None:
            for frame, label_map in enumerate(maps):
                for index in np.unique(label_map).tolist():
                    masks.append((frame, labels[index], encode_mask(label_map == index)))

        shapes: list[models.LabeledShapeRequest] = []

        def build() -> None:
            for frame, label, points in masks:
                shapes.append(
                    models.LabeledShapeRequest(
                        type="mask", frame=frame, label_id=label, points=points, source="auto"
                    )
                )

        def send() -> None:
            client.tasks.api.partial_update_annotations(
                "create",
                task,
                patched_labeled_data_request=models.PatchedLabeledDataRequest(shapes=shapes),
            )

        return seconds(encode), seconds(build), seconds(send)


def peak_of_publishing(server: Server, frames: int, size: Size, classes: int) -> float:
    """MiB of Python's memory at the peak of replacing a round."""
    with (
        tempfile.TemporaryDirectory() as folder,
        server.task(frames, size, classes) as (client, task),
    ):
        ours = Ours(client, task, Path(folder))
        ours.publish(1, Scene(size, classes, seed=1))
        tracemalloc.start()
        ours.publish(2, Scene(size, classes, seed=2))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak / 2**20


@contextmanager
def some_server() -> Iterator[Server]:
    """The one of the environment, or a stand-in whose work does not count as ours."""
    if host := os.environ.get("CVAT_HOST"):
        yield Server(host, os.environ["CVAT_ACCESS_TOKEN"])
        return
    mine, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=stand_in, args=(its,))
    process.start()
    yield mine.recv()
    mine.send("end")
    process.join()


def stand_in(pipe: Connection) -> None:
    with StandIn() as cvat:
        pipe.send(Server(cvat.url, cvat.admin.token))
        pipe.recv()


@click.command()
@click.option("--frames", default=300, show_default=True)
@click.option("--size", "text", default="240x320", show_default=True)
@click.option("--classes", default=14, show_default=True)
@click.option("--memory", is_flag=True, help="Peak memory for as many frames, and four times less.")
def main(frames: int, text: str, classes: int, memory: bool) -> None:
    size = parse_size(text)
    scenes = [Scene(size, classes, seed) for seed in (1, 2)]
    maps, other = ([scene[frame] for frame in range(frames)] for scene in scenes)
    with some_server() as server, tempfile.TemporaryDirectory() as folder:
        if memory:
            for count in (max(1, frames // 4), frames):
                peak = peak_of_publishing(server, count, size, classes)
                click.echo(f"{count:>5} frames: {peak:.1f} MiB at the peak")
            return
        with server.task(frames, size, classes) as (_, task):
            encoding, building, sending = typed(server, task, maps)
        with server.task(frames, size, classes) as (client, task):
            ours = Ours(client, task, Path(folder))
            first = seconds(lambda: ours.publish(1, maps))
            replacing = seconds(lambda: ours.publish(2, other))
            again = seconds(lambda: ours.publish(2, other))
            withdrawing = seconds(ours.retract)
    masks = sum(len(np.unique(one)) for one in maps)
    click.echo(f"{masks} masks on {frames} frames of {size[1]}x{size[0]}, seconds")
    total = building + sending
    click.echo(f"typed: {total:6.2f}   (models {building:.2f}, request {sending:.2f})")
    click.echo(f"       {encoding:6.2f}   the SDK's encoder, before that")
    click.echo(f"ours:  {first:6.2f}   {total / first:.1f} times faster, encoding included")
    click.echo(f"       {replacing:6.2f}   in place of the round before")
    click.echo(f"       {again:6.2f}   the same round again")
    click.echo(f"       {withdrawing:6.2f}   withdrawn")


if __name__ == "__main__":
    main()
