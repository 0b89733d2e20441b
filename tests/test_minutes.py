"""The table of minutes in docs/results.md: what is run first, and what is said of it."""

from benchmarks import minutes
from benchmarks.minutes import CORRECTED, DRAWN, Reached
from benchmarks.results import GroupedClip, Point, Row

ONE, TWO = CORRECTED


def row(clip: str, setting: str, *points: tuple[float, float, float], seed: int = 0) -> Row:
    return Row(
        clip=clip,
        group="any",
        frames=50,
        setting=setting,
        seed=seed,
        budget="4%,10%",
        commit="abc",
        device="a processor",
        seconds=1.0,
        points=tuple(Point(clicks=c, miou=miou, minutes=spent) for c, miou, spent in points),
    )


def test_between_two_rounds_everything_lies_on_a_line() -> None:
    series = row("a", DRAWN, (0, 20, 0), (4, 60, 10), (8, 80, 30)).points
    assert minutes.at_clicks(series, 2) == Reached(40, 5)
    assert minutes.at_clicks(series, 4) == Reached(60, 10)
    assert minutes.at_clicks(series, 7) == Reached(75, 25)
    # it ended with 8 %, so with 10 % there is what it had then
    assert minutes.at_clicks(series, 10) == Reached(80, 30)
    assert minutes.for_miou(series, 70) == Reached(70, 20)
    assert minutes.for_miou(series, 81) is None


def test_the_first_runs_are_worth_most_to_an_unfinished_table() -> None:
    clip = GroupedClip.model_validate(
        dict.fromkeys(("video", "labels", "classes", "checkpoint", "size", "group"), "any")
    )
    due = minutes.due({"a": clip, "b": clip}, [0, 1], "4%,10%", "abc")
    assert [(run.name, run.setting, run.seed) for run in due[:6]] == [
        ("a", DRAWN, 0),
        ("a", ONE, 0),
        ("b", DRAWN, 0),
        ("b", ONE, 0),
        ("a", TWO, 0),
        ("b", TWO, 0),
    ]
    assert len(due) == 12


def test_minutes_are_compared_at_the_same_quality() -> None:
    rows = [
        row("a", DRAWN, (0, 20, 0), (4, 60, 10), (10, 80, 30)),
        row("a", DRAWN, (0, 20, 0), (4, 62, 10), (10, 80, 30), seed=1),
        row("a", ONE, (0, 20, 0), (4, 71, 10), (8, 91, 20)),
    ]
    told = minutes.report(rows, {"rooms": {"a"}, "other": {"b"}}, "abc", "4%,10%").splitlines()
    assert told[0] == "| | seeds | 4 % | 10 % |"
    assert told[2] == "| rooms, drawn | 2 | **61.0** ±1.4 (10 min) | **80.0** ±0.0 (30 min) |"
    assert told[3] == "| rooms, corrected to 1 px | 1 | **71.0** (10 min) | **91.0** (20 min) |"
    # 61 of the 51 points that the first 10 minutes bring; 80 is 9 of 20 points later
    assert "| rooms, 4 %: 61.0 | 10 | 8 min (80 %) |  |" in told
    assert "| rooms, 10 %: 80.0 | 30 | 14 min (48 %) |  |" in told


def test_nothing_measured_is_said() -> None:
    told = minutes.report([], {"rooms": {"a"}}, "abc", "4%,10%")
    assert told == "Nothing has been measured on commit abc yet."


def test_rows_of_older_versions_have_no_minutes_and_are_left_out() -> None:
    older = row("a", DRAWN).model_copy(update={"points": (Point(clicks=1, miou=2),)})
    told = minutes.report([older], {"rooms": {"a"}}, "abc", "4%,10%")
    assert told == "Nothing has been measured on commit abc yet."
