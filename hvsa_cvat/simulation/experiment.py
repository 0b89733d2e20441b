"""The paper's experiment: the whole loop on a video whose truth is known, scored every round."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from hvsa_cvat import __version__
from hvsa_cvat.annotation.clicks import AnnotationRules
from hvsa_cvat.config import RunConfig
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.metrics import Scores, score_video
from hvsa_cvat.ports import FlowEstimator, FrameSource, Progress
from hvsa_cvat.report import (
    FramePicture,
    OutlookReport,
    RoundReport,
    RunReport,
    class_colours,
    write_report,
)
from hvsa_cvat.segmentation.checkpoint import load_checkpoint
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.session.outlook import Outlook
from hvsa_cvat.session.phases import (
    Bench,
    Clock,
    advance,
    asked_pixels,
    label_map_path,
    load_network,
    propagation_path,
    read_agreement,
    read_label_map,
    read_outlook,
)
from hvsa_cvat.session.prepare import Start, prepare
from hvsa_cvat.session.rounds import Phase, Round, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.simulation.annotator import SimulatedServer
from hvsa_cvat.simulation.datasets import LabelMaps, check_labels
from hvsa_cvat.types import LabelSet
from hvsa_cvat.video.segments import build_segments, granularity_by_round

_PICTURES = 6

_NONE = np.empty((0, 0, 0), np.float32)


class RoundMetrics(Scores):
    """One round in `metrics.json`; scores are fractions, round 0 is the pre-trained network."""

    round: int
    clicks: int
    """Spent up to and with this round."""
    clicks_percent: float
    """The same, in % of annotating every frame of the video."""
    pixels_percent: float
    """Pixels in the samples answered so far, in % of the video."""
    samples: int
    """Samples answered so far."""
    propagated_percent: float | None = None
    """Label propagation only: pixels that a carried label reached, in % of the video; the others
    show the pre-trained network's prediction."""
    outlook: Outlook | None = None
    """What the session says of this round's masks without the truth."""
    unseen: tuple[str, ...] = ()
    """Classes that no answer has shown so far."""
    seconds: dict[str, float]
    """Of each phase."""


