"""One enrolled task as its folder has it now: the rounds, their records, and what was asked.

Files are read without their checksums, which the agent compares: a looker need not read the
checksums of all masks to show a page.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.cvat.state import Request, TaskMemory, memory_stamps, read_memory
from hvsa_cvat.database import Place, Where, place_of
from hvsa_cvat.errors import SessionError
from hvsa_cvat.report import class_colours
from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.checksums import Checksums
from hvsa_cvat.session.outlook import Outlook
from hvsa_cvat.session.records import Agreement, Planted, Selection
from hvsa_cvat.session.rounds import Round, Session
from hvsa_cvat.session.store import Store, session_stamps

_COLOUR = re.compile("#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")


@dataclass(frozen=True)
class RoundFacts:
    """One round, with the records in its folder."""

    round: Round
    clicks_so_far: int
    """Of all rounds up to this one."""
    clicks_percent: float | None
    """The same, in % of the clicks of annotating every frame; None before the first selection."""
    selection: Selection | None
    outlook: Outlook | None
    agreement: Agreement | None
    planted: Planted
    asked: datetime | None
    """When the samples were chosen, which is right before people were asked."""
    answered: datetime | None
    shown: datetime | None
    """When the masks of the round were made; None where they are not there."""

    @property
    def number(self) -> int:
        return self.round.number


@dataclass(frozen=True)
class Run:
    """One enrolled task."""

    place: Place
    session: Session
    memory: TaskMemory
    names: tuple[str, ...]
    """The name of each frame; it ends with CVAT's number of the frame."""
    colours: NDArray[np.uint8]
    """uint8 (C, 3) RGB: those of the labels in CVAT, else those of the report."""
    rounds: tuple[RoundFacts, ...]

    @property
    def root(self) -> Path:
        """The folder of the session."""
        return self.place.folder

    @property
    def planted(self) -> Planted:
        """What people did with the planted errors of all rounds."""
        return sum((one.planted for one in self.rounds), Planted())

    @property
    def current(self) -> RoundFacts:
        return self.rounds[-1]

    @property
    def newest_shown(self) -> int | None:
        """The last round whose masks are there."""
        return next((one.number for one in reversed(self.rounds) if one.shown), None)

    def files(self, number: int) -> RoundFiles:
        return RoundFiles(self.root, number, self._checksums)

    def bring(self, path: Path) -> None:
        """Fetch a file that only other machines have."""
        if not path.exists():
            self._checksums.check(path)

    @cached_property
    def _checksums(self) -> Checksums:
        if self.place.artefacts is None:
            return Checksums(self.root)
        return Store.peek_checksums(self.place)

    def request_of(self, number: int) -> Request | None:
        """What people were asked in a round; None where nobody was, or it is forgotten."""
        key = self.session.rounds[number].request
        return next((one for one in self.memory.requests if one.key == key), None)

    def asked_frames(self, number: int) -> NDArray[np.int64]:
        """int64 (N,): samples asked for in each frame in a round."""
        frames = np.array([one.frame for one in self.session.rounds[number].queried], np.int64)
        return np.bincount(frames[frames < len(self.names)], minlength=len(self.names))

    def number_of(self, frame: int) -> int:
        """CVAT's number of a frame."""
        numbers = self.memory.numbers
        return numbers[frame] if frame < len(numbers) else int(self.names[frame].split("_")[-1])


def read_run(where: Where) -> Run:
    """The task whose session is there; `SessionError` where there is none."""
    place = place_of(where)
    root, session = place.folder, Store.peek(place)
    if session is None:
        raise SessionError(f"{root} holds no session; withdraw the task and enroll it again")
    memory = read_memory(place / "cvat")
    return Run(
        place,
        session,
        memory,
        _names(root, memory),
        _colours(memory, len(session.labels)),
        tuple(_rounds(place, session)),
    )


class RunCache:
    """The tasks that were read last, each read again when its databases have changed: that is when
    a phase ends, a request is made or a job is read. Several threads may ask."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Place, tuple[Stamp, Run]] = OrderedDict()

    def read(self, where: Where) -> Run:
        """As `read_run`."""
        place = place_of(where)
        stamp = run_stamps([place])[place]
        with self._lock:
            kept = self._kept.get(place)
            if kept is not None and kept[0] == stamp:
                self._kept.move_to_end(place)
                return kept[1]
        run = read_run(place)
        with self._lock:
            self._kept[place] = stamp, run
            self._kept.move_to_end(place)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return run


Stamp = tuple[tuple[int, ...], tuple[int, ...]]


def run_stamps(places: Sequence[Place]) -> Mapping[Place, Stamp]:
    """Each changes whenever a phase ends, a request is made or a job is read."""
    memories = memory_stamps([place / "cvat" for place in places])
    return dict(zip(places, zip(session_stamps(places), memories, strict=True), strict=True))


def _names(root: Path, memory: TaskMemory) -> tuple[str, ...]:
    if memory.numbers:
        return tuple(f"frame_{number:06d}" for number in memory.numbers)
    # a workspace of version 0.1 that no pass has opened since
    return tuple(sorted(path.stem for path in (root / "rounds/0/label_maps").glob("frame_*.png")))


def _colours(memory: TaskMemory, classes: int) -> NDArray[np.uint8]:
    found = [_COLOUR.fullmatch(colour) for colour in memory.colours]
    colours = class_colours(classes)
    for index, match in enumerate(found[:classes]):
        if match is not None:
            colours[index] = [int(part, 16) for part in match.groups()]
    return colours


def _rounds(place: Place, session: Session) -> Iterator[RoundFacts]:
    """All percentages are of the newest estimate, so that they can be compared."""
    checksums = _of_records(place)
    every = [RoundFiles(place.folder, one.number, checksums) for one in session.rounds]
    selections = [files.selection() for files in every]
    full = next((found.full_clicks for found in reversed(selections) if found), None)
    clicks = 0
    for one, files, selection in zip(session.rounds, every, selections, strict=True):
        clicks += one.clicks or 0
        yield RoundFacts(
            one,
            clicks,
            None if full is None else 100 * clicks / full,
            selection,
            files.outlook(),
            files.agreement(),
            files.planted(),
            _written(files.folder / "selection.json"),
            _written(files.folder / "agreement.json"),
            _shown(files),
        )


def _of_records(place: Place) -> Checksums:
    """Of what is read of all rounds, where it may have to be fetched: a long video has tens of
    thousands of masks."""
    if place.artefacts is None:
        return Checksums(place.folder)
    return Store.peek_checksums(place, "%.json", f"%/{RoundFiles.COUNTS}")


def _shown(files: RoundFiles) -> datetime | None:
    """When the masks of a round were made."""
    here = _written(files.label_map_path("").parent)
    pruned = files.pruned() if here is None else None
    if pruned is not None and pruned.shown is not None:
        return datetime.fromtimestamp(pruned.shown, UTC)
    if here is None and files.has_level_counts():
        with suppress(SessionError):
            return _written(files.counts_path())
    return here


def _written(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None
