"""The files of a session: where each lies, and how it is written, checked and read.

`RoundFiles` are those of one round, `VideoFiles` those that belong to the video as a whole. What is
written here is flushed to the disk and noted in `Checksums`; what is read is checked first.
"""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from pydantic import BaseModel, ValidationError

from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_directory, atomic_write
from hvsa_cvat.selection.pool import Pool
from hvsa_cvat.session.answers import ANSWER_COLUMNS, answers_of, write_answers
from hvsa_cvat.session.checksums import FIX, Checksums
from hvsa_cvat.session.outlook import LEVELS, HeldOut, Outlook, count_levels
from hvsa_cvat.session.records import (
    Agreement,
    Ahead,
    Planted,
    Propagation,
    Pruned,
    RoundWork,
    Selection,
)
from hvsa_cvat.types import Answers, FrameAnnotation, LabelMap, Mask

M = TypeVar("M", bound=BaseModel)

# What numpy and zipfile raise for a damaged or foreign file; RuntimeError is how zipfile refuses
# flags that damage has set, TypeError what follows from a file that is no archive.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)

_POOL_COLUMNS = ("frames", "segments", "uncertainty", "features")

KeepMasks = Callable[[str, LabelMap, NDArray[np.uint8], Mask | None], None]
"""Takes (name of the frame, what is shown, the level of certainty of each pixel, where it shows
carried labels; None where nothing was carried)."""


