"""What a round takes of memory and disk, phase by phase, beside what is told before it starts.

    python -m benchmarks.memory
    python -m benchmarks.memory --frames 3000 --frame-size 1080x1920 --size 192x256 \\
        --method paper --rectangle 216x320 --steps 20

The demo's clip, there and back, enlarged. `anonymous` is what the system cannot drop (RssAnon of
/proc/self/status, read ten times a second), `resident` has the pages of mapped files too, which it
can; `bound` is what is told before. Training ends after --steps of its first epoch, since later
steps take what the first ones do. With --predicted only that many frames are predicted: the film
repeats every 118 frames, and so do the masks and features that stand for the others.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import get_args

import click
import cv2
import numpy as np

from hvsa_cvat.annotation.clicks import AnnotationRules
from hvsa_cvat.config import Method, RunConfig, parse_size
from hvsa_cvat.ports import FrameSource
from hvsa_cvat.segmentation.checkpoint import read_info
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.session.advance import advance
from hvsa_cvat.session.context import RunContext, RunInputs
from hvsa_cvat.session.demand import demand_of
from hvsa_cvat.session.machine import this_machine
from hvsa_cvat.session.memory import Bounds, check_fits
from hvsa_cvat.session.prepare import prepare
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.simulation.annotator import SimulatedServer
from hvsa_cvat.simulation.datasets import LabelMaps, open_labels
from hvsa_cvat.types import Image, LabelMap, LabelSet, Size
from hvsa_cvat.video.flow_estimators import choose_flow
from hvsa_cvat.video.frames import open_frames

MIB = 2**20


class EnoughSteps(Exception):
    """Ends a training whose first steps have been seen."""


@dataclass(frozen=True)
class Film:
    """A clip there and back, enlarged: frames and truth of any length and size."""

    clip: FrameSource
    labels: LabelMaps
    length: int
    size: Size

    @property
    def names(self) -> list[str]:
        return [f"{frame:06d}" for frame in range(self.length)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, frame: int) -> Image:
        return np.asarray(cv2.resize(self.clip[self._in_clip(frame)], self.size[::-1]), np.uint8)

    def truth(self, frame: int) -> LabelMap:
        truth = self.labels[self._in_clip(frame)]
        scaled = cv2.resize(truth, self.size[::-1], interpolation=cv2.INTER_NEAREST)
        return np.asarray(scaled, np.uint8)

    def before(self, frame: int, earlier: int) -> int:
        """A frame before `earlier` that shows the same as `frame`."""
        period = 2 * len(self.clip) - 2
        if earlier < period:
            raise click.UsageError(f"--predicted must be at least {period}")
        return frame % period

    def _in_clip(self, frame: int) -> int:
        period = 2 * len(self.clip) - 2
        return min(frame % period, period - frame % period)


@dataclass(frozen=True)
class Truths:
    film: Film

    def __len__(self) -> int:
        return len(self.film)

    def __getitem__(self, frame: int, /) -> LabelMap:
        return self.film.truth(frame)


class Annotator(SimulatedServer):
    """Shows no masks: that goes one by one, and takes long."""

    def publish(self, round_number: int, label_maps: Iterable[tuple[int, LabelMap]]) -> None:
        pass


@dataclass
class Meter:
    """Peaks of this process' memory since the last `lap`, in bytes."""

    bounds: Bounds
    peaks: dict[str, int] = field(default_factory=dict)
    """By what was done: anonymous."""
    _samples: list[tuple[int, int]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                self._samples.append(own_memory())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def lap(self, what: str) -> None:
        samples = [*self._samples, own_memory()]
        self._samples.clear()
        first = samples[: max(1, len(samples) // 10)]
        self.peaks[what] = max(anonymous for anonymous, _ in samples)
        shown = (
            self.peaks[what],
            max(anonymous for anonymous, _ in first),
            self.bound(what),
            max(resident for _, resident in samples),
        )
        print(f"| {what} | {' | '.join(f'{value / MIB:.0f}' for value in shown)} |", flush=True)

    def bound(self, what: str) -> int:
        """Of what was done, with the program."""
        name = what.rpartition(" ")[2]
        part = _PART.get(name, name)
        return self.bounds.program + self.bounds.host.get(part, 0)


_PART = {
    "carrying": "flow",
    "request": "annotate",
    "publish": "annotate",
    "finetune": "fine-tune",
}
"""Names of the bounds' parts, where they are others than of the phases."""


def own_memory() -> tuple[int, int]:
    """Bytes of this process that are anonymous, and all that are resident."""
    status = Path("/proc/self/status").read_text()
    found = dict(re.findall(r"^(RssAnon|VmRSS):\s+(\d+) kB", status, re.MULTILINE))
    return int(found["RssAnon"]) * 1024, int(found["VmRSS"]) * 1024


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@click.command()
@click.option("--frames", "length", default=60, show_default=True)
@click.option("--frame-size", default="360x640", show_default=True, help="HEIGHTxWIDTH")
@click.option("--size", default="96x160", show_default=True, help="HEIGHTxWIDTH of the network.")
@click.option("--method", type=click.Choice(get_args(Method)), default="hvsa", show_default=True)
@click.option("--rectangle", default="72x106", show_default=True, help="HEIGHTxWIDTH of a sample.")
@click.option("--budget", default=0.05, show_default=True, help="Share of all clicks.")
@click.option("--steps", default=20, show_default=True, help="Of training.")
@click.option("--predicted", type=int, help="Frames that are predicted; default: all.")
@click.option("--device", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Default: a temporary folder.")
def main(
    length: int,
    frame_size: str,
    size: str,
    method: Method,
    rectangle: str,
    budget: float,
    steps: int,
    predicted: int | None,
    device: str,
    out: Path | None,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        measure(
            length,
            parse_size(frame_size),
            RunConfig(
                method=method,
                granularity=f"rectangle:{rectangle}",
                budgets=(budget,),
                size=parse_size(size),
            ),
            steps,
            predicted or length,
            device,
            out or Path(temporary),
        )


def measure(
    length: int,
    frame_size: Size,
    config: RunConfig,
    steps: int,
    predicted: int,
    device: str,
    out: Path,
) -> Meter:
    """A first round, told line by line; `out` holds what it leaves."""
    data = Path(str(files("hvsa_cvat") / "data" / "demo"))
    labels = LabelSet(tuple((data / "classes.txt").read_text().splitlines()))
    clip = open_frames(data / "images")
    film = Film(clip, open_labels(data / "labels", clip, labels), length, frame_size)
    chosen = choose_device(device)
    estimator, _ = choose_flow("auto", chosen.type, None)
    checkpoint = data / "pretrained.safetensors"
    network = read_info(checkpoint).network
    demand = demand_of(film.names, frame_size, len(labels), network, config, estimator.name, chosen)
    meter = Meter(check_fits(demand, this_machine(out, chosen)))
    print(f"Takes {meter.bounds}.\n")
    print("| MiB | anonymous | after a tenth | bound | resident |")
    print("| --- | ---: | ---: | ---: | ---: |")

    def progress(step: str, done: int, total: int) -> None:
        if step == "train" and done >= steps:
            raise EnoughSteps

    inputs = RunInputs(film, labels, config, checkpoint, estimator, chosen)
    with Store(out) as store, meter.running():
        context = prepare(inputs, store, full_clicks=None, progress=progress, done=meter.lap)
        server = Annotator(film, Truths(film), AnnotationRules(), store.path("annotator"))
        session = Session("memory", "clip", labels, {}, 1)
        store.create(session)
        while not session.done:
            number, phase = session.current.number, session.current.phase
            first = replace(context, frames=context.frames[:predicted])
            at_work = first if phase is Phase.PREDICT else context
            try:
                moved = advance(session, server, store, partial(_given, at_work), time.perf_counter)
            except EnoughSteps:
                moved = session.finish_phase(phase, 0.0)
                store.save(moved)
            assert moved is not None
            session = moved
            meter.lap(f"round {number}: {phase}")
            if phase is Phase.PREDICT:
                _repeat(store, number, film, predicted)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"\nOn disk {size / MIB:.0f} MiB, bound {meter.bounds.disk_bytes / MIB:.0f} MiB.")
    return meter


def _given(context: RunContext) -> RunContext:
    return context


def _repeat(store: Store, number: int, film: Film, predicted: int) -> None:
    """Let masks and scores of the predicted frames stand for the later ones."""
    if predicted == len(film):
        return
    names = film.names
    scores = store.round(number).scores()
    rows = {frame: np.flatnonzero(scores.frames == frame) for frame in range(predicted)}
    like = [
        frame if frame < predicted else film.before(frame, predicted) for frame in range(len(film))
    ]
    taken = np.concatenate([rows[frame] for frame in like])
    frames = np.repeat(np.arange(len(film), dtype=np.int32), [len(rows[frame]) for frame in like])
    store.round(number).save_scores(replace(scores.take(taken), frames=frames))
    for kind in ("label_maps", "certainty", "origins"):
        folder = store.path("rounds", number, kind)
        for frame in range(predicted, len(film)):
            (folder / f"{names[frame]}.png").hardlink_to(folder / f"{names[like[frame]]}.png")


if __name__ == "__main__":
    main()
