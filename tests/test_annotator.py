import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from hvsa_cvat.annotation.clicks import AnnotationRules, mimic_annotation
from hvsa_cvat.errors import SessionError
from hvsa_cvat.ports import AnnotationServer, Shown
from hvsa_cvat.simulation.annotator import SimulatedServer
from hvsa_cvat.types import IGNORE, AnswerKind, Clicks, Image, LabelMap, Sample, SegmentMap, Size

SIZE = (20, 30)


class Frames:
    names = ("a", "b", "c")
    size: Size = SIZE

    def __len__(self) -> int:
        return 3

    def __getitem__(self, frame: int) -> Image:
        return np.zeros((*SIZE, 3), np.uint8)


class Halves:
    """Segment 0 is the left half of a frame, 1 the right half."""

    border_is_free = True

    def __len__(self) -> int:
        return 3

    def count(self, frame: int) -> int:
        return 2

    def __getitem__(self, frame: int) -> SegmentMap:
        return np.broadcast_to(np.arange(30) // 15, SIZE).astype(np.int32)


class Whole(Halves):
    border_is_free = False

    def count(self, frame: int) -> int:
        return 1

    def __getitem__(self, frame: int) -> SegmentMap:
        return np.zeros(SIZE, np.int32)


def truths() -> list[LabelMap]:
    """Frame 0 all road; frame 1 a disc of sky in the right half; frame 2 unlabelled."""
    y, x = np.mgrid[:20, :30]
    disc = ((x - 22) ** 2 + (y - 10) ** 2 <= 25).astype(np.uint8)
    return [np.zeros(SIZE, np.uint8), disc, np.full(SIZE, IGNORE, np.uint8)]


def server(folder: Path, epsilon: float = 1.0) -> SimulatedServer:
    return SimulatedServer(Frames(), truths(), AnnotationRules(epsilon), folder)


def test_it_is_an_annotation_server(tmp_path: Path) -> None:
    port: AnnotationServer = server(tmp_path)
    assert port.revised("never asked") is None
    assert port.corrections() == ()


def test_answers_are_drawn_inside_the_samples_only(tmp_path: Path) -> None:
    s = server(tmp_path)
    request = s.request("k", [Sample(1, 1), Sample(0, 0), Sample(2, 0)], Halves())
    answers = s.collect(request)
    assert [(a.frame, a.segments) for a in answers.annotations] == [(0, (0,)), (1, (1,)), (2, (0,))]
    first, second, third = (a.label_map for a in answers.annotations)
    assert (first[:, :15] == 0).all()
    assert (first[:, 15:] == IGNORE).all()
    assert (second[:, :15] == IGNORE).all()
    assert (third == IGNORE).all()
    # A drawn disc, near to the truth but not the truth itself.
    wrong = second[:, 15:] != truths()[1][:, 15:]
    assert 0 < wrong.mean() < 0.1
    assert answers.clicks[Sample(0, 0)] == Clicks(0, 1)
    assert answers.clicks[Sample(2, 0)] == Clicks(0, 0)
    drawn, spent = mimic_annotation(truths()[1], Halves()[1], [1], AnnotationRules(), True)
    assert second.tolist() == drawn.tolist()
    assert answers.clicks[Sample(1, 1)] == spent[1]
    assert spent[1].boundary >= 4


def test_whole_frames_pay_for_their_border(tmp_path: Path) -> None:
    s = server(tmp_path)
    answers = s.collect(s.request("k", [Sample(0, 0)], Whole()))
    assert answers.clicks == {Sample(0, 0): Clicks(4, 1)}


def test_a_request_outlives_the_process_and_is_made_once(tmp_path: Path) -> None:
    asked = [Sample(1, 1), Sample(0, 0)]
    request = server(tmp_path).request("hvsa://x/rounds/1", asked, Halves())
    again = server(tmp_path)
    assert again.request("hvsa://x/rounds/1", asked[::-1], Halves()) == request
    assert again.request("hvsa://x/rounds/2", asked, Halves()) != request
    one, two = again.collect(request), server(tmp_path).collect(request)
    assert one.clicks == two.clicks
    for a, b in zip(one.annotations, two.annotations, strict=True):
        assert a.label_map.tolist() == b.label_map.tolist()
    assert len(list((tmp_path / "requests").iterdir())) == 2
    with pytest.raises(SessionError, match=r"'hvsa://x/rounds/1' .* asked for other samples"):
        again.request("hvsa://x/rounds/1", asked[:1], Halves())


def correcting(folder: Path, tolerance: float = 1.0) -> SimulatedServer:
    return SimulatedServer(Frames(), truths(), AnnotationRules(1.0), folder, tolerance)


def test_what_is_right_is_confirmed_and_a_wrong_part_relabelled(tmp_path: Path) -> None:
    s = correcting(tmp_path)
    nearly = truths()[1]
    nearly[nearly == 1] = 2  # the disc has a wrong class
    masks = [truths()[0], nearly, truths()[0]]
    shown = Shown(0, masks.__getitem__, [1.0] * 3)
    request = s.request("k", [Sample(0, 0), Sample(1, 0), Sample(1, 1)], Halves(), [], shown)
    masks[:] = [np.full(SIZE, 2, np.uint8)] * 3  # too late

    answers = correcting(tmp_path).collect(request)

    assert answers.kinds == {
        Sample(0, 0): AnswerKind.CONFIRMED,
        Sample(1, 0): AnswerKind.CONFIRMED,
        Sample(1, 1): AnswerKind.CORRECTED,
    }
    assert [answers.clicks[one].total for one in answers.kinds] == [1, 1, 2]
    assert answers.annotations[1].label_map.tolist() == truths()[1].tolist()
    assert answers.by_kind() == {AnswerKind.CONFIRMED: (2, 2), AnswerKind.CORRECTED: (1, 2)}


def test_masks_of_nothing_right_are_drawn_anew(tmp_path: Path) -> None:
    s = correcting(tmp_path)
    noise = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
    shown = Shown(0, lambda frame: noise, [0.3, 0.3])
    answers = s.collect(s.request("k", [Sample(1, 0), Sample(1, 1)], Halves(), [], shown))
    assert set(answers.kinds.values()) == {AnswerKind.DRAWN}
    plain = server(tmp_path / "plain")
    drawn = plain.collect(plain.request("k", [Sample(1, 0), Sample(1, 1)], Halves()))
    assert answers.clicks == drawn.clicks


def test_without_masks_there_is_nothing_to_correct(tmp_path: Path) -> None:
    s = correcting(tmp_path)
    with pytest.raises(SessionError, match=r"shown.npz is missing or damaged"):
        s.collect(s.request("k", [Sample(0, 0)], Halves()))


def test_nonsense_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    s = server(tmp_path)
    for bad in ([Sample(0, 2)], [Sample(3, 0)], [Sample(-1, 0)], [Sample(0, 0)] * 2):
        with pytest.raises(ValueError, match=r"[sS]ample"):
            s.request("k", bad, Halves())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="2 label maps for 3 frames"):
        SimulatedServer(Frames(), truths()[:2], AnnotationRules(), tmp_path)


