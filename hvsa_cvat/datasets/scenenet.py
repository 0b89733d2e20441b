"""SceneNet RGB-D: rendered trajectories through rooms, whose pixels tell the object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hvsa_cvat.datasets.labelled import UNKNOWN, Dataset, IndexMap
from hvsa_cvat.datasets.pairs import Pair, pair_names, read_pair
from hvsa_cvat.datasets.scenenet_file import SceneObject, Trajectory, read_trajectories
from hvsa_cvat.errors import ConfigError, MediaError
from hvsa_cvat.plain_text import decode_text
from hvsa_cvat.video.images import opened_image

_NO_INSTANCE = -2
_NAMED = 5
"""Objects that a remark names."""


@dataclass(frozen=True)
class _Naming:
    """How objects become classes."""

    classes: tuple[str, ...]
    class_of: Callable[[SceneObject], str | None]

    def table(self, trajectory: Trajectory) -> IndexMap:
        """int32 (N,): the class index of each instance; `_NO_INSTANCE` where there is none."""
        table = np.full(max(trajectory.objects) + 1, _NO_INSTANCE, np.int32)
        for instance, thing in trajectory.objects.items():
            name = self.class_of(thing) if thing is not None else None
            table[instance] = UNKNOWN if name is None else self.classes.index(name)
        return table


def open_scenenet(folder: Path, protobuf: Path | None, mappings: Sequence[Path]) -> Dataset:
    """The trajectories that lie in `folder`, as 0/223/photo/ and 0/223/instance/.

    Classes are the English names of the objects, or those that the mapping gives to WordNet ids.
    """
    source = protobuf or _find_protobuf(folder)
    described = read_trajectories(source)
    here = [one for one in described if (folder / one.path / "photo").is_dir()]
    if not here:
        raise MediaError(
            f"{folder} holds none of the {len(described)} trajectories of {source}, such as "
            f"{described[0].path}/photo; give the folder in which these paths begin"
        )
    things = {thing for one in here for thing in one.objects.values() if thing is not None}
    naming, remarks = _naming(things, mappings)
    pairs: list[Pair] = []
    tables: list[IndexMap] = []
    for trajectory in here:
        found = _pairs(folder, trajectory)
        pairs += found
        tables += [naming.table(trajectory)] * len(found)
    return Dataset(
        naming.classes,
        pair_names(pairs),
        lambda k: read_pair(pairs[k], partial(_read, table=tables[k], source=source)),
        remarks=remarks,
    )


def _find_protobuf(folder: Path) -> Path:
    found = sorted(folder.glob("*.pb")) or sorted(folder.absolute().parent.glob("*.pb"))
    if len(found) != 1:
        raise ConfigError(
            f"{len(found) or 'no'} files *.pb lie in {folder} or beside it; name the protobuf of "
            "its trajectories by --protobuf"
        )
    return found[0]


def _naming(things: set[SceneObject], mappings: Sequence[Path]) -> tuple[_Naming, tuple[str, ...]]:
    if not mappings:
        english = sorted({thing.english for thing in things}, key=str.casefold)
        return _Naming(tuple(english), lambda thing: thing.english), ()
    if len(mappings) > 1:
        raise ConfigError("scenenet takes one --mapping; leave the others out")
    mapping = _read_mapping(mappings[0])
    naming = _Naming(
        tuple(sorted(set(mapping.values()), key=str.casefold)),
        lambda thing: mapping.get(_number(thing.wordnet)),
    )
    return naming, _unmapped(things, mapping, mappings[0])


def _unmapped(things: set[SceneObject], mapping: Mapping[int, str], path: Path) -> tuple[str, ...]:
    names = sorted({one.english for one in things if _number(one.wordnet) not in mapping})
    if not names:
        return ()
    dots = ", ..." if len(names) > _NAMED else ""
    return (
        f"{path} gives no class to {', '.join(names[:_NAMED])}{dots}: their pixels are unlabelled",
    )


def _read_mapping(path: Path) -> dict[int, str]:
    """Classes by WordNet id: lines of an id, a name and a class, below a heading."""
    try:
        lines = decode_text(path.read_bytes()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--mapping {path}: it cannot be read as text ({error})") from error
    mapping: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        parts = line.split(maxsplit=2)
        if not parts or (number == 1 and not parts[0].isdecimal()):
            continue
        if len(parts) < 3 or not parts[0].isdecimal():
            raise ConfigError(
                f"--mapping {path}, line {number}: {line!r} is no WordNet id with a name and a "
                "class; take the data set's wnid_to_class.txt"
            )
        mapping[int(parts[0])] = parts[2].strip()
    if not mapping:
        raise ConfigError(f"--mapping {path}: it names no class; take wnid_to_class.txt")
    return mapping


def _number(wordnet: str) -> int:
    return int(wordnet) if wordnet.isdecimal() else UNKNOWN


def _pairs(folder: Path, trajectory: Trajectory) -> list[Pair]:
    """A pair for each view, in order of time."""
    place = folder / trajectory.path
    kinds = (("photo", ".jpg"), ("instance", ".png"))
    pairs = []
    present = {path for kind, _ in kinds for path in (place / kind).glob("*")}
    for frame in trajectory.frames:
        image, labels = (place / kind / f"{frame}{suffix}" for kind, suffix in kinds)
        for path in (image, labels):
            if path not in present:
                raise MediaError(
                    f"{path} is missing, and the protobuf lists frame {frame}; copy the "
                    "trajectory again or remove its folder"
                )
        name = f"{trajectory.path.replace('/', '_')}_{frame:04d}"
        pairs.append(Pair(name, image, labels))
    return pairs


def _read(path: Path, table: IndexMap, source: Path) -> IndexMap:
    with opened_image(path) as image:
        mode, instances = image.mode, np.array(image)
    if mode != "L" and not mode.startswith("I"):
        raise MediaError(f"{path} holds colours, not instances; copy the trajectory again")
    padded = np.append(table, np.int32(_NO_INSTANCE))
    indices: IndexMap = padded[np.minimum(instances, len(table))]
    if (indices == _NO_INSTANCE).any():
        wrong = int(instances[indices == _NO_INSTANCE].max())
        raise MediaError(
            f"{path} shows instance {wrong}, which {source} does not describe; name the protobuf "
            "that belongs to the folder by --protobuf"
        )
    return indices
