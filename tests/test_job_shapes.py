from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.cvat.masks.annotations import Annotation, read_annotations
from hvsa_cvat.cvat.masks.job_shapes import read_shapes
from hvsa_cvat.cvat.masks.task_labels import read_labels
from hvsa_cvat.errors import ServerError
from tests.published_task import CAR, ROAD_AND_SKY, WITH_CAR, field_of

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Surrogates alone are no text, and no server can store them.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), max_size=4)


class Download:
    """In place of a client: an answer of the server."""

    class address:
        url = "https://cvat.example"

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def download(self, path: str, target: Path) -> None:
        target.write_bytes(self._answer)


def annotations_of(answer: bytes, folder: Path) -> list[Annotation]:
    client: Any = Download(answer)
    return list(read_annotations(client, 7, folder))


@given(shapes=ROWS, tracks=ROWS, tags=ROWS, indent=st.sampled_from([None, 0, 2]))
@settings(deadline=None)
def test_annotations_are_read_as_they_were_sent(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[Any],
    tracks: list[Any],
    tags: list[Any],
    indent: int | None,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    answer = {"version": 0, "tags": tags, "shapes": shapes, "tracks": tracks, "more": {"x": []}}
    found = annotations_of(json.dumps(answer, indent=indent, ensure_ascii=False).encode(), folder)
    expected = [("shape", row) for row in shapes] + [("track", row) for row in tracks]
    assert [(one.kind, one.content) for one in found] == expected
    assert all(json.loads(one.text) == one.content for one in found)


def test_an_answer_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    text = b'{"version": 0, "shapes": [{"id": 1}, {"id": 2}], "tracks": []}'
    assert len(annotations_of(text, tmp_path)) == 2
    for end in range(len(text)):
        with pytest.raises(ServerError, match="annotations of job 7 cannot be understood"):
            annotations_of(text[:end], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_memory_holds_one_annotation_at_a_time(tmp_path: Path) -> None:
    shape = {"id": 1, "frame": 0, "points": [100.0] * 10_000}
    answer = json.dumps({"shapes": [shape] * 500, "tracks": []}).encode()
    client: Any = Download(answer)
    tracemalloc.start()
    count = sum(1 for _ in read_annotations(client, 7, tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 500
    assert len(answer) > 30 * 2**20
    assert peak < 2**20


def test_an_answer_that_is_no_annotations_is_named() -> None:
    with field_of() as field:
        labels = read_labels(field.client, field.state, field.task.id, field.task.label_ids)
        row = field.client.get(f"jobs/{field.jobs[0]}")
        serve = field.cvat.serve

        def other(request: Any, *rest: Any) -> Any:
            answer = serve(request, *rest)
            answer.body = ["no", "annotations"]
            return answer

        field.cvat.serve = other  # type: ignore[method-assign]
        with pytest.raises(ServerError, match=r"annotations of job \d+ cannot be understood"):
            read_shapes(field.client, field.state, labels, row)
        assert not (field.state.folder / "annotations.json").exists()


def test_reading_puts_the_ledger_right() -> None:
    with field_of() as field:
        (job,) = field.jobs
        field.publish(1, WITH_CAR)
        cars = [row["id"] for row in field.shapes() if row["label_id"] == field.label(CAR)]
        field.people.move(job, cars[0], [0, 4, 1, 1, 2, 2])
        field.people.delete(job, cars[1])
        drawn = field.draw(job, 0, [0, 0, 2, 0, 2, 2, 0, 2])
        labels = read_labels(field.client, field.state, field.task.id, field.task.label_ids)
        shapes = read_shapes(field.client, field.state, labels, field.client.get(f"jobs/{job}"))
        ours = {shape for ids in shapes.own.values() for shape in ids.values()}
        assert ours == {row["id"] for row in field.shapes()} - {cars[0], drawn}
        assert ours == {one.shape for one in field.state.ledger.pushed(job)}
        people = [json.loads(text)["id"] for text in shapes.people[0]]
        assert sorted(people) == sorted([cars[0], drawn])
        assert (shapes.surplus, shapes.tracks, shapes.edited) == ({}, [], 1)


def test_only_what_is_exactly_as_intended_is_taken_for_ours() -> None:
    with field_of() as field:
        (job,) = field.jobs
        labels = read_labels(field.client, field.state, field.task.id, field.task.label_ids)
        field.publish(1, ROAD_AND_SKY)
        shape = field.shapes()[0]
        print_ = labels.fingerprint(shape)
        field.state.ledger.forget_job(job)
        field.people.copy(job, shape["id"])
        field.people.relabel(job, shape["id"], field.label(CAR))
        field.state.ledger.intend(job, [(shape["frame"], print_)])
        row = field.client.get(f"jobs/{job}")
        assert read_shapes(field.client, field.state, labels, row).own == {}
        back = {k: v for k, v in shape.items() if k not in ("id", "job")}
        again = [field.people.save(job, "create", "shapes", back) for _ in range(2)]
        found = read_shapes(field.client, field.state, labels, row)
        assert found.own == {shape["frame"]: {print_: again[0]}}
        assert [json.loads(text)["id"] for text in found.people[shape["frame"]]][-1] == again[1]
