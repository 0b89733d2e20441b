"""What a finished session no longer needs, and how it is freed.

Records, answers and everything else that people gave stay, and so do the first round and the last
ones with their masks: what `extend`, `report` and `export` of these rounds read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hvsa_cvat.objects import is_pack
from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.checksums import is_local
from hvsa_cvat.session.records import Pruned
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store

_MASKS = ("label_maps", "certainty", "origins")
_LEARNT = ("network.safetensors", "head.safetensors")
_MADE_AGAIN = ("flow", "carrying/flow", "features")
_LEFT_OVER = ("training.pt", "carried")


@dataclass(frozen=True)
class Spare:
    """What can be freed of one session."""

    rounds: tuple[int, ...]
    """Whose masks are freed."""
    names: tuple[str, ...]
    """Recorded files."""
    paths: tuple[Path, ...]
    """Files and folders on this machine."""
    bytes: int
    """On this machine."""


def find_spare(session: Session, store: Store, keep_rounds: int) -> Spare:
    """What a finished session does without, where the masks of its last `keep_rounds` rounds, and
    those of round 0, are kept. Nothing of a session that is not finished."""
    if not session.done:
        return Spare((), (), (), 0)
    done = [one.number for one in session.rounds if one.phase is Phase.DONE]
    kept = {0, *done[-keep_rounds:]}
    needed = {_newest(store, number, name) for number in kept for name in _LEARNT}
    old = [number for number in done if number not in kept]
    paths = [store.path(name) for name in _MADE_AGAIN]
    for number in old:
        folder = store.round(number).folder
        paths += [folder / name for name in (*_MASKS, "scores.npz")]
        paths += [folder / name for name in _LEARNT if folder / name not in needed]
    for number in done:
        paths += [store.round(number).folder / name for name in _LEFT_OVER]
    recorded = [name for path in paths for name in _recorded(store, path)]
    masks = {name.split("/")[1] for name in recorded if name.split("/")[2:3] == ["label_maps"]}
    there = tuple(path for path in paths if path.exists())
    size = sum(file.stat().st_size for path in there for file in _files(path))
    return Spare(tuple(sorted(map(int, masks))), tuple(recorded), there, size)


def free(store: Store, spare: Spare) -> list[tuple[str, str]]:
    """Forget and remove it. Returns names and checksums of the objects that nothing needs now."""
    for number in spare.rounds:
        files = store.round(number)
        files.save_pruned(Pruned(shown=_written(files)))
    freed = store.drop(spare.names)
    for path in spare.paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return [(name, checksum) for name, checksum in freed if not is_local(name)]


def _newest(store: Store, number: int, name: str) -> Path | None:
    """The file of this name that speaks for a round, as `RoundFiles.newest_network`."""
    paths = [store.round(one).folder / name for one in range(number, 0, -1)]
    return next((one for one in paths if one.exists() or store.checksums.knows(one)), None)


def _recorded(store: Store, path: Path) -> list[str]:
    own = path.relative_to(store.root).as_posix()
    found = [*store.checksums.below(path), *([own] if store.checksums.knows(path) else [])]
    return [name for name in found if is_pack(name) or not name.endswith(".json")]


def _written(files: RoundFiles) -> float | None:
    try:
        return files.label_map_path("").parent.stat().st_mtime
    except OSError:
        return None


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (one for one in path.rglob("*") if one.is_file())
