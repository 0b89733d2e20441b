"""What each phase of a round does, and `advance`, which runs the one that is due.

Every phase may be killed and run again: it writes its artefact whole or not at all, and only then
is the session moved on, in one transaction.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from hvsa_cvat.annotation.clicks import AnnotationRules, click_cost
from hvsa_cvat.config import RunConfig, Strategy
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_directory, atomic_write, scratch_directory
from hvsa_cvat.metrics import ConfusionMatrix
from hvsa_cvat.ports import AnnotationServer, FrameSource, Progress, SegmentMaps
from hvsa_cvat.propagation.fusion import fuse, remember
from hvsa_cvat.propagation.propagate import Carried, Propagated, carry, fill
from hvsa_cvat.segmentation.checkpoint import (
    CheckpointInfo,
    known_classes,
    load_checkpoint,
    save_checkpoint,
)
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.hrnet import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import TrainingData, shrink_labels, shrink_weights
from hvsa_cvat.segmentation.predict import DensePrediction, predict
from hvsa_cvat.segmentation.scoring import score_segments
from hvsa_cvat.selection.strategy import Pool, Query, select
from hvsa_cvat.session.outlook import (
    LEVELS,
    HeldOut,
    Outlook,
    certainty_levels,
    count_held_out,
    count_levels,
    outlook,
)
from hvsa_cvat.session.rounds import Phase, Round, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import (
    IGNORE,
    Answers,
    FrameAnnotation,
    FramePrediction,
    LabelMap,
    LabelSet,
    Mask,
    Sample,
)
from hvsa_cvat.video.flow import FlowStore
from hvsa_cvat.video.frames import npy_writer

Clock = Callable[[], float]
"""Seconds, from any start."""

_COST_FRAMES = 32
"""At most so many frames tell what annotating all of them would cost."""


@dataclass(frozen=True)
class Carrier:
    """What labels are carried along."""

    flow: FlowStore
    pictures: NDArray[np.uint8] | None
    """uint8 (N, h, w, 3) RGB at the flow's size, to take out drift; None leaves it in."""
    colours: NDArray[np.uint8] | None = None
    """The same, to read labels by; None reads them by distance alone."""


@dataclass(frozen=True)
class Bench:
    """What the phases work with: one video, prepared, and the settings of the run."""

    config: RunConfig
    labels: LabelSet
    source: FrameSource
    frames: NDArray[np.uint8]
    """uint8 (N, h, w, 3) RGB at network size."""
    flow: FlowStore
    segments: tuple[SegmentMaps, ...]
    """What each round that asks people asks for."""
    checkpoint: Path
    """The network of round 0."""
    align_corners: bool
    """Of a checkpoint that does not say (an official state dict)."""
    full_clicks: int | None
    """Clicks of annotating every frame of the video, to which budgets relate; None where nobody
    knows: then it is estimated from the label maps of the round before, and corrected by what the
    answers did cost."""
    device: torch.device
    progress: Progress
    carrier: Carrier | None = None
    """For methods that train a network and carry labels too."""

    def segments_of(self, round_number: int) -> SegmentMaps:
        """Those of a round; before the first, and after the last, its own."""
        return self.segments[min(max(round_number, 1), len(self.segments)) - 1]

    @property
    def rules(self) -> AnnotationRules:
        return AnnotationRules(self.config.epsilon, self.config.charge_junctions)


def advance(
    session: Session,
    server: AnnotationServer,
    store: Store,
    prepared: Callable[[], Bench],
    clock: Clock,
) -> Session | None:
    """Run the phase that is due and store where the session stands then.

    None: it waits for people, or is done; nothing has changed, and the bench was not asked for.
    """
    phase = session.current.phase
    if phase is Phase.DONE:
        return None
    start = clock()
    answers = None
    if phase is Phase.ANNOTATE:
        answers = _collect(session, server)
        if answers is None:
            return None
    bench = prepared()
    made: dict[str, object] = {}
    if phase is Phase.SELECT:
        selection = _select(session, store, bench)
        made = {
            "queried": selection.samples,
            "expected_clicks": float(sum(selection.expected_clicks)),
        }
    elif phase is Phase.REQUEST:
        made = {"request": _request(session, server, store, bench)}
    elif answers is not None:
        _annotate(session, answers, server, store, bench)
        made = {"clicks": answers.total_clicks}
    elif phase is Phase.FINETUNE:
        _finetune(session, store, bench)
    elif phase is Phase.PREDICT:
        _predict(session, store, bench)
    else:
        _publish(session, server, store, bench)
    session = session.finish_phase(phase, clock() - start, **made)
    store.save(session)
    return session


