"""The two MATLAB files that bring the classes of NYU Depth V2 to 40, and these to 13."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from hvsa_cvat.errors import ConfigError


@dataclass(frozen=True)
class MatlabTable:
    """A mapping of classes to fewer ones."""

    path: Path
    kind: Literal["40", "13"]
    names: tuple[str, ...]
    """Of the new classes, which are numbered from 1."""
    targets: NDArray[np.int64]
    """int64 (C,): the new number of each old class; 0 for none."""


def read_table(path: Path) -> MatlabTable:
    """A file as `classMapping40.mat` or `class13Mapping.mat`, told by what it holds."""
    try:
        content = loadmat(path)
    except Exception as error:  # a damaged file makes scipy raise nearly anything
        raise ConfigError(
            f"--mapping {path}: it cannot be read as a MATLAB file ({error})"
        ) from error
    if "mapClass" in content and "className" in content:
        return _table(path, "40", content["className"], content["mapClass"])
    if "classMapping13" in content:
        labels, names = content["classMapping13"].item()[:2]
        return _table(path, "13", names, labels)
    raise ConfigError(
        f"--mapping {path}: it holds neither mapClass and className, as classMapping40.mat, nor "
        "classMapping13, as class13Mapping.mat"
    )


def _table(path: Path, kind: Literal["40", "13"], names: Any, targets: Any) -> MatlabTable:
    texts = tuple(str(np.ravel(name)[0]) for name in np.ravel(names))
    return MatlabTable(path, kind, texts, np.ravel(targets).astype(np.int64))
