"""What each phase of a round does, and `advance`, which runs the one that is due.

Every phase may be killed and run again: it writes its artefact whole or not at all, and only then
is the session moved on, in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from hvsa_cvat.annotation.clicks import AnnotationRules, click_cost
from hvsa_cvat.config import RunConfig
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_directory, atomic_write
from hvsa_cvat.ports import AnnotationServer, FrameSource, Progress, SegmentMaps
from hvsa_cvat.propagation.propagate import fill, propagate
from hvsa_cvat.segmentation.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.hrnet import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import TrainingData, shrink_labels
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.segmentation.scoring import score_segments
from hvsa_cvat.selection.strategy import Pool, Query, select
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, FrameAnnotation, FramePrediction, LabelMap, LabelSet, Sample
from hvsa_cvat.video.flow import FlowStore

Clock = Callable[[], float]
"""Seconds, from any start."""

_COST_FRAMES = 32
"""At most so many frames tell what annotating all of them would cost."""


@dataclass(frozen=True)
class Bench:
    """What the phases work with: one video, prepared, and the settings of the run."""

    config: RunConfig
    labels: LabelSet
    source: FrameSource
    frames: NDArray[np.uint8]
    """uint8 (N, h, w, 3) RGB at network size."""
    flow: FlowStore
    segments: SegmentMaps
    checkpoint: Path
    """The network of round 0."""
    align_corners: bool
    """Of a checkpoint that does not say (an official state dict)."""
    full_clicks: int
    """Clicks of annotating every frame of the video, to which budgets relate."""
    device: torch.device
    progress: Progress

    @property
    def rules(self) -> AnnotationRules:
        return AnnotationRules(self.config.epsilon, self.config.charge_junctions)


def advance(
    session: Session, server: AnnotationServer, store: Store, bench: Bench, clock: Clock
) -> Session | None:
    """Run the phase that is due and store where the session stands then.

    None: it waits for people, or is done; nothing has changed.
    """
    phase = session.current.phase
    if phase is Phase.DONE:
        return None
    start = clock()
    made: dict[str, object] = {}
    if phase is Phase.SELECT:
        queried, expected = _select(session, store, bench)
        made = {"queried": tuple(queried), "expected_clicks": expected}
    elif phase is Phase.REQUEST:
        made = {"request": _request(session, server, bench)}
    elif phase is Phase.ANNOTATE:
        clicks = _annotate(session, server, store)
        if clicks is None:
            return None
        made = {"clicks": clicks}
    elif phase is Phase.FINETUNE:
        _finetune(session, store, bench)
    elif phase is Phase.PREDICT:
        _predict(session, store, bench)
    else:
        _publish(session, server, store, bench)
    session = session.finish_phase(phase, clock() - start, **made)
    store.save(session)
    return session


def cost_correction(session: Session) -> float:
    """Actual over estimated clicks so far, by which the next estimates are multiplied."""
    actual = estimated = 0.0
    factor = 1.0
    for done in session.rounds:
        if done.clicks and done.expected_clicks:
            actual += done.clicks
            estimated += done.expected_clicks / factor
            factor = actual / estimated
    return factor


def merge_answers(answers: Sequence[FrameAnnotation]) -> dict[int, FrameAnnotation]:
    """One annotation a frame; where two answered the same pixel, the later one holds."""
    merged: dict[int, FrameAnnotation] = {}
    for new in answers:
        old = merged.get(new.frame)
        if old is not None:
            labels = np.where(new.label_map == IGNORE, old.label_map, new.label_map)
            segments = tuple(sorted({*old.segments, *new.segments}))
            new = FrameAnnotation(new.frame, segments, labels)
        merged[new.frame] = new
    return dict(sorted(merged.items()))


def all_answers(session: Session, store: Store) -> dict[int, FrameAnnotation]:
    """Everything that people have answered so far, one annotation a frame."""
    answered = [done.number for done in session.rounds if done.clicks is not None]
    return merge_answers([a for k in answered for a in store.load_answers(k).annotations])


def label_map_path(store: Store, round_number: int, name: str) -> Path:
    """Where the predicted label map of a frame lies, 8-bit PNG at the frame's own size."""
    return store.path("rounds", round_number, "label_maps", f"{name}.png")


def propagation_path(store: Store, round_number: int) -> Path:
    """Where label propagation leaves `reached_percent`, the share of pixels that got a label."""
    return store.path("rounds", round_number, "propagation.json")


def read_label_map(path: Path) -> LabelMap:
    """uint8 (H, W) of an 8-bit PNG that a round wrote."""
    try:
        with PillowImage.open(path) as image:
            return np.asarray(image, np.uint8)
    except OSError as error:
        raise SessionError(
            f"{path} is missing or damaged; restore it from a copy or start again in another folder"
        ) from error


def network_path(store: Store, bench: Bench, round_number: int) -> Path:
    """The checkpoint that speaks for a round; rounds that train nothing keep the one before."""
    for number in range(round_number, 0, -1):
        path = store.path("rounds", number, "network.safetensors")
        if path.exists():
            return path
    return bench.checkpoint


def load_network(store: Store, bench: Bench, round_number: int) -> SegmentationNetwork:
    path = network_path(store, bench, round_number)
    network, _ = load_checkpoint(
        path, bench.labels, align_corners=bench.align_corners, seed=bench.config.seed
    )
    return network


def _rng(bench: Bench, round_number: int) -> np.random.Generator:
    return np.random.default_rng([bench.config.seed, round_number])


