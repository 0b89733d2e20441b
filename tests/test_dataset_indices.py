"""Label maps of class values of any data set become what every command takes."""

from pathlib import Path

import numpy as np
import pytest

from tests.datasets import photo, read, refused, run, save

TABLE = "# of the data set\n7 road\n8: sidewalk\n\n26,car\n27 = car\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two sequences of one frame each, and their table."""
    values = np.array([[7, 8, 26], [27, 255, 7]], np.uint8)
    for sequence in ("seq01", "seq02"):
        photo(tmp_path / "src" / "images" / sequence / "000.jpg")
        save(tmp_path / "src" / "labels" / sequence / "000.png", values)
    (tmp_path / "values.txt").write_text(TABLE)
    return tmp_path / "src"


def test_values_get_their_names(tmp_path: Path, source: Path) -> None:
    mapping = ("--mapping", tmp_path / "values.txt")

    result = run("indices", source, *mapping, "--frames", "seq02_*", "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    expected = [[0, 1, 2], [2, 255, 0]]
    assert read(tmp_path / "out") == (("road", "sidewalk", "car"), {"seq02_000": expected})


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("7 road\n8 sidewalk\n27 car\n", "holds the value 26 (1 pixels, the first at x=2, y=0)"),
        ("7 road\n8 sidewalk\n27 car\n", "add a line there, for example `26 void`"),
        ("7 road\n7 car\n", "line 2: 7 is 'road' and 'car'; give each value one name"),
        ("7 road\nroad 8\n", "line 2: 'road 8' is no value from 0 to 254 with a name"),
        ("255 void\n", "line 1: '255 void' is no value from 0 to 254 with a name"),
        ("\n", "it names no class"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, source: Path, table: str, line: str) -> None:
    (tmp_path / "values.txt").write_text(table)
    mapping = ("--mapping", tmp_path / "values.txt")
    assert line in refused("indices", source, *mapping, "--out", tmp_path / "out")


def test_what_may_lack(tmp_path: Path, source: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert "indices needs one table of lines" in refused("indices", source, *out)
    mapping = ("--mapping", tmp_path / "values.txt")
    (source / "labels" / "seq02" / "000.png").unlink()
    line = refused("indices", source, *mapping, *out)
    assert "000.jpg has no label map seq02_000.png (1 label maps for 2 images)" in line
    save(source / "labels" / "seq02" / "000.png", np.zeros((2, 3, 3), np.uint8))
    assert "holds colours, not class indices" in refused("indices", source, *mapping, *out)
    line = refused("indices", source / "labels", *mapping, *out)
    assert "labels/images: No such file or directory; check the path" in line
    none = ("--mapping", tmp_path / "none.txt")
    assert "it cannot be read as text" in refused("indices", source, *none, *out)
