"""What the tests of data set readers share: files to write, and runs of `dataset import`."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image as PillowImage

from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.cli import main
from hvsa_cvat.simulation.datasets import check_labels, open_labels
from hvsa_cvat.video.frames import open_images


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(pixels).save(path)


def photo(path: Path, value: int = 100, size: tuple[int, int] = (2, 3)) -> None:
    save(path, np.full((*size, 3), value, np.uint8))


def run(*options: object) -> Result:
    return CliRunner().invoke(main, ["dataset", "import", *map(str, options)])


def refused(*options: object) -> str:
    """The one line of a run that fails and leaves nothing at `--out` or beside it."""
    out = Path(str(options[list(options).index("--out") + 1]))
    before = sorted(out.parent.rglob("*"))
    result = run(*options)
    assert result.exit_code != 0, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert sorted(out.parent.rglob("*")) == before
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def read(out: Path) -> tuple[tuple[str, ...], dict[str, list[list[int]]]]:
    """Classes and label maps, read as `pretrain` reads them."""
    labels = read_classes(str(out / "classes.txt"))
    frames = open_images(out / "images")
    maps = open_labels(out / "labels", frames, labels, frames.sizes)
    check_labels(maps)
    return labels.names, {name: maps[k].tolist() for k, name in enumerate(frames.names)}