def cost_correction(rounds: Iterable[Round]) -> float:
    """Actual over estimated clicks of these rounds, by which the next estimates are multiplied."""
    actual = estimated = 0.0
    factor = 1.0
    for done in rounds:
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
    """Everything that people have answered so far, one annotation a frame; what they drew unasked
    holds over what they answered."""
    answered = [done.number for done in session.rounds if done.clicks is not None]
    answers = [a for k in answered for a in store.load_answers(k).annotations]
    if answered:
        answers.extend(store.load_corrections(answered[-1]).annotations)
    return merge_answers(answers)


def _answered_classes(answers: Iterable[FrameAnnotation], count: int) -> NDArray[np.bool_]:
    """bool (count,): the classes that some answer shows."""
    shown = np.zeros(IGNORE + 1, np.bool_)
    for one in answers:
        shown[np.unique(one.label_map)] = True
    return shown[:count]


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


@dataclass(frozen=True)
class Selection:
    """What a SELECT found, kept in `rounds/K/selection.json`."""

    samples: tuple[Sample, ...]
    expected_clicks: tuple[float, ...]
    """Of each sample."""
    full_clicks: float
    """Clicks of annotating every frame of the video, as far as known then."""


def read_selection(root: Path, round_number: int) -> Selection | None:
    """What the SELECT of a round found, None if it has not run. `root` is the store's folder, which
    need not be held for that."""
    path = _selection_path(root, round_number)
    try:
        content = json.loads(path.read_text())
        return Selection(
            tuple(Sample(frame, segment) for frame, segment in content["samples"]),
            tuple(content["expected_clicks"]),
            content["full_clicks"],
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SessionError(f"{path} is damaged; restore it from a copy") from error


def _selection_path(root: Path, round_number: int) -> Path:
    return root / "rounds" / str(round_number) / "selection.json"


def _select(session: Session, store: Store, bench: Bench) -> Selection:
    number = session.current.number
    estimated = _estimated_full_clicks(number - 1, store, bench)
    known = bench.full_clicks is not None
    segments = bench.segments_of(number)
    factor = _correction(session, bench, small=segments.border_is_free)
    full = float(bench.full_clicks) if bench.full_clicks is not None else factor * estimated
    # predicted outlines are smoother than a person's, propagated ones rougher
    scale = full / estimated if known else 1.0

    def expected_cost(samples: Sequence[Sample]) -> NDArray[np.float64]:
        raw = _estimated_clicks(samples, segments, number - 1, store, bench)
        # the first click of a sample chooses a class; only outlines are smoother or rougher
        return factor * np.where(raw > 0, 1 + scale * (raw - 1), 0)

    allowed = bench.config.budgets[number - 1] * full
    chosen: list[Sample] = []
    if allowed > session.clicks:
        pool, asked, whole = _unasked(store.load_scores(number - 1), session, bench)
        strategy = bench.config.strategy
        if strategy is Strategy.UNIFORM and segments.border_is_free:
            strategy = Strategy.ACTIVE  # frames are spaced evenly, smaller samples are not
        farthest = bench.config.farthest and segments.border_is_free
        query = Query(
            budget=allowed - session.clicks,
            expected_cost=expected_cost,
            strategy=strategy,
            diversity_only=number == 1,
            labeled_frames=whole,
            length=len(bench.source),
            known=asked.features if farthest else None,
        )
        chosen = select(pool, query, _rng(bench, number), bench.device)
    costs = expected_cost(chosen).tolist() if chosen else []
    content = {
        "samples": [[sample.frame, sample.segment] for sample in chosen],
        "expected_clicks": costs,
        "full_clicks": full,
    }
    with atomic_write(_selection_path(store.root, number)) as path:
        path.write_text(json.dumps(content))
    return Selection(tuple(chosen), tuple(costs), full)


def _correction(session: Session, bench: Bench, *, small: bool) -> float:
    """That of the rounds that asked for small samples, or for whole frames.

    Small ones are asked for where the masks are uncertain, torn there into more pieces than the
    answers have: what they cost tells nothing of whole frames. Where nobody knows the clicks of the
    whole video, their estimate leans on all answers, and so do those of the samples.
    """
    known = bench.full_clicks is not None
    return cost_correction(
        one
        for one in session.rounds
        if not known or bench.segments_of(one.number).border_is_free == small
    )


def asked_pixels(rounds: Sequence[Round], bench: Bench) -> Iterator[tuple[int, Mask]]:
    """(frame, pixels that people were asked about in these rounds), of each frame with such."""
    asked: dict[int, dict[int, list[int]]] = {}
    for one in rounds:
        for sample in one.queried:
            asked.setdefault(sample.frame, {}).setdefault(one.number, []).append(sample.segment)
    for frame, by_round in sorted(asked.items()):
        pixels = np.zeros(bench.source.size, np.bool_)
        for number, segments in by_round.items():
            pixels |= np.isin(bench.segments_of(number)[frame], segments)
        yield frame, pixels


def _unasked(pool: Pool, session: Session, bench: Bench) -> tuple[Pool, Pool, tuple[int, ...]]:
    """The samples of the current round that are not asked for yet, or only in part, where earlier
    ones were smaller; the others; and the frames that were asked for as a whole."""
    segments = bench.segments_of(session.current.number)
    keep, whole = np.ones(len(pool), np.bool_), []
    for frame, asked in asked_pixels(session.rounds, bench):
        counted = np.bincount(segments[frame][~asked], minlength=segments.count(frame))
        rows = np.flatnonzero(pool.frames == frame)
        keep[rows] = counted[pool.segments[rows]] > 0
        if asked.all():
            whole.append(frame)
    return pool.take(keep), pool.take(~keep), tuple(whole)


def _estimated_clicks(
    samples: Sequence[Sample],
    segments: SegmentMaps,
    round_number: int,
    store: Store,
    bench: Bench,
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
            segments[frame],
            [samples[place].segment for place in wanted],
            bench.rules,
            segments.border_is_free,
        )
    return costs


def _estimated_full_clicks(round_number: int, store: Store, bench: Bench) -> float:
    """What annotating all frames would cost if the label maps of a round were the truth."""
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
    return max(float(np.mean(estimated)) * length, 1.0)


def _request(session: Session, server: AnnotationServer, store: Store, bench: Bench) -> str:
    current = session.current
    key = f"hvsa://{session.id}/rounds/{current.number}"
    selection = read_selection(store.root, current.number)
    expected = selection.expected_clicks if selection and current.queried else ()
    segments = bench.segments_of(current.number)
    return server.request(key, current.queried, segments, expected)


def _collect(session: Session, server: AnnotationServer) -> Answers | None:
    request = session.current.request
    if request is None:
        raise SessionError(f"round {session.current.number} waits for a request it never made")
    return server.collect(request)


def _annotate(
    session: Session, answers: Answers, server: AnnotationServer, store: Store, bench: Bench
) -> None:
    number = session.current.number
    for done in session.rounds[:number]:
        revised = server.revised(done.request) if done.request is not None else None
        if revised is not None:
            store.save_answers(done.number, revised)
    corrections = Answers(tuple(server.corrections()))
    store.save_corrections(number, corrections)
    others = (*all_answers(session, store).values(), *corrections.annotations)
    _judge_by_answers(number, answers, others, store, bench)
    store.save_answers(number, answers)


class Agreement(BaseModel):
    """How the predictions of the round before agree with the answers of a round, before the
    network has seen them. Active selection asks where it is unsure, so over the whole video the
    scores are higher. Kept in `rounds/K/agreement.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels: int
    """Answered pixels."""
    pixel_accuracy: float | None
    miou: float | None
    unseen: tuple[str, ...] = ()
    """Classes that no answer has shown up to this round, so that no mask can be expected to."""


def read_agreement(root: Path, round_number: int) -> Agreement | None:
    """None where the round has no answers yet; `root` as for `read_selection`."""
    try:
        return Agreement.model_validate_json(_agreement_path(root, round_number).read_text())
    except (OSError, ValidationError):
        return None


def _agreement_path(root: Path, round_number: int) -> Path:
    return root / "rounds" / str(round_number) / "agreement.json"


def _judge_by_answers(
    number: int,
    answers: Answers,
    others: Sequence[FrameAnnotation],
    store: Store,
    bench: Bench,
) -> None:
    """Keep how the masks of the round before compare with answers that they had not seen."""
    classes = len(bench.labels)
    seen = _answered_classes((*others, *answers.annotations), classes)
    matrix, tables = ConfusionMatrix(classes), []
    for answer in answers.annotations:
        name = bench.source.names[answer.frame]
        shown = read_label_map(label_map_path(store, number - 1, name))
        levels = read_label_map(_levels_path(store, number - 1, name))
        matrix.add(answer.label_map, shown)
        tables.append(count_held_out(shown, levels, answer.label_map, classes))
    pixels = int(matrix.counts.sum())
    agreement = Agreement(
        pixels=pixels,
        pixel_accuracy=matrix.pixel_accuracy if pixels else None,
        miou=matrix.miou if pixels else None,
        unseen=tuple(n for k, n in enumerate(bench.labels.names) if not seen[k]),
    )
    if number > 1:  # the masks of round 0 know nothing of the video, so these tell nothing of later
        with atomic_write(_held_out_path(store, number)) as path:
            np.savez_compressed(path, *tables)
    with atomic_write(_agreement_path(store.root, number)) as path:
        path.write_text(agreement.model_dump_json(indent=2) + "\n")


def _held_out_path(store: Store, round_number: int) -> Path:
    """Of the answers of a round: an array of `count_held_out` for each answered frame."""
    return store.path("rounds", round_number, "held_out.npz")


def _look_ahead(session: Session, store: Store, bench: Bench) -> None:
    """Keep the outlook of the current round in `outlook.json`, where there is something to tell."""
    current = session.current
    selection = read_selection(store.root, current.number)
    if current.number < 2 or not current.clicks or selection is None:
        return
    with np.load(_held_out_path(store, current.number), allow_pickle=False) as archive:
        held_out = HeldOut([archive[name] for name in archive.files], len(bench.labels))
    levels = np.load(_levels_path(store, current.number - 1, "").with_name(_COUNTS))
    found = outlook(
        held_out,
        levels,
        (session.clicks - current.clicks, session.clicks),
        selection.full_clicks,
        not bench.segments_of(current.number + 1).border_is_free,
        bench.carrier is not None,
        _rng(bench, current.number),
    )
    if found is not None:
        with atomic_write(_outlook_path(store.root, current.number)) as path:
            path.write_text(found.model_dump_json(indent=2) + "\n")


def read_outlook(root: Path, round_number: int) -> Outlook | None:
    """None where a round has none; `root` as for `read_selection`."""
    try:
        return Outlook.model_validate_json(_outlook_path(root, round_number).read_text())
    except (OSError, ValidationError):
        return None


def _outlook_path(root: Path, round_number: int) -> Path:
    return root / "rounds" / str(round_number) / "outlook.json"


def _finetune(session: Session, store: Store, bench: Bench) -> None:
    training, number = bench.config.training, session.current.number
    if training is None:
        return
    with scratch_directory(store.path("rounds", number)) as scratch:
        data = _training_data(session, store, bench, scratch)
        if not data.targets:
            return
        network = load_network(store, bench, number - 1)
        state = store.path("rounds", number, "training.pt")
        finetune(
            network,
            data,
            training,
            seed=(bench.config.seed, number),
            device=bench.device,
            state=state,
            progress=bench.progress,
        )
    info = CheckpointInfo(
        network.name, bench.labels.names, bench.config.size, network.align_corners, number
    )
    save_checkpoint(network, info, store.path("rounds", number, "network.safetensors"))
    state.unlink(missing_ok=True)


def _training_data(session: Session, store: Store, bench: Bench, scratch: Path) -> TrainingData:
    """The people's labels; or the carried ones, which are theirs where they gave some.

    Those of a long video would fill the memory, so they are mapped from files in `scratch`.
    """
    size = bench.config.size
    taught: Iterator[tuple[int, LabelMap, NDArray[np.float32] | None]]
    if bench.carrier is not None and bench.config.carrying.taught:
        count = len(bench.source)
        carried = _carried(session, store, bench, bench.carrier)
        taught = ((one.frame, one.label_map, one.confidence) for one in carried)
    else:
        answers = all_answers(session, store)
        count = len(answers)
        taught = ((frame, one.label_map, None) for frame, one in answers.items())
    files = scratch / "targets.npy", scratch / "weights.npy"
    frames, weighted = [], False
    with (
        npy_writer(files[0], (count, *size), np.uint8) as add_target,
        npy_writer(files[1], (count, *size), np.float32) as add_weights,
    ):
        for frame, label_map, confidence in taught:
            target = shrink_labels(label_map, size)
            frames.append(frame if (target != IGNORE).any() else None)
            add_target(target)
            if confidence is not None:
                weighted = True
                add_weights(shrink_weights(confidence, size))
            bench.progress("making targets", len(frames), count)

    places = {frame: row for row, frame in enumerate(frames) if frame is not None}

    def by_frame(file: Path) -> Mapping[int, NDArray[Any]]:
        return _Rows(places, np.load(file, mmap_mode="r")) if places else {}

    weights = by_frame(files[1]) if weighted else None
    return TrainingData(bench.frames, by_frame(files[0]), bench.flow, weights)


@dataclass(frozen=True, eq=False)
class _Rows(Mapping[int, NDArray[Any]]):
    """Rows of one mapped array by their frames; processes that share the machine share the file."""

    places: Mapping[int, int]
    array: NDArray[Any]

    def __getitem__(self, frame: int) -> NDArray[Any]:
        row: NDArray[Any] = self.array[self.places[frame]]
        return row

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def _carried(session: Session, store: Store, bench: Bench, carrier: Carrier) -> Carried:
    """What people have answered, carried through the video: once a round, by the phase that asks
    first. It lies in the round's folder until the round's masks are stored."""
    return carry(
        list(all_answers(session, store).values()),
        carrier.flow,
        bench.source.size,
        len(bench.source),
        _carried_path(store, session.current.number),
        progress=bench.progress,
        pictures=carrier.pictures,
        colours=carrier.colours,
    )


def _carried_path(store: Store, round_number: int) -> Path:
    return store.path("rounds", round_number, "carried")


def _predict(session: Session, store: Store, bench: Bench) -> None:
    number = session.current.number
    if number > 0 and bench.config.method == "label-propagation":
        _propagate(session, store, bench)
    else:
        _ask_network(session, store, bench)
    _look_ahead(session, store, bench)
    # before the session moves on: a run killed here does this phase again and leaves nothing either
    shutil.rmtree(_carried_path(store, number), ignore_errors=True)


def _ask_network(session: Session, store: Store, bench: Bench) -> None:
    """Masks and scores of the round's network, joined by the carried labels where they are."""
    number = session.current.number
    carried: Iterator[Propagated] | None = None
    if number > 0 and bench.carrier is not None and bench.config.carrying.fused:
        carried = iter(_carried(session, store, bench, bench.carrier))
    network = load_network(store, bench, number)
    unseen = _unseen(session, store, bench) if carried is not None else []
    first = load_network(store, bench, 0) if unseen else None

    def evidence(prediction: DensePrediction) -> NDArray[np.float32]:
        assert prediction.probabilities is not None
        if first is None:
            return prediction.probabilities
        (before,) = predict(
            first,
            bench.frames,
            bench.source.size,
            device=bench.device,
            only=[prediction.frame],
            with_probabilities=True,
        )
        assert before.probabilities is not None
        return remember(prediction.probabilities, before.probabilities, unseen)

    def predictions(keep: _Keep) -> Iterator[FramePrediction]:
        dense = predict(
            network,
            bench.frames,
            bench.source.size,
            device=bench.device,
            with_probabilities=carried is not None,
            progress=bench.progress,
        )
        for prediction in dense:
            if carried is not None:
                shown = fuse(next(carried), evidence(prediction))
                keep(prediction.frame, shown.label_map, certainty_levels(shown.certainty))
            else:
                keep(prediction.frame, prediction.label_map, _levels(prediction.uncertainty))
            yield _scored(prediction, number + 1, bench)

    with _masks(store, bench, number) as keep:
        scores = Pool.of(predictions(keep))
    store.save_scores(number, scores)


def _unseen(session: Session, store: Store, bench: Bench) -> list[int]:
    """Classes that no answer shows yet, and for which the network of round 0 is asked.

    Where it showed them, answers have refuted it; if half as often as answers would that lay
    anywhere, its other claims are not believed either.
    """
    remembered = bench.config.carrying.remembered
    believed = known_classes(bench.checkpoint, bench.labels) if remembered else ()
    if not believed:
        return []
    count = len(bench.labels)
    claimed = np.load(_levels_path(store, 0, "").with_name(_COUNTS)).sum(axis=1)
    answers = all_answers(session, store)
    seen = _answered_classes(answers.values(), count)
    refuted, pixels = np.zeros(count, np.int64), 0
    for frame, answer in answers.items():
        known = answer.label_map != IGNORE
        shown = read_label_map(label_map_path(store, 0, bench.source.names[frame]))[known]
        refuted += np.bincount(shown, minlength=count)
        pixels += shown.size
    expected = claimed * pixels / claimed.sum()
    open_claims = ~seen & (refuted < expected / 2)
    return [label for label in believed if open_claims[label]]


def _scored(prediction: DensePrediction, round_number: int, bench: Bench) -> FramePrediction:
    """What the network says of the samples of a round in one frame."""
    segments, frame = bench.segments_of(round_number), prediction.frame
    return score_segments(prediction, segments[frame], segments.count(frame))


_Keep = Callable[[int, LabelMap, NDArray[np.uint8]], None]
"""Takes (frame, what is shown, the level of its certainty)."""


@contextmanager
def _masks(store: Store, bench: Bench, round_number: int) -> Iterator[_Keep]:
    """Keeps the label maps of a round and how certain they are, all of them or none."""
    counts = np.zeros((len(bench.labels), LEVELS), np.int64)
    with (
        atomic_directory(label_map_path(store, round_number, "").parent) as maps,
        atomic_directory(_levels_path(store, round_number, "").parent) as certainty,
    ):

        def keep(frame: int, label_map: LabelMap, levels: NDArray[np.uint8]) -> None:
            name = f"{bench.source.names[frame]}.png"
            counts[:] += count_levels(label_map, levels, len(bench.labels))
            PillowImage.fromarray(label_map).save(maps / name)
            PillowImage.fromarray(levels).save(certainty / name)

        yield keep
        np.save(certainty / _COUNTS, counts)


def _levels(uncertainty: Tensor) -> NDArray[np.uint8]:
    """`certainty_levels` of what the network says, taken before it leaves the device."""
    levels = ((1 - uncertainty) * LEVELS).clamp(max=LEVELS - 1).to(torch.uint8)
    return levels.cpu().numpy()


def _levels_path(store: Store, round_number: int, name: str) -> Path:
    """Where the certainty of a predicted label map lies, 8-bit PNG of levels."""
    return store.path("rounds", round_number, "certainty", f"{name}.png")


_COUNTS = "counts.npy"
"""int64 (C, LEVELS): pixels of a round's masks by class and level of certainty."""


def _propagate(session: Session, store: Store, bench: Bench) -> None:
    """The people's labels carried along the flow; the pre-trained network where none arrive."""
    number, names = session.current.number, bench.source.names
    carried = _carried(session, store, bench, bench.carrier or Carrier(bench.flow, None))
    reached = []
    with _masks(store, bench, number) as keep:
        for one in carried:
            reached.append(one.reached)
            guess = read_label_map(label_map_path(store, 0, names[one.frame]))
            levels = certainty_levels(np.sqrt(np.sqrt(one.confidence)))
            keep(one.frame, fill(one, guess), levels)
            bench.progress("reading carried labels", one.frame + 1, len(carried))
    with atomic_write(propagation_path(store, number)) as path:
        path.write_text(json.dumps({"reached_percent": 100 * float(np.mean(reached))}))
    # the network has learnt nothing, so what it says of the samples stands, unless the next are
    # others
    if bench.segments_of(number + 1) is bench.segments_of(number):
        scores = store.load_scores(number - 1)
    else:
        network = load_network(store, bench, number)
        dense = predict(
            network, bench.frames, bench.source.size, device=bench.device, progress=bench.progress
        )
        scores = Pool.of(_scored(prediction, number + 1, bench) for prediction in dense)
    store.save_scores(number, scores)


def _publish(session: Session, server: AnnotationServer, store: Store, bench: Bench) -> None:
    number = session.current.number
    server.publish(number, published_maps(session, store, number, bench.source.names))


def published_maps(
    session: Session, store: Store, round_number: int, names: Sequence[str]
) -> Iterator[tuple[int, LabelMap]]:
    """(frame, label map) as a round shows them: its predictions, and over them what people have
    answered."""
    answers = all_answers(session, store)
    for frame, name in enumerate(names):
        label_map = read_label_map(label_map_path(store, round_number, name))
        if frame in answers:
            known = answers[frame].label_map
            label_map = np.where(known == IGNORE, label_map, known)
        yield frame, label_map
