from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from published_task import CAR, ROAD_AND_SKY, WITH_CAR, field_of

from hvsa_cvat.cvat.masks import ownership
from hvsa_cvat.cvat.masks.ownership import read_labels, read_shapes
from hvsa_cvat.errors import ServerError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SHAPES = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)
ANSWERS = st.dictionaries(
    st.text(max_size=6), st.lists(SHAPES, max_size=4) | st.integers() | st.text(), min_size=1
)


def elements(text: str, block: int) -> list[tuple[str, str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership, "_BLOCK", block)
        return list(ownership._elements(ownership._Text(io.StringIO(text))))


@given(answer=ANSWERS, block=st.integers(1, 40), indent=st.sampled_from([None, 0, 2]))
def test_shapes_are_read_one_by_one_wherever_the_blocks_end(
    answer: dict[str, Any], block: int, indent: int | None
) -> None:
    text = json.dumps(answer, indent=indent, ensure_ascii=False)
    found = elements(text, block)
    lists = {key: rows for key, rows in answer.items() if isinstance(rows, list)}
    assert [(key, row) for key, _, row in found] == [
        (key, row) for key, rows in lists.items() for row in rows
    ]
    assert all(json.loads(source) == row for _, source, row in found)


@pytest.mark.parametrize("text", ['{"version": 0, "shapes": [{"id": 1}, {"id": 2}]}'])
def test_what_is_cut_off_is_an_error(text: str) -> None:
    assert len(elements(text, 1000)) == 2
    for end in range(len(text)):
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|in place of"):
            elements(text[:end], 5)


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