def test_lost_requests_are_named(tmp_path: Path) -> None:
    s = server(tmp_path)
    with pytest.raises(SessionError, match=r"nothing/request\.json is missing or damaged"):
        s.collect("nothing")
    request = s.request("k", [Sample(0, 0)], Halves())
    segments = tmp_path / "requests" / request / "segments.npz"
    segments.write_bytes(segments.read_bytes()[:-30])
    with pytest.raises(SessionError, match=r"segments\.npz is missing or damaged"):
        s.collect(request)


def read(path: Path) -> list[list[int]]:
    with PillowImage.open(path) as image:
        assert image.mode == "L"
        return np.array(image).tolist()


def test_predictions_are_published_as_a_whole(tmp_path: Path) -> None:
    s = server(tmp_path)
    folder = tmp_path / "published"
    s.publish(2, [(0, truths()[0]), (1, truths()[0])])
    s.publish(2, iter([(1, truths()[1])]))
    assert [p.name for p in folder.iterdir()] == ["b.png"]
    assert read(folder / "b.png") == truths()[1].tolist()

    def stopped() -> Iterator[tuple[int, LabelMap]]:
        yield 0, truths()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        s.publish(2, stopped())
    assert [p.name for p in folder.iterdir()] == ["b.png"]
    assert [p.name for p in folder.parent.iterdir()] == ["published"]


def test_the_cost_of_all_frames_is_counted_once(tmp_path: Path) -> None:
    s = server(tmp_path)
    counted: list[tuple[str, int, int]] = []
    whole = s.collect(s.request("all", [Sample(t, 0) for t in range(3)], Whole()))
    assert s.full_cost(lambda *step: counted.append(step)) == whole.total_clicks
    assert counted[-1] == ("counting clicks", 3, 3)
    counted.clear()
    assert server(tmp_path).full_cost(lambda *step: counted.append(step)) == whole.total_clicks
    assert counted == []
    assert server(tmp_path, 0.0).full_cost() > whole.total_clicks
    cache = tmp_path / "full_cost.json"
    for broken in ("", "[1]", json.dumps({"clicks": 1})):
        cache.write_text(broken)
        assert s.full_cost() == whole.total_clicks
