"""Class lists as people save them: each gives its names, or one line that says what is unclear."""

from pathlib import Path

import pytest

from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.errors import ConfigError

NAMES = ("floor", "box", "ball")


def test_names_in_the_option_itself() -> None:
    assert read_classes("floor, box,ball").names == NAMES
    assert read_classes("a/b,c").names == ("a/b", "c")
    assert read_classes(",".join(f"name_{i:03d}" for i in range(250))).names[249] == "name_249"
    with pytest.raises(ConfigError, match="a class name is empty"):
        read_classes("floor,,ball")


@pytest.mark.parametrize(
    "text",
    [
        "floor\nbox\nball\n",
        "\ufefffloor\r\nbox\r\nball\r\n",
        "\n floor \n\nbox\nball",
        "# my classes\nfloor\nbox\nball\n",
        "Classes:\nfloor\nbox\nball\n",
        "0 floor\n1 box\n2 ball\n",
        "2: ball\n0: floor\n1: box\n",
        "0,floor\n1,box\n2,ball\n",
        "id,name,colour\n1,box,red\n0,floor,grey\n2,ball,blue\n",
        "# label:color_rgb:parts:actions\nfloor:90,90,90::\nbox:200,40,40::\nball:40,60,220::\n",
    ],
)
@pytest.mark.parametrize("name", ["classes.txt", "classes.TXT", "voc.names", "classes", "a,b.txt"])
def test_lists_of_one_name_a_line(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_classes(str(tmp_path / name)).names == NAMES


@pytest.mark.parametrize(
    "text",
    [
        "name\nfloor\nbox\nball\n",
        "floor\nbox\nball\n",
        "floor,box,ball\n",
        "Class Name;Index\nfloor;0\nball;2\nbox;1\n",
        "floor,0\nbox,1\nball,2\n",
        '"0","floor"\n"1","box"\n"2","ball"\n',
    ],
)
def test_tables(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    assert read_classes(str(tmp_path / "classes.csv")).names == NAMES


def test_a_list_that_another_editor_saved_as_utf_16(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("floor\nbox\nbäll\n", encoding="utf-16")
    assert read_classes(str(tmp_path / "classes.txt")).names == ("floor", "box", "bäll")


def test_a_list_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "classes.txt").write_text("floor\nbox\n")
    assert read_classes("~/classes.txt").names == ("floor", "box")


def test_names_that_hold_commas_and_numbers_stay_whole(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("traffic light, red\n30 zone\nsky\n")
    assert read_classes(str(tmp_path / "classes.txt")).names == (
        "traffic light, red",
        "30 zone",
        "sky",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "floor\n# movable\nbox\n", "line 2 begins with '#': '# movable'"),
        ("a.txt", "#1 player\n#2 player\n", "line 1 begins with '#': '#1 player'"),
        ("a.txt", "1 floor\n2 box\n", "numbered 1, 2..., but class indices begin with 0"),
        ("a.txt", "0 floor\n0 box\n", "numbered 0, 0"),
        ("a.txt", "\n\n", "names no class"),
        ("a.csv", "floor,90,90,90\nbox,200,40,40\n", "no column of the table is titled 'name'"),
        ("a.yaml", "names: [floor]\n", "no list that can be read"),
        ("a.txt", "floor\nbox\nfloor\n", "class 'floor' is named twice"),
    ],
)
def test_what_can_be_read_in_two_ways_is_asked_about(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as told:
        read_classes(str(tmp_path / name))
    assert message in str(told.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothere.txt'?: the file cannot be read \(No such file"):
        read_classes(str(tmp_path / "nothere.txt"))
    (tmp_path / "latin.txt").write_bytes("b\xe4ll\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        read_classes(str(tmp_path / "latin.txt"))
