"""A simulated annotator: an annotation server that draws polygons around the truth.

The paper's experiments run the same rounds as CVAT's users do, with this server instead of CVAT.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from hvsa_cvat.annotation.clicks import AnnotationRules, click_cost, mimic_annotation
from hvsa_cvat.annotation.correcting import Answered, cheapest_answer
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_directory, atomic_write, write_npz
from hvsa_cvat.ports import FrameSource, Progress, SegmentMaps, Shown, silent
from hvsa_cvat.simulation.datasets import LabelMaps
from hvsa_cvat.types import AnswerKind, Answers, Clicks, FrameAnnotation, LabelMap, Sample

_DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, RuntimeError)


class SimulatedServer:
    """An `AnnotationServer` that answers every request at once, with polygons around `truths`.

    With a `tolerance`, in pixels, it corrects the masks that it is shown, where that takes fewer
    clicks than drawing (see `cheapest_answer`).

    Requests are kept in `folder/requests`, each with the segments and the masks of the time of the
    request, so that another process can collect them.
    """

    def __init__(
        self,
        frames: FrameSource,
        truths: LabelMaps,
        rules: AnnotationRules,
        folder: Path,
        tolerance: float | None = None,
    ) -> None:
        if len(truths) != len(frames):
            raise ValueError(f"{len(truths)} label maps for {len(frames)} frames")
        self._frames = frames
        self._truths = truths
        self._rules = rules
        self._folder = folder
        self._tolerance = tolerance

    def request(
        self,
        key: str,
        samples: Sequence[Sample],
        segments: SegmentMaps,
        expected_clicks: Sequence[float] = (),
        shown: Shown | None = None,
        expected_seconds: Sequence[float] = (),
    ) -> str:
        wanted = sorted(set(samples))
        if len(wanted) != len(samples):
            raise ValueError("a sample is requested twice")
        for sample in wanted:
            if not 0 <= sample.frame < len(self._frames):
                raise ValueError(f"{sample} lies outside the video")
            if not 0 <= sample.segment < segments.count(sample.frame):
                raise ValueError(f"{sample} lies outside its frame")
        request = hashlib.sha256(key.encode()).hexdigest()[:16]
        pairs = [[sample.frame, sample.segment] for sample in wanted]
        if self._path(request).exists():
            if self._read(request)["samples"] != pairs:
                raise SessionError(
                    f"request {key!r} in {self._folder} asked for other samples; "
                    "choose another folder"
                )
            return request
        with atomic_directory(self._path(request)) as folder:
            asked = sorted({sample.frame for sample in wanted})
            write_npz(folder / "segments.npz", ((str(t), segments[t]) for t in asked))
            if shown is not None:
                write_npz(folder / "shown.npz", ((str(t), shown.label_map(t)) for t in asked))
            content = {"key": key, "samples": pairs, "border_is_free": segments.border_is_free}
            content["exact"] = shown is not None and shown.exact
            (folder / "request.json").write_text(json.dumps(content))
        return request

    def collect(self, request: str) -> Answers:
        content = self._read(request)
        samples = [Sample(frame, segment) for frame, segment in content["samples"]]
        annotations: list[FrameAnnotation] = []
        clicks: dict[Sample, Clicks] = {}
        kinds: dict[Sample, AnswerKind] = {}
        for frame, group in groupby(samples, key=lambda sample: sample.frame):
            wanted = tuple(sample.segment for sample in group)
            tolerance = 0.0 if content.get("exact") else self._tolerance
            answer = self._answer(request, frame, wanted, content["border_is_free"], tolerance)
            annotations.append(FrameAnnotation(frame, wanted, answer.label_map))
            clicks.update({Sample(frame, one): spent for one, spent in answer.clicks.items()})
            kinds.update({Sample(frame, one): kind for one, kind in answer.kinds.items()})
        return Answers(tuple(annotations), clicks, kinds)

    def _answer(
        self,
        request: str,
        frame: int,
        wanted: Sequence[int],
        border_is_free: bool,
        tolerance: float | None,
    ) -> Answered:
        truth, segments = self._truths[frame], self._kept(request, "segments.npz", frame)
        if tolerance is None:
            drawn, clicks = mimic_annotation(truth, segments, wanted, self._rules, border_is_free)
            return Answered(drawn, {one: clicks[one] for one in wanted}, {})
        shown = self._kept(request, "shown.npz", frame)
        return cheapest_answer(
            truth, shown, segments, wanted, self._rules, border_is_free, tolerance
        )

    def revised(self, request: str) -> None:
        """None: the simulated annotator never changes an answer."""

    def corrections(self) -> tuple[FrameAnnotation, ...]:
        """Empty: the simulated annotator draws nothing outside requests."""
        return ()

    def publish(self, round_number: int, label_maps: Iterable[tuple[int, LabelMap]]) -> None:
        """Write each label map to `folder/published/NAME.png`, 8-bit class indices."""
        with atomic_directory(self._folder / "published") as folder:
            for frame, label_map in label_maps:
                PillowImage.fromarray(label_map).save(folder / f"{self._frames.names[frame]}.png")

    def full_cost(self, progress: Progress = silent) -> int:
        """How many clicks it takes to annotate every frame of the video as a whole.

        Shares of clicks are shares of this number. It is kept in `folder/full_cost.json`, and
        counted again only when the truths or the rules change.
        """
        cache = self._folder / "full_cost.json"
        digest = hashlib.sha256(json.dumps(asdict(self._rules)).encode())
        for frame in range(len(self._truths)):
            digest.update(self._truths[frame].tobytes())
        known = _read_cache(cache)
        if known.get("truths_and_rules") == digest.hexdigest():
            return int(known["clicks"])
        clicks = 0
        for frame in range(len(self._truths)):
            truth = self._truths[frame]
            whole = np.zeros(truth.shape, np.int32)
            clicks += int(click_cost(truth, whole, [0], self._rules, border_is_free=False)[0])
            progress("counting clicks", frame + 1, len(self._truths))
        with atomic_write(cache) as path:
            path.write_text(json.dumps({"truths_and_rules": digest.hexdigest(), "clicks": clicks}))
        return clicks

    def _path(self, request: str) -> Path:
        return self._folder / "requests" / request

    def _read(self, request: str) -> dict[str, Any]:
        path = self._path(request) / "request.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise _lost(path) from error
        return content

    def _kept(self, request: str, name: str, frame: int) -> NDArray[Any]:
        path = self._path(request) / name
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                kept: NDArray[Any] = archive[str(frame)]
        except (OSError, EOFError, ValueError, KeyError, *_DAMAGED_ZIP) as error:
            raise _lost(path) from error
        return kept


def _lost(path: Path) -> SessionError:
    return SessionError(
        f"{path} is missing or damaged; restore it from a copy, or start again in another folder"
    )


def _read_cache(path: Path) -> dict[str, Any]:
    """What was counted before; empty if the file is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
