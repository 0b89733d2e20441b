"""Several experiments at once, each in a process of its own with one thread."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import torch

from hvsa_cvat.simulation.experiment import Experiment, run_experiment
from hvsa_cvat.simulation.scores import RoundMetrics


@dataclass(frozen=True)
class Job:
    """One experiment; `make` is called in the process that runs it, so it can be pickled."""

    name: str
    make: Callable[[], Experiment]
    folder: Path
    """Where it runs; one that was stopped goes on there."""

    def run(self) -> None:
        run_experiment(
            self.make(),
            self.folder,
            clock=time.perf_counter,
            progress=lambda what, done, total: None,
            tell=self._tell,
        )

    def _tell(self, metrics: RoundMetrics) -> None:
        found = f"{metrics.clicks_percent:.1f} % of clicks: mIoU {100 * (metrics.miou or 0):.1f}"
        click.echo(f"{self.name}: {found}", err=True)


def run_all(jobs: Sequence[Job], at_once: int) -> None:
    """Run `jobs` in their order, `at_once` side by side. The first mistake ends it."""
    if at_once == 1:
        for job in jobs:
            job.run()
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=spawn, initializer=_one_thread) as pool:
        for future in [pool.submit(job.run) for job in jobs]:
            future.result()


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