@dataclass(frozen=True)
class RoundFiles:
    """The files of round `number` in the session's folder `root`."""

    root: Path
    number: int
    checksums: Checksums

    COUNTS: ClassVar[str] = "counts.npy"
    """Name of the file in which the pixels of the masks are counted."""

    @property
    def folder(self) -> Path:
        return self.root / "rounds" / str(self.number)

    def of_round(self, number: int) -> RoundFiles:
        """The files of another round of the same session."""
        return RoundFiles(self.root, number, self.checksums)

    # -- masks: what a round shows, and how certain it is

    def label_map_path(self, name: str) -> Path:
        """Where the predicted label map of a frame lies, 8-bit PNG at the frame's own size."""
        return self.folder / "label_maps" / f"{name}.png"

    def count_label_maps(self) -> int:
        """How many frames the round shows masks of."""
        folder = self.label_map_path("").parent
        recorded = sum(name.endswith(".png") for name in self.checksums.below(folder))
        return recorded or sum(1 for _ in folder.glob("*.png"))

    def label_map(self, name: str) -> LabelMap:
        """uint8 (H, W) of class indices."""
        return self._image(self.label_map_path(name))

    def certainty_levels(self, name: str) -> NDArray[np.uint8]:
        """uint8 (H, W): how certain each pixel of a predicted label map is, 0..LEVELS-1."""
        return self._image(self._certainty / f"{name}.png")

    def certainty(self, name: str) -> NDArray[np.float32]:
        """float32 (H, W), 0 to 1: the same, as the middle of the level."""
        levels = self.certainty_levels(name).astype(np.float32)
        return np.asarray((levels + 0.5) / LEVELS, np.float32)

    def carried_pixels(self, name: str) -> Mask | None:
        """Where the predicted label map of a frame shows the label that was carried there, whether
        the network agrees or not; the network's classes are elsewhere. None where nobody noted it,
        as in rounds of version 0.1."""
        path = self._origins / f"{name}.png"
        if not path.exists() and not self.checksums.knows(path):
            return None
        return self._image(path) > 0

    def level_counts(self) -> NDArray[np.int64]:
        """int64 (C, LEVELS): pixels of the round's masks by class and level of certainty."""
        path = self.counts_path()
        try:
            counts: NDArray[np.int64] = np.load(path, allow_pickle=False)
        except _UNREADABLE as error:
            raise SessionError(f"{path} is missing or damaged; {FIX}") from error
        return counts

    def counts_path(self) -> Path:
        """The file of these counts, which every round with masks has."""
        self._check_not_pruned(self._certainty / self.COUNTS)
        return self.checksums.check(self._certainty / self.COUNTS)

    def has_level_counts(self) -> bool:
        """Whether they are recorded."""
        return self.checksums.knows(self._certainty / self.COUNTS)

    @contextmanager
    def new_masks(self, classes: int) -> Iterator[KeepMasks]:
        """Keeps the masks of the round and how certain they are, all of them or none."""
        counts = np.zeros((classes, LEVELS), np.int64)
        folders = self.label_map_path("").parent, self._certainty, self._origins
        with (
            atomic_directory(folders[0]) as maps,
            atomic_directory(folders[1]) as certainty,
            atomic_directory(folders[2]) as origins,
        ):

            def keep(
                name: str, label_map: LabelMap, levels: NDArray[np.uint8], carried: Mask | None
            ) -> None:
                counts[:] += count_levels(label_map, levels, classes)
                origin = np.zeros(levels.shape, np.bool_) if carried is None else carried
                images = label_map, levels, origin
                for folder, final, image in zip(
                    (maps, certainty, origins), folders, images, strict=True
                ):
                    path = folder / f"{name}.png"
                    PillowImage.fromarray(image).save(path)
                    self.checksums.note(final / path.name, path)

            yield keep
            np.save(certainty / self.COUNTS, counts)
            self.checksums.note(self._certainty / self.COUNTS, certainty / self.COUNTS)

    # -- selection

    def scores(self) -> Pool:
        """What the network of the round says of the samples that may be asked for next."""
        return Pool(*self._arrays(self.folder / "scores.npz", _POOL_COLUMNS))

    def save_scores(self, scores: Pool) -> None:
        with self._written(self.folder / "scores.npz") as path:
            np.savez(path, **{name: getattr(scores, name) for name in _POOL_COLUMNS})

    def selection(self) -> Selection | None:
        """What SELECT found; None if it has not run."""
        path = self.checksums.check(self.folder / "selection.json")
        try:
            return Selection.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SessionError(f"{path} is damaged; {FIX}") from error

    def save_selection(self, selection: Selection) -> None:
        with self._written(self.folder / "selection.json") as path:
            path.write_text(json.dumps(selection.to_json()))

    def ahead(self) -> Ahead | None:
        """None where the samples were not chosen before the turn of the round."""
        try:
            return self._record(self.folder / "ahead.json", Ahead)
        except SessionError:
            return None

    def save_ahead(self, ahead: Ahead) -> None:
        self._save_record(self.folder / "ahead.json", ahead)

    # -- answers

    def answers(self) -> Answers:
        return answers_of(self._arrays(self.folder / "answers.npz", ANSWER_COLUMNS))

    def save_answers(self, answers: Answers) -> None:
        with self._written(self.folder / "answers.npz") as path:
            write_answers(path, answers)

    def corrections(self) -> Answers:
        """What people had drawn without being asked when the round was answered."""
        path = self.folder / "corrections.npz"
        if not path.exists() and not self.checksums.knows(path):
            return Answers(())
        return answers_of(self._arrays(path, ANSWER_COLUMNS))

    def save_corrections(self, corrections: Answers) -> None:
        """A round without corrections has no such file."""
        path = self.folder / "corrections.npz"
        if corrections.annotations or path.exists() or self.checksums.knows(path):
            with self._written(path) as temporary:
                write_answers(temporary, corrections)

    def planted_errors(self) -> tuple[FrameAnnotation, ...] | None:
        """The errors in the masks that people see in this round, as `plant` makes them; None before
        somebody is asked, and where nothing may be planted."""
        path = self.folder / "planted.npz"
        if not path.exists() and not self.checksums.knows(path):
            return None
        return answers_of(self._arrays(path, ANSWER_COLUMNS)).annotations

    def save_planted_errors(self, planted: Sequence[FrameAnnotation]) -> None:
        with self._written(self.folder / "planted.npz") as path:
            write_answers(path, Answers(tuple(planted)))

    def planted(self) -> Planted:
        """What people did with the planted errors of the round."""
        return self._record(self.folder / "planted.json", Planted) or Planted()

    def save_planted(self, planted: Planted) -> None:
        self._save_record(self.folder / "planted.json", planted)

    def agreement(self) -> Agreement | None:
        """None where the round has no answers yet."""
        return self._record(self.folder / "agreement.json", Agreement)

    def save_agreement(self, agreement: Agreement) -> None:
        self._save_record(self.folder / "agreement.json", agreement)

    def work(self) -> RoundWork | None:
        """None where the round has no answers yet, or an older version took them."""
        return self._record(self.folder / "work.json", RoundWork)

    def save_work(self, work: RoundWork) -> None:
        self._save_record(self.folder / "work.json", work)

    def held_out(self, classes: int) -> HeldOut:
        """The round's answers beside the masks that had not seen them."""
        path = self.folder / "held_out.npz"
        return HeldOut(self._arrays(path, None), classes)

    def save_held_out(self, tables: Sequence[NDArray[np.int64]]) -> None:
        """`tables` as `count_held_out` makes them, one for each answered frame."""
        with self._written(self.folder / "held_out.npz") as path:
            np.savez_compressed(path, *tables)

    # -- what the round has learnt

    @property
    def network(self) -> Path:
        """Where the fine-tuned network lies."""
        return self.folder / "network.safetensors"

    def note_network(self) -> None:
        """The network has been written."""
        self.checksums.note(self.network)

    def newest_network(self) -> Path | None:
        """The network that speaks for the round; a round that trains nothing keeps the one before.

        None if no round up to this one has trained any.
        """
        return self._newest(lambda files: files.network)

    @property
    def head(self) -> Path:
        """Where the refinement head lies."""
        return self.folder / "head.safetensors"

    def note_head(self) -> None:
        """The refinement head has been written."""
        self.checksums.note(self.head)

    def newest_head(self) -> Path | None:
        """The refinement head that speaks for the round, as `newest_network`."""
        return self._newest(lambda files: files.head)

    def _newest(self, of: Callable[[RoundFiles], Path]) -> Path | None:
        for number in range(self.number, 0, -1):
            path = of(self.of_round(number))
            if path.exists() or self.checksums.knows(path):
                return self.checksums.check(path)
        return None

    @property
    def training_state(self) -> Path:
        """Where a training that is not finished keeps its last epoch."""
        return self.folder / "training.pt"

    @property
    def carried(self) -> Path:
        """The folder of the carried labels, until the round's masks are stored."""
        return self.folder / "carried"

    def remove_carried(self) -> None:
        shutil.rmtree(self.carried, ignore_errors=True)

    def propagation(self) -> Propagation | None:
        """None where the round's masks do not come from label propagation."""
        return self._record(self.folder / "propagation.json", Propagation)

    def save_propagation(self, propagation: Propagation) -> None:
        self._save_record(self.folder / "propagation.json", propagation)

    def outlook(self) -> Outlook | None:
        """None where a round has none."""
        return self._record(self.folder / "outlook.json", Outlook)

    def save_outlook(self, outlook: Outlook) -> None:
        self._save_record(self.folder / "outlook.json", outlook)

    def metrics(self, model: type[M]) -> M | None:
        """The scores of the round in an experiment; None where they have to be computed."""
        path = self.folder / "metrics.json"
        try:
            return self._record(path, model)
        except SessionError:
            return None

    def save_metrics(self, metrics: BaseModel) -> None:
        self._save_record(self.folder / "metrics.json", metrics)

    def pruned(self) -> Pruned | None:
        """None where the masks were not removed to free space."""
        return self._record(self.folder / "pruned.json", Pruned)

    def save_pruned(self, pruned: Pruned) -> None:
        self._save_record(self.folder / "pruned.json", pruned)

    # -- how they are written and read

    @property
    def _certainty(self) -> Path:
        return self.folder / "certainty"

    @property
    def _origins(self) -> Path:
        return self.folder / "origins"

    @contextmanager
    def _written(self, path: Path) -> Iterator[Path]:
        with atomic_write(path) as temporary:
            yield temporary
            self.checksums.note(path, temporary)

    def _save_record(self, path: Path, record: BaseModel) -> None:
        with self._written(path) as temporary:
            temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def _record(self, path: Path, model: type[M]) -> M | None:
        self.checksums.check(path)
        try:
            return model.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ValidationError) as error:
            raise SessionError(f"{path} is damaged; {FIX}") from error

    def _check_not_pruned(self, path: Path) -> None:
        if not path.exists() and not self.checksums.knows(path) and self.pruned() is not None:
            raise SessionError(
                f"the masks of round {self.number} were removed by `hvsa-agent workspace prune`; "
                "take a later round, and give it --keep-rounds to keep more of them"
            )

    def _image(self, path: Path) -> NDArray[np.uint8]:
        self._check_not_pruned(path)
        self.checksums.check(path)
        try:
            with PillowImage.open(path, formats=["PNG"]) as image:
                return np.asarray(image, np.uint8)
        except (OSError, ValueError, SyntaxError) as error:
            raise SessionError(f"{path} is missing or damaged; {FIX}") from error

    def _arrays(self, path: Path, columns: Sequence[str] | None) -> list[NDArray[Any]]:
        """The named arrays of an npz file; None: all, in the order of the file."""
        self.checksums.check(path)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return [archive[column] for column in columns or archive.files]
        except FileNotFoundError as error:
            raise SessionError(f"{path} is missing; {FIX}") from error
        except _UNREADABLE as error:
            raise SessionError(f"{path} is truncated or foreign; {FIX}") from error


