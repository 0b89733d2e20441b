"""The paper's experiment: the whole loop on a video whose truth is known, scored every round."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvsa_cvat import __version__
from hvsa_cvat.budgets import BudgetUnit
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import Progress
from hvsa_cvat.rates import Rate
from hvsa_cvat.report import write_report
from hvsa_cvat.session.advance import advance
from hvsa_cvat.session.context import Clock, RunContext, RunInputs
from hvsa_cvat.session.effort import people_time
from hvsa_cvat.session.prepare import prepare
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.simulation.annotator import SimulatedServer
from hvsa_cvat.simulation.datasets import LabelMaps, check_labels
from hvsa_cvat.simulation.pages import run_report
from hvsa_cvat.simulation.scores import RoundMetrics, RunMetrics, round_metrics
from hvsa_cvat.video.segments import build_segments, granularity_by_round

_DEFAULTS = {
    "answers": "draw",
    "tolerance": None,
    "freeze": "auto",
    "budget_unit": BudgetUnit.CLICKS,
    "target": None,
    "planted": 0.0,
    "confirmed_weight": 1.0,
}
"""Of the settings that are newer than version 0.1."""

_NO_FEATURES = np.empty((0, 0, 0), np.float32)


@dataclass(frozen=True)
class Experiment:
    """A video with its truth, and how to run the loop on it."""

    video: str
    """What the video is called in the report."""
    truths: LabelMaps
    inputs: RunInputs


def run_experiment(
    experiment: Experiment,
    out: Path,
    *,
    clock: Clock,
    progress: Progress,
    tell: Callable[[RoundMetrics], None],
    rate: Rate | None = None,
) -> RunMetrics:
    """Run the loop in `out`, or go on with the run that lies there; `tell` hears of each round.
    `rate` is what people's time would cost.

    Leaves `metrics.json`, `rounds/K/label_maps/NAME.png` and `report.html`.
    """
    _check(experiment, out, progress)
    inputs, truths = experiment.inputs, experiment.truths
    with Store(out) as store:
        session = _open_session(store, experiment)
        server = SimulatedServer(
            inputs.source,
            truths,
            inputs.rules,
            store.path("annotator"),
            inputs.config.correcting_tolerance,
        )
        context, full_clicks, seconds = _prepare(inputs, store, server, clock, progress)
        told: list[RoundMetrics] = []
        while True:
            for done in session.rounds[len(told) :]:
                if done.phase is Phase.DONE:
                    told.append(round_metrics(session, done, context, truths, full_clicks))
                    tell(told[-1])
                    metrics = RunMetrics(
                        settings=_settings(experiment, context, full_clicks),
                        preparation_seconds=seconds,
                        rounds=tuple(told),
                        people=people_time(
                            session,
                            context.config,
                            context.files(session.current.number),
                            len(context.source),
                            rate,
                        ),
                    )
                    with atomic_write(store.path("metrics.json")) as path:
                        path.write_text(metrics.model_dump_json(indent=2) + "\n", encoding="utf-8")
            moved = advance(session, server, store, lambda: context, clock)
            if moved is None:
                break
            session = moved
        report = run_report(experiment.video, session, context, metrics, truths)
        write_report(report, out / "report.html")
        return metrics


def _check(experiment: Experiment, out: Path, progress: Progress) -> None:
    """What cannot be used shows before anything is computed or written."""
    inputs = experiment.inputs
    inputs.load_network(inputs.checkpoint)
    check_labels(experiment.truths, progress)
    kinds = granularity_by_round(inputs.config.granularity, len(inputs.config.budgets))
    for kind in set(kinds):
        segments = build_segments(kind, inputs.source, out / "segments", lambda frame: _NO_FEATURES)
        if kind.kind == "maps":
            for frame in range(len(inputs.source)):
                segments.count(frame)


def _open_session(store: Store, experiment: Experiment) -> Session:
    config = _identity(experiment)
    known = store.load()
    if known is not None:
        # a run of an older version lacks settings that came later, and went by their defaults
        before = _DEFAULTS | known.config
        other = [
            f"{name} was {before.get(name)!r} and is now {value!r}"
            for name, value in config.items()
            if before.get(name) != value
        ]
        if not other:
            return known
        raise SessionError(
            f"{store.root} holds a run with other settings ({'; '.join(other)}); "
            "give the same settings to resume it, or another --out"
        )
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    session = Session(
        id=digest[:12],
        video=experiment.video,
        labels=experiment.inputs.labels,
        config=config,
        rounds_total=len(experiment.inputs.config.budgets),
    )
    store.create(session)
    return session


def _identity(experiment: Experiment) -> dict[str, Any]:
    """All that decides the outcome, as JSON; a run is resumed under the same only."""
    inputs = experiment.inputs
    names = "\n".join(inputs.source.names)
    return {
        **inputs.config.model_dump(mode="json"),
        "flow": inputs.flow.name,
        "classes": list(inputs.labels),
        "frames": [len(inputs.source), *inputs.source.size],
        "content": _content(experiment),
        "names": hashlib.sha256(names.encode()).hexdigest()[:12],
        "checkpoint": hashlib.sha256(inputs.checkpoint.read_bytes()).hexdigest()[:12],
        "align_corners": inputs.align_corners,
    }


def _content(experiment: Experiment) -> str:
    """Tells videos apart by a few frames and their labels."""
    source = experiment.inputs.source
    digest = hashlib.sha256()
    last = len(source) - 1
    for frame in sorted({0, last // 2, last}):
        digest.update(source[frame].tobytes())
        digest.update(experiment.truths[frame].tobytes())
    return digest.hexdigest()[:12]


def _settings(experiment: Experiment, context: RunContext, full_clicks: int) -> dict[str, Any]:
    return {
        "video": experiment.video,
        **_identity(experiment),
        "device": str(experiment.inputs.device),
        "full_clicks": full_clicks,
        "flow_valid": {f"|dt| {dt}": share for dt, share in context.flow.valid_share().items()},
        "version": __version__,
    }


def _prepare(
    inputs: RunInputs, store: Store, server: SimulatedServer, clock: Clock, progress: Progress
) -> tuple[RunContext, int, dict[str, float]]:
    """The context, the clicks of annotating all frames, and the seconds that each part took when
    it was done first."""
    seconds, begun = {}, clock()

    def done(part: str) -> None:
        nonlocal begun
        seconds[part] = clock() - begun
        begun = clock()

    full_clicks = server.full_cost(progress)
    done("full_cost")
    context = prepare(inputs, store, full_clicks=full_clicks, progress=progress, done=done)
    kept = store.path("preparation.json")
    if not kept.exists():
        with atomic_write(kept) as path:
            path.write_text(json.dumps(seconds))
    return context, full_clicks, json.loads(kept.read_text())
