"""The pictures of docs/dashboard.md: the dashboard on tasks of the demo's clip.

    python -m tools.dashboard_pictures --out docs/img

Enrolls four tasks on the stand-in of CVAT, lets people who know the truth answer some rounds, and
takes the pictures with Debian's Chromium (`apt-get install chromium`). Labels are propagated and no
network is trained, so that it takes minutes.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image as PillowImage
from playwright.sync_api import Page, sync_playwright

from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.settings import load_local_settings
from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.dashboard.app import application
from hvsa_cvat.dashboard.serve import http_server
from hvsa_cvat.dashboard.site import Site, SiteOptions
from hvsa_cvat.report.pictures import class_colours
from hvsa_cvat.report.report import css
from hvsa_cvat.simulation.datasets import open_labels
from hvsa_cvat.types import LabelMap, LabelSet
from hvsa_cvat.video.frames import open_frames
from tests.people import answer_job, open_jobs
from tests.standin import StandIn
from tests.team import Team, only

_SHOWN_ADDRESS = "cvat.example.com"
"""In place of the stand-in's, which is another one each time."""
_WIDTH = 1280
_SMALL = 960
"""Pixels of width of pictures with frames in them."""
_STEP = 2
"""Of the clip every second frame is used."""

_REMOVED = """names => {
  for (const name of names) for (const one of document.querySelectorAll(name)) one.remove();
}"""


class Clip:
    """The demo's clip, and its truth."""

    def __init__(self) -> None:
        folder = Path(str(files("hvsa_cvat") / "data" / "demo"))
        self.labels: LabelSet = read_classes(str(folder / "classes.txt"))
        frames = open_frames(folder / "images")
        self.frames = [frames[at] for at in range(0, len(frames), _STEP)]
        self.checkpoint = folder / "pretrained.safetensors"
        self._truth = open_labels(folder / "labels", frames, self.labels)

    def truth(self, frame: int) -> LabelMap:
        return self._truth[_STEP * frame]


class Office(Team):
    """A team whose agent goes by the clock of this machine."""

    now = property(lambda self: time.time(), lambda self, value: None)


def fill(cvat: StandIn, root: Path, clip: Clip) -> None:
    """Tasks 2 to 5: one with all rounds done and a target, one in round 2, one in round 1, one
    that no pass has met."""
    team = Office(cvat, root, clip.checkpoint)
    agent = team.agent()
    # the walls, the largest class, in grey
    colours = [css(colour) for colour in np.roll(class_colours(len(clip.labels)), 4, axis=0)]
    labels = [{"name": n, "color": c} for n, c in zip(clip.labels, colours, strict=True)]
    rooms = cvat.add_project("Rooms", labels)

    def add(name: str, **more: Any) -> int:
        project = None if name == "Workshop" else rooms
        own = labels if project is None else []
        task: int = cvat.add_task(name, own, clip.frames, project=project).id
        options = {
            **team.options,
            "granularity": "rectangle:24",
            "size": "144x192",
            "picture_side": 700,
            "budget": "6%",
            "rounds": 3,
            "answers": "draw",
            "epsilon": 0,
            **more,
        }
        enroll(agent, task, options)
        return task

    def passed(task: int) -> None:
        assert only(sync(agent, task)).error is None

    def answered(task: int, most: int | None = None) -> None:
        jobs = open_jobs(cvat)
        for job in jobs[:most]:
            person = cvat.job(job).assignee
            assert person is not None
            answer_job(cvat, cvat.person(person.username), job, clip.truth, list(clip.labels))
        passed(task)

    done = add("Kitchen, morning", budget="18%", rounds=2, audit=2, target="85%")
    passed(done)
    for _ in range(3):  # two rounds and the audit
        answered(done)
    second = add("Corridor B2 and stairs", budget="12%", seed=1)
    passed(second)
    answered(second)
    answered(second, most=1)
    passed(add("Living room", budget="6%", annotators=["bob"], seed=2))
    add("Workshop")


@contextmanager
def served(workspace: Path, url: str) -> Iterator[str]:
    settings = load_local_settings(None, {"CVAT_HOST": url}, workspace=workspace)
    site = Site(settings, SiteOptions(patience=60), time.time)
    server = http_server(application(site))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()
    site.close()


def take(page: Page, address: str, out: Path, height: int, removed: tuple[str, ...] = ()) -> None:
    """A picture of the upper `height` pixels of a page without those parts."""
    page.set_viewport_size({"width": _WIDTH, "height": height})
    page.goto(address)
    while page.locator('meta[http-equiv="refresh"]').count():
        time.sleep(1)
    page.evaluate(_REMOVED, ["footer", *removed])
    page.evaluate("text => document.querySelector('.server a').textContent = text", _SHOWN_ADDRESS)
    page.wait_for_load_state("networkidle")
    shot = PillowImage.open(io.BytesIO(page.screenshot())).convert("RGB")
    colours = PillowImage.Quantize.MAXCOVERAGE  # keeps rare ones, such as those of classes
    if page.locator("img").count():  # frames of a video make files large
        shot = shot.resize((_SMALL, height * _SMALL // _WIDTH), PillowImage.Resampling.LANCZOS)
        colours = PillowImage.Quantize.MEDIANCUT
    shot = shot.quantize(256, colours, kmeans=1, dither=PillowImage.Dither.NONE)
    shot.save(out, optimize=True)
    click.echo(f"{out}: {out.stat().st_size / 1024:.0f} KiB")


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, StandIn() as cvat:
        fill(cvat, Path(scratch), Clip())
        take_all(Path(scratch) / "workspace", cvat.url, out)


def take_all(workspace: Path, url: str, out: Path) -> None:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with served(workspace, url) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        page = browser.new_page(viewport={"width": _WIDTH, "height": 900}, color_scheme="light")
        others = tuple(f"[aria-labelledby={part}]" for part in ("jobs", "rounds", "frames"))
        take(page, f"{address}/tasks/2", out / "dashboard_task.png", 1960, others)
        take(page, f"{address}/tasks/2/frames/10", out / "dashboard_frame.png", 940)
        take(page, f"{address}/tasks/2/review", out / "dashboard_review.png", 820)
        take(page, f"{address}/", out / "dashboard_tasks.png", 650)
        browser.close()


if __name__ == "__main__":
    main()