@dataclass(frozen=True)
class VideoFiles:
    """The files in the session's folder `root` that belong to no round."""

    root: Path
    checksums: Checksums

    @property
    def frames(self) -> Path:
        """The frames at the network's size."""
        return self.root / "frames.npy"

    @property
    def flow(self) -> Path:
        """The folder of their optical flow."""
        return self.root / "flow"

    @property
    def carrying_frames(self) -> Path:
        """The frames at the size at which labels are carried, where that is another one."""
        return self.root / "carrying" / "frames.npy"

    @property
    def carrying_flow(self) -> Path:
        return self.root / "carrying" / "flow"

    @property
    def features(self) -> Path:
        """The folder of the features by a backbone that does not learn."""
        return self.root / "features"

    @property
    def segments(self) -> Path:
        """The folder of superpixels."""
        return self.root / "segments"

    @contextmanager
    def checked(self, path: Path) -> Iterator[None]:
        """Check a file, or the files of a folder, before the caller uses or makes them.

        What is damaged is removed, so that the caller makes it again; what is new is noted.
        """
        before = _files(path)
        if not all(self.checksums.holds(file) for file in before):
            for file in before:
                self.checksums.forget(file)
                file.unlink(missing_ok=True)
            before = {}
        yield
        for file, stamp in _files(path).items():
            if before.get(file) != stamp:
                self.checksums.forget(file)
            if not self.checksums.knows(file):
                self.checksums.note(file)


def _files(path: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of writing of each file at or below `path`."""
    files = path.rglob("*") if path.is_dir() else [path]
    stamps = {file: file.stat() for file in files if file.is_file()}
    return {file: (stat.st_ino, stat.st_mtime_ns) for file, stat in stamps.items()}


@dataclass(frozen=True)
class NewestRecords:
    """The newest of each kind that the rounds of a session have; None where there is none."""

    selection: Selection | None = None
    agreement: Agreement | None = None
    outlook: Outlook | None = None
    planted: Planted = field(default_factory=Planted)
    """Of all rounds together."""


def newest_records(files: RoundFiles) -> NewestRecords:
    """Those up to the round of `files`."""
    rounds = [files.of_round(number) for number in range(files.number, -1, -1)]
    return NewestRecords(
        next((found for found in (one.selection() for one in rounds) if found), None),
        next((found for found in (one.agreement() for one in rounds) if found), None),
        next((found for found in (one.outlook() for one in rounds) if found), None),
        sum((one.planted() for one in rounds), Planted()),
    )