def _select(session: Session, store: Store, bench: Bench) -> tuple[list[Sample], float]:
    number = session.current.number
    allowed = bench.config.budgets[number - 1] * bench.full_clicks
    pool = store.load_scores(number - 1).without(session.queried)
    if allowed <= session.clicks:
        return [], 0.0
    factor, scale = cost_correction(session), _scale(number - 1, store, bench)

    def expected_cost(samples: Sequence[Sample]) -> NDArray[np.float64]:
        raw = _estimated_clicks(samples, number - 1, store, bench)
        # the first click of a sample chooses a class; only outlines are smoother or rougher
        return factor * np.where(raw > 0, 1 + scale * (raw - 1), 0)

    query = Query(
        budget=allowed - session.clicks,
        expected_cost=expected_cost,
        strategy=bench.config.strategy,
        diversity_only=number == 1,
        labeled_frames=tuple(sorted({sample.frame for sample in session.queried})),
        length=len(bench.source),
    )
    chosen = select(pool, query, _rng(bench, number))
    return chosen, float(expected_cost(chosen).sum()) if chosen else 0.0


def _estimated_clicks(
    samples: Sequence[Sample], round_number: int, store: Store, bench: Bench
) -> NDArray[np.float64]:
    """float64 (len(samples),): what they would cost if the network's label maps were the truth."""
    costs = np.zeros(len(samples))
    places: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample.frame, []).append(place)
    for frame, wanted in places.items():
        name = bench.source.names[frame]
        costs[wanted] = click_cost(
            read_label_map(label_map_path(store, round_number, name)),
            bench.segments[frame],
            [samples[place].segment for place in wanted],
            bench.rules,
            bench.segments.border_is_free,
        )
    return costs


def _scale(round_number: int, store: Store, bench: Bench) -> float:
    """What annotating all frames costs, over what the label maps of a round make of it.

    Predicted outlines are smoother than a person's, propagated ones rougher, and it changes from
    round to round.
    """
    length = len(bench.source)
    frames = np.unique(np.linspace(0, length - 1, min(length, _COST_FRAMES)).astype(int))
    whole = np.zeros(bench.source.size, np.int32)
    estimated = [
        click_cost(
            read_label_map(label_map_path(store, round_number, bench.source.names[frame])),
            whole,
            [0],
            bench.rules,
            border_is_free=False,
        )[0]
        for frame in frames
    ]
    return bench.full_clicks / max(float(np.mean(estimated)) * length, 1.0)


def _request(session: Session, server: AnnotationServer, bench: Bench) -> str:
    current = session.current
    key = f"hvsa://{session.id}/rounds/{current.number}"
    return server.request(key, current.queried, bench.segments)


def _annotate(session: Session, server: AnnotationServer, store: Store) -> int | None:
    request = session.current.request
    if request is None:
        raise SessionError(f"round {session.current.number} waits for a request it never made")
    answers = server.collect(request)
    if answers is None:
        return None
    store.save_answers(session.current.number, answers)
    return answers.total_clicks


def _finetune(session: Session, store: Store, bench: Bench) -> None:
    training, number = bench.config.training, session.current.number
    answers = all_answers(session, store)
    size = bench.config.size
    targets = {frame: shrink_labels(a.label_map, size) for frame, a in answers.items()}
    labeled = {frame: target for frame, target in targets.items() if (target != IGNORE).any()}
    if training is None or not labeled:
        return
    network = load_network(store, bench, number - 1)
    state = store.path("rounds", number, "training.pt")
    finetune(
        network,
        TrainingData(bench.frames, labeled, bench.flow),
        training,
        seed=(bench.config.seed, number),
        device=bench.device,
        state=state,
        progress=bench.progress,
    )
    info = CheckpointInfo(network.name, bench.labels.names, size, network.align_corners, number)
    save_checkpoint(network, info, store.path("rounds", number, "network.safetensors"))
    state.unlink(missing_ok=True)


def _predict(session: Session, store: Store, bench: Bench) -> None:
    number = session.current.number
    if number > 0 and bench.config.method == "label-propagation":
        _propagate(session, store, bench)
        # the network has learnt nothing, so what it says of the samples stands
        store.save_scores(number, store.load_scores(0))
        return
    network = load_network(store, bench, number)

    def predictions(folder: Path) -> Iterator[FramePrediction]:
        dense = predict(
            network, bench.frames, bench.source.size, device=bench.device, progress=bench.progress
        )
        for prediction in dense:
            frame = prediction.frame
            path = folder / f"{bench.source.names[frame]}.png"
            PillowImage.fromarray(prediction.label_map).save(path)
            segments = bench.segments[frame]
            yield score_segments(prediction, segments, bench.segments.count(frame))

    with atomic_directory(store.path("rounds", number, "label_maps")) as folder:
        scores = Pool.of(predictions(folder))
    store.save_scores(number, scores)


def _propagate(session: Session, store: Store, bench: Bench) -> None:
    """The people's labels carried along the flow; the pre-trained network where none arrive."""
    number, names = session.current.number, bench.source.names
    answers = list(all_answers(session, store).values())
    carried = propagate(
        answers, bench.flow, bench.source.size, len(bench.source), progress=bench.progress
    )
    reached = []
    with atomic_directory(store.path("rounds", number, "label_maps")) as folder:
        for one in carried:
            reached.append(one.reached)
            name = names[one.frame]
            guess = read_label_map(label_map_path(store, 0, name))
            PillowImage.fromarray(fill(one, guess)).save(folder / f"{name}.png")
    with atomic_write(propagation_path(store, number)) as path:
        path.write_text(json.dumps({"reached_percent": 100 * float(np.mean(reached))}))


def _publish(session: Session, server: AnnotationServer, store: Store, bench: Bench) -> None:
    number = session.current.number
    server.publish(
        number,
        (
            (frame, read_label_map(label_map_path(store, number, name)))
            for frame, name in enumerate(bench.source.names)
        ),
    )
