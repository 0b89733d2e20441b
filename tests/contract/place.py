"""The server under test, what the suite makes on it, and the pictures that it sends."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.errors import NotFound
from hvsa_cvat.ports import silent

Json = dict[str, Any]

UNSET = "__undefined__"
LABELS: list[Json] = [
    {"name": "road", "color": "#804080", "type": "any", "attributes": []},
    {"name": "sky", "color": "#4682b4", "type": "mask", "attributes": []},
    {
        "name": "line",
        "color": "#ffffff",
        "type": "polyline",
        "attributes": [
            {
                "name": "class",
                "mutable": False,
                "input_type": "select",
                "default_value": UNSET,
                "values": [UNSET, "sky", "road"],
            }
        ],
    },
    {"name": "to check", "color": "#ff0000", "type": "tag", "attributes": []},
]


@dataclass(frozen=True)
class Place:
    """A server, and who may ask it."""

    address: Address
    agent: Credentials
    password: Credentials | None
    """Of the agent, too: a session in place of a token."""
    worker: Credentials | None
    """Somebody whom the agent may assign; without one, what workers may do is not tested."""
    listener: str
    """Host name or address under which the server finds this machine."""

    def client(self, credentials: Credentials | None = None) -> CvatClient:
        return CvatClient(self.address, credentials or self.agent)


def picture(number: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    """RGB (H, W, 3); smooth, every number another grey, so that video keeps them apart."""
    image = np.full((height, width, 3), 20 + 5 * number, np.uint8)
    image[: height // 2, : width // 2] += 10
    return image


def write_pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"p{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(picture(number)).save(path)
    return paths


def write_video(path: Path, count: int, height: int, width: int) -> Path:
    """Sizes must be even, as the codec wants them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "4"}
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class Own:
    """Makes objects under a name of its own, and removes them: no others."""

    def __init__(self, client: CvatClient, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.name = f"hvsa-contract-{secrets.token_hex(4)}"
        self.made: list[str] = []
        self.before = {path: self.ids(path) for path in ("projects", "tasks")}

    def ids(self, path: str) -> set[int]:
        """Of all that belongs to the account."""
        return {row["id"] for row in self.client.rows(path, owner=self.client.me()["username"])}

    def create(self, path: str, **body: Any) -> Json:
        row: Json = self.client.send("POST", path, body)
        self.made.append(f"{path}/{row['id']}")
        return row

    def project(self, title: str = "project", **fields: Any) -> Json:
        return self.create(
            "projects", **{"name": f"{self.name} {title}", "labels": LABELS} | fields
        )

    def empty_task(self, title: str = "task", **fields: Any) -> Json:
        """A task that has no data yet."""
        if "project_id" not in fields:
            fields = {"labels": LABELS} | fields
        return self.create("tasks", name=f"{self.name} {title}", **fields)

    def upload(self, task: Json, files: Sequence[Path], data: Json) -> None:
        self.client.upload(task["id"], files, {"image_quality": 95} | data, silent, "upload")

    def task(self, files: Sequence[Path], data: Json | None = None, **fields: Any) -> Json:
        task = self.empty_task(**fields)
        self.upload(task, files, data or {})
        row: Json = self.client.get(f"tasks/{task['id']}")
        return row

    def images(self, jobs: Sequence[Sequence[int]], **fields: Any) -> Json:
        """A task of pictures, one job an inner list of picture numbers."""
        count = 1 + max(max(job) for job in jobs)
        files = write_pictures(self.folder, count)
        mapping = [[files[number].name for number in job] for job in jobs]
        sent = [file for file in files if any(file.name in job for job in mapping)]
        return self.task(sent, {"job_file_mapping": mapping}, **fields)

    def remove(self) -> None:
        """Newest first, so that a project goes after its tasks."""
        for path in reversed(self.made):
            with suppress(NotFound):
                self.client.change("DELETE", path, None)

    def check(self) -> None:
        """Nothing of ours is left, and nothing else of the account is gone."""
        for path in ("projects", "tasks"):
            left = [row["name"] for row in self.client.rows(path) if self.name in row["name"]]
            assert left == [], f"the suite left {path} behind"
            gone = self.before[path] - self.ids(path)
            assert not gone, f"{path} {sorted(gone)} vanished while the suite ran"


def jobs_of(client: CvatClient, task: Json) -> list[Json]:
    """In the order of their frames."""
    return sorted(client.rows("jobs", task_id=task["id"]), key=lambda job: int(job["start_frame"]))


def desk(own: Own) -> Iterator[Json]:
    """Jobs of two frames each that nobody has used yet; sixteen a task, to keep it quick."""
    while True:
        task = own.images([(2 * n, 2 * n + 1) for n in range(16)], title="desk")
        yield from jobs_of(own.client, task)