class RunMetrics(BaseModel):
    """`metrics.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any]
    preparation_seconds: dict[str, float]
    rounds: tuple[RoundMetrics, ...]


@dataclass(frozen=True)
class Experiment:
    """A video with its truth, and how to run the loop on it."""

    video: str
    """What the video is called in the report."""
    frames: FrameSource
    truths: LabelMaps
    labels: LabelSet
    config: RunConfig
    checkpoint: Path
    flow: FlowEstimator
    device: torch.device
    align_corners: bool = True
    """Of a checkpoint that does not say (an official state dict)."""


def run_experiment(
    experiment: Experiment,
    out: Path,
    *,
    clock: Clock,
    progress: Progress,
    tell: Callable[[RoundMetrics], None],
) -> RunMetrics:
    """Run the loop in `out`, or go on with the run that lies there; `tell` hears of each round.

    Leaves `metrics.json`, `rounds/K/label_maps/NAME.png` and `report.html`.
    """
    _check(experiment, out, progress)
    with Store(out) as store:
        session = _open_session(store, experiment)
        server = SimulatedServer(
            experiment.frames,
            experiment.truths,
            AnnotationRules(experiment.config.epsilon, experiment.config.charge_junctions),
            store.path("annotator"),
        )
        bench, full_clicks, preparation = _prepare(experiment, store, server, clock, progress)
        told: list[RoundMetrics] = []
        while True:
            for done in session.rounds[len(told) :]:
                if done.phase is Phase.DONE:
                    told.append(
                        _round_metrics(session, done, store, bench, experiment, full_clicks)
                    )
                    tell(told[-1])
                    metrics = RunMetrics(
                        settings=_settings(experiment, bench, full_clicks),
                        preparation_seconds=preparation,
                        rounds=tuple(told),
                    )
                    with atomic_write(store.path("metrics.json")) as path:
                        path.write_text(metrics.model_dump_json(indent=2) + "\n")
            moved = advance(session, server, store, lambda: bench, clock)
            if moved is None:
                break
            session = moved
        report = _report(experiment, session, store, bench, metrics, full_clicks)
        write_report(report, out / "report.html")
        return metrics


def _check(experiment: Experiment, out: Path, progress: Progress) -> None:
    """What cannot be used shows before anything is computed or written."""
    load_checkpoint(
        experiment.checkpoint,
        experiment.labels,
        align_corners=experiment.align_corners,
        seed=experiment.config.seed,
    )
    check_labels(experiment.truths, progress)
    config = experiment.config
    for kind in set(granularity_by_round(config.granularity, len(config.budgets))):
        segments = build_segments(kind, experiment.frames, out / "segments", lambda frame: _NONE)
        if kind.kind == "maps":
            for frame in range(len(experiment.frames)):
                segments.count(frame)


def _open_session(store: Store, experiment: Experiment) -> Session:
    config = _identity(experiment)
    known = store.load()
    if known is not None:
        if known.config == config:
            return known
        other = [
            f"{name} was {known.config.get(name)!r} and is now {value!r}"
            for name, value in config.items()
            if known.config.get(name) != value
        ]
        raise SessionError(
            f"{store.root} holds a run with other settings ({'; '.join(other)}); "
            "give the same settings to resume it, or another --out"
        )
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    session = Session(
        id=digest[:12],
        video=experiment.video,
        labels=experiment.labels,
        config=config,
        rounds_total=len(experiment.config.budgets),
    )
    store.create(session)
    return session


def _identity(experiment: Experiment) -> dict[str, Any]:
    """All that decides the outcome, as JSON; a run is resumed under the same only."""
    names = "\n".join(experiment.frames.names)
    return {
        **experiment.config.model_dump(mode="json"),
        "flow": experiment.flow.name,
        "classes": list(experiment.labels),
        "frames": [len(experiment.frames), *experiment.frames.size],
        "content": _content(experiment),
        "names": hashlib.sha256(names.encode()).hexdigest()[:12],
        "checkpoint": hashlib.sha256(experiment.checkpoint.read_bytes()).hexdigest()[:12],
        "align_corners": experiment.align_corners,
    }


def _content(experiment: Experiment) -> str:
    """Tells videos apart by a few frames and their labels."""
    digest = hashlib.sha256()
    last = len(experiment.frames) - 1
    for frame in sorted({0, last // 2, last}):
        digest.update(experiment.frames[frame].tobytes())
        digest.update(experiment.truths[frame].tobytes())
    return digest.hexdigest()[:12]


def _settings(experiment: Experiment, bench: Bench, full_clicks: int) -> dict[str, Any]:
    return {
        "video": experiment.video,
        **_identity(experiment),
        "device": str(experiment.device),
        "full_clicks": full_clicks,
        "flow_valid": {f"|dt| {dt}": share for dt, share in bench.flow.valid_share().items()},
        "version": __version__,
    }


def _prepare(
    experiment: Experiment,
    store: Store,
    server: SimulatedServer,
    clock: Clock,
    progress: Progress,
) -> tuple[Bench, int, dict[str, float]]:
    """The bench, the clicks of annotating all frames, and the seconds that both took at first."""
    seconds, begun = {}, clock()

    def lap(what: str) -> None:
        nonlocal begun
        seconds[what] = clock() - begun
        begun = clock()

    full_clicks = server.full_cost(progress)
    lap("full_cost")
    start = Start(
        source=experiment.frames,
        labels=experiment.labels,
        config=experiment.config,
        checkpoint=experiment.checkpoint,
        flow=experiment.flow,
        device=experiment.device,
        align_corners=experiment.align_corners,
    )
    bench = prepare(start, store, full_clicks=full_clicks, progress=progress, lap=lap)
    kept = store.path("preparation.json")
    if not kept.exists():
        with atomic_write(kept) as path:
            path.write_text(json.dumps(seconds))
    return bench, full_clicks, json.loads(kept.read_text())


def _round_metrics(
    session: Session,
    done: Round,
    store: Store,
    bench: Bench,
    experiment: Experiment,
    full_clicks: int,
) -> RoundMetrics:
    """Score the label maps of a finished round; kept beside them, so that it is done once."""
    kept = store.path("rounds", done.number, "metrics.json")
    try:
        return RoundMetrics.model_validate_json(kept.read_text())
    except (OSError, ValidationError):
        pass  # not scored yet
    rounds = session.rounds[: done.number + 1]
    pixels = sum(int(asked.sum()) for _, asked in asked_pixels(rounds, bench))
    clicks = sum(one.clicks or 0 for one in rounds)
    height, width = bench.source.size
    names = bench.source.names
    scores = score_video(
        (read_label_map(label_map_path(store, done.number, name)) for name in names),
        (experiment.truths[frame] for frame in range(len(names))),
        experiment.labels,
        lambda frame: bench.flow.get(frame, frame + 1),
    )
    agreement = read_agreement(store.root, done.number)
    metrics = RoundMetrics(
        **scores.model_dump(),
        round=done.number,
        clicks=clicks,
        clicks_percent=100 * clicks / full_clicks,
        pixels_percent=100 * pixels / (height * width * len(names)),
        samples=sum(len(one.queried) for one in rounds),
        propagated_percent=_propagated(store, done.number),
        outlook=read_outlook(store.root, done.number),
        unseen=agreement.unseen if agreement is not None else (),
        seconds=dict(done.seconds),
    )
    with atomic_write(kept) as path:
        path.write_text(metrics.model_dump_json(indent=2) + "\n")
    return metrics


def _propagated(store: Store, round_number: int) -> float | None:
    path = propagation_path(store, round_number)
    return float(json.loads(path.read_text())["reached_percent"]) if path.exists() else None


def _report(
    experiment: Experiment,
    session: Session,
    store: Store,
    bench: Bench,
    metrics: RunMetrics,
    full_clicks: int,
) -> RunReport:
    config, length = experiment.config, len(bench.source)
    rounds = []
    for one, done in zip(metrics.rounds, session.rounds, strict=True):
        frames = np.array([sample.frame for sample in done.queried], np.int64)
        rounds.append(
            RoundReport(
                number=one.round,
                clicks=one.clicks,
                clicks_percent=one.clicks_percent,
                pixels_percent=one.pixels_percent,
                scores=Scores(**{name: getattr(one, name) for name in Scores.model_fields}),
                outlook=_shown_outlook(one.outlook),
                unseen=one.unseen,
                seconds=one.seconds,
                chosen=np.bincount(frames, minlength=length),
            )
        )
    size, shown = config.size, ", ".join(f"{100 * budget:.3g} %" for budget in config.budgets)
    return RunReport(
        title=f"{experiment.video}: {config.method}, {config.strategy} {config.granularity}",
        settings={
            "video": f"{experiment.video}, {length} frames of "
            f"{bench.source.size[1]}x{bench.source.size[0]}",
            "method": config.method,
            "strategy": config.strategy,
            "granularity": config.granularity,
            "budget after each round": f"{shown} of {full_clicks} clicks",
            "network size": f"{size[1]}x{size[0]}",
            "checkpoint": experiment.checkpoint.name,
            "optical flow": experiment.flow.name,
            "device": str(experiment.device),
            "seed": str(config.seed),
        },
        labels=experiment.labels,
        colours=class_colours(len(experiment.labels)),
        rounds=tuple(rounds),
        pictures=tuple(_pictures(experiment, session, store, bench)),
    )


def _shown_outlook(outlook: Outlook | None) -> OutlookReport | None:
    if outlook is None:
        return None
    return OutlookReport(
        outlook.expected_miou, outlook.low, outlook.high, outlook.gain, outlook.advice
    )


def _pictures(
    experiment: Experiment, session: Session, store: Store, bench: Bench
) -> list[FramePicture]:
    length, last = len(bench.source), session.current.number
    chosen = np.unique(np.linspace(0, length - 1, min(length, _PICTURES)).astype(int)).tolist()
    network = load_network(store, bench, last)
    dense = predict(network, bench.frames, bench.source.size, device=bench.device, only=chosen)
    pictures = []
    for prediction in dense:
        frame = prediction.frame
        name = bench.source.names[frame]
        asked = np.zeros(bench.source.size, np.int8)
        for done in session.rounds:
            wanted = [sample.segment for sample in done.queried if sample.frame == frame]
            if wanted:
                segments = bench.segments_of(done.number)[frame]
                asked[np.isin(segments, wanted)] = done.number
        pictures.append(
            FramePicture(
                name=name,
                image=bench.source[frame],
                truth=experiment.truths[frame],
                before=read_label_map(label_map_path(store, 0, name)),
                after=read_label_map(label_map_path(store, last, name)),
                uncertainty=prediction.uncertainty.cpu().numpy(),
                chosen=asked,
            )
        )
    return pictures
