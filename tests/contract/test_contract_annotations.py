"""Shapes of a job: what is stored, what comes back, and the three ways of writing."""

from typing import Any

import pytest

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Refused
from hvsa_cvat.errors import ServerError
from tests.contract.place import UNSET, Json

BOX = [1.0, 2.0, 9.0, 8.0]


def write(client: CvatClient, job: Json, action: str, *shapes: Json, kind: str = "shapes") -> Any:
    answer = client.send("PATCH", f"jobs/{job['id']}/annotations", {kind: shapes}, action=action)
    return answer[kind]


def read(client: CvatClient, job: Json, kind: str = "shapes") -> dict[int, Json]:
    """By id: the server promises no order."""
    rows = client.get(f"jobs/{job['id']}/annotations")[kind]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


@pytest.fixture
def road(labels: dict[str, Json]) -> int:
    number: int = labels["road"]["id"]
    return number


def box(road: int, points: list[float] = BOX, **fields: Any) -> Json:
    return {"type": "rectangle", "frame": 0, "label_id": road, "points": points} | fields


def stub(shape: Json) -> Json:
    """The least that a deletion takes."""
    return box(shape["label_id"], [0, 0, 1, 1], id=shape["id"], frame=shape["frame"])


def test_a_new_job_is_empty(client: CvatClient, job: Json) -> None:
    answer = client.get(f"jobs/{job['id']}/annotations")
    assert {kind: answer[kind] for kind in ("tags", "shapes", "tracks")} == {
        "tags": [],
        "shapes": [],
        "tracks": [],
    }


def test_create_answers_in_the_order_of_the_request(
    client: CvatClient, job: Json, road: int
) -> None:
    sent = [box(road, [n, 0, n + 1, 1], z_order=-n) for n in (4, 0, 3, 1, 2)]
    made = write(client, job, "create", *sent)
    assert [shape["points"] for shape in made] == [shape["points"] for shape in sent]
    assert len({shape["id"] for shape in made}) == 5
    assert read(client, job) == {shape["id"]: shape for shape in made}


def test_what_is_left_out_is_filled_in(client: CvatClient, job: Json, road: int) -> None:
    (shape,) = write(client, job, "create", box(road))
    expected = {"source": "manual", "z_order": 0, "occluded": False, "outside": False}
    expected |= {"rotation": 0.0, "attributes": [], "elements": []}
    assert {name: shape[name] for name in expected} == expected
    assert not shape["group"]


def test_an_attribute_left_out_has_its_default_when_read(
    client: CvatClient, job: Json, labels: dict[str, Json]
) -> None:
    """But not in the answer to the creation."""
    line = labels["line"]
    (spec,) = line["attributes"]
    drawn = box(line["id"], [0, 0, 4, 0, 4, 4, 0, 0], type="polyline")
    (made,) = write(client, job, "create", drawn)
    assert made["attributes"] == []
    default = [{"spec_id": spec["id"], "value": UNSET}]
    assert read(client, job) == {made["id"]: {**made, "attributes": default}}


def test_a_relabelled_shape_has_the_attributes_of_its_new_label(
    client: CvatClient, job: Json, labels: dict[str, Json]
) -> None:
    line, road = labels["line"], labels["road"]["id"]
    (spec,) = line["attributes"]
    chosen = [{"spec_id": spec["id"], "value": "sky"}]
    drawn = box(line["id"], [0, 0, 4, 0, 4, 4, 0, 0], type="polyline", attributes=chosen)
    (made,) = write(client, job, "create", drawn)
    write(client, job, "update", {**made, "label_id": road, "attributes": []})
    assert read(client, job)[made["id"]]["attributes"] == []
    write(client, job, "update", made | {"attributes": []})
    assert read(client, job)[made["id"]]["attributes"] == [{"spec_id": spec["id"], "value": UNSET}]


def test_masks_come_back_as_the_same_numbers(
    client: CvatClient, job: Json, labels: dict[str, Json]
) -> None:
    """Run lengths and an inclusive box; integers go, floats come."""
    points = [0, 3, 2, 1, 4, 2, 5, 3, 7]
    mask = {"type": "mask", "frame": 0, "label_id": labels["sky"]["id"], "points": points}
    (made,) = write(client, job, "create", {**mask, "source": "auto"})
    stored = read(client, job)[made["id"]]
    assert stored["points"] == points
    assert all(type(number) is float for number in stored["points"])
    assert (stored["type"], stored["source"]) == ("mask", "auto")


def test_masks_are_not_checked(client: CvatClient, job: Json, road: int) -> None:
    """Runs that do not fill the box, a box outside the image: stored as sent."""
    bad = [[0, 5, 2, 5, 4, 7], [0, 4, 99, 99, 100, 100], [1.5, -2, 3, 3, 4, 4]]
    masks = [box(road, points, type="mask") for points in bad]
    made = write(client, job, "create", *masks)
    assert [read(client, job)[shape["id"]]["points"] for shape in made] == bad
    with pytest.raises(Refused):
        write(client, job, "create", box(road, [0, 1, 2, 3], type="mask"))


def test_a_mask_keeps_its_group_when_its_class_changes(
    client: CvatClient, job: Json, labels: dict[str, Json], road: int
) -> None:
    mask = {
        "type": "mask",
        "frame": 1,
        "label_id": labels["sky"]["id"],
        "points": [0.0, 4.0, 2.0, 1.0, 3.0, 2.0],
        "group": 17,
        "source": "auto",
        "z_order": 0,
        "attributes": [],
    }
    (made,) = write(client, job, "create", mask)
    stored = read(client, job)[made["id"]]
    assert {name: stored[name] for name in mask} == mask
    write(client, job, "update", {**stored, "label_id": road})
    stored = read(client, job)[made["id"]]
    assert {name: stored[name] for name in mask} == {**mask, "label_id": road}


def test_a_tag_is_made_read_and_removed(
    client: CvatClient, job: Json, labels: dict[str, Json]
) -> None:
    tag = {
        "frame": 1,
        "label_id": labels["to check"]["id"],
        "source": "auto",
        "group": 0,
        "attributes": [],
    }
    (made,) = write(client, job, "create", tag, kind="tags")
    stored = read(client, job, "tags")[made["id"]]
    assert {name: stored[name] for name in tag} == tag
    write(client, job, "delete", stored, kind="tags")
    assert read(client, job, "tags") == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "polygon", "points": [0.25, 0.5, 7.125, 0.0, 3.0625, 11.875], "z_order": -10},
        {"type": "ellipse", "points": [8.0, 6.0, 12.5, 2.25], "rotation": 33.25},
        {"type": "rectangle", "points": [-3.5, 2.0, 40.0, 8.0], "occluded": True, "group": 2},
        {"type": "points", "points": [1.0, 1.0, 2.0, 2.0], "source": "semi-auto"},
    ],
)
def test_every_kind_of_shape_comes_back_as_sent(
    client: CvatClient, job: Json, road: int, fields: Json
) -> None:
    """Also outside the image."""
    (made,) = write(client, job, "create", box(road, **fields))
    stored = read(client, job)[made["id"]]
    assert {name: stored[name] for name in fields} == fields


def test_a_shape_outside_the_job_is_stored(client: CvatClient, job: Json, road: int) -> None:
    frame = job["stop_frame"] + 5
    (made,) = write(client, job, "create", box(road, frame=frame))
    assert read(client, job)[made["id"]]["frame"] == frame


@pytest.mark.parametrize(
    "fields",
    [
        {"label_id": 2_000_000_000},
        {"attributes": [{"spec_id": 2_000_000_000, "value": "x"}]},
        {"type": "polygon", "points": [0, 0, 1, 1]},
        {"type": "polygon", "points": [0, 0, 1, 1, 2, 2, 3]},
        {"id": 1},
        {"type": "no such type"},
    ],
)
def test_a_bad_shape_refuses_the_whole_request(
    client: CvatClient, job: Json, road: int, fields: Json
) -> None:
    with pytest.raises(Refused) as refusal:
        write(client, job, "create", box(road), box(road, **fields))
    assert refusal.value.status == 400
    assert read(client, job) == {}


def test_unknown_fields_are_dropped(client: CvatClient, job: Json, road: int) -> None:
    (made,) = write(client, job, "create", box(road, colour="red"))
    assert "colour" not in read(client, job)[made["id"]]


def test_deleting_takes_the_id_and_leaves_the_rest(
    client: CvatClient, job: Json, road: int
) -> None:
    """A stub will do for a shape of any kind."""
    polygon = box(road, [0, 0, 5, 0, 5, 5], type="polygon")
    first, second, third = write(client, job, "create", polygon, box(road), box(road))
    write(client, job, "delete", stub(first))
    assert read(client, job) == {shape["id"]: shape for shape in (second, third)}


def test_deleting_what_is_gone_does_nothing(client: CvatClient, job: Json, road: int) -> None:
    first, second = write(client, job, "create", box(road), box(road))
    for _ in range(2):
        write(client, job, "delete", stub(first))
    assert read(client, job) == {second["id"]: second}


def test_a_shape_of_another_job_cannot_be_deleted(
    client: CvatClient, job: Json, unused_jobs: Any, road: int
) -> None:
    other = next(unused_jobs)
    label = next(row for row in client.rows("labels", job_id=other["id"]) if row["name"] == "road")
    (theirs,) = write(client, other, "create", box(label["id"]))
    write(client, job, "delete", box(road, id=theirs["id"]))
    assert read(client, other) == {theirs["id"]: theirs}


def test_updating_keeps_the_id(client: CvatClient, job: Json, road: int) -> None:
    first, second = write(client, job, "create", box(road, group=3), box(road))
    changed = {**first, "points": [0.0, 0.0, 2.0, 2.0], "source": "semi-auto"}
    write(client, job, "update", changed)
    assert read(client, job) == {first["id"]: changed, second["id"]: second}


def test_updating_what_was_deleted_brings_it_back(client: CvatClient, job: Json, road: int) -> None:
    (shape,) = write(client, job, "create", box(road))
    write(client, job, "delete", stub(shape))
    write(client, job, "update", shape)
    assert read(client, job) == {shape["id"]: shape}


def test_updating_without_an_id_creates(client: CvatClient, job: Json, road: int) -> None:
    """So what we update always has its id."""
    write(client, job, "update", box(road))
    assert len(read(client, job)) == 1


def test_tracks_keep_their_keyframes(client: CvatClient, job: Json, road: int) -> None:
    first, last = job["start_frame"], job["stop_frame"]
    keys = [
        {"type": "rectangle", "frame": first, "points": BOX, "outside": False},
        {"type": "rectangle", "frame": last, "points": [2.0, 3.0, 9.5, 8.0], "outside": True},
    ]
    track = {"frame": first, "label_id": road, "group": 4, "source": "manual", "shapes": keys}
    (made,) = write(client, job, "create", track, kind="tracks")
    stored = read(client, job, "tracks")[made["id"]]
    found = [{name: key[name] for name in keys[0]} for key in stored["shapes"]]
    assert found == keys
    assert (stored["frame"], stored["label_id"], stored["group"]) == (first, road, 4)
    assert {key["rotation"] for key in stored["shapes"]} == {0.0}
    assert read(client, job) == {}


def test_shapes_and_tracks_are_numbered_apart(client: CvatClient, job: Json, road: int) -> None:
    """Deleting a shape leaves a track of the same number."""
    key = {"type": "rectangle", "frame": 0, "points": BOX, "outside": False}
    (track,) = write(
        client, job, "create", {"frame": 0, "label_id": road, "shapes": [key]}, kind="tracks"
    )
    write(client, job, "delete", box(road, id=track["id"]))
    assert list(read(client, job, "tracks")) == [track["id"]]


def test_writing_moves_the_dates_of_job_and_task(client: CvatClient, job: Json, road: int) -> None:
    paths = (f"jobs/{job['id']}", f"tasks/{job['task_id']}")
    before = [client.get(path)["updated_date"] for path in paths]
    client.get(f"jobs/{job['id']}/annotations")
    assert [client.get(path)["updated_date"] for path in paths] == before
    write(client, job, "create", box(road))
    after = [client.get(path)["updated_date"] for path in paths]
    assert all(new > old for new, old in zip(after, before, strict=True))


def test_writing_leaves_state_and_stage(client: CvatClient, job: Json, road: int) -> None:
    client.change("PATCH", f"jobs/{job['id']}", {"state": "completed"})
    write(client, job, "create", box(road))
    after = client.get(f"jobs/{job['id']}")
    assert (after["state"], after["stage"]) == ("completed", "annotation")


def test_an_unknown_action_is_refused(client: CvatClient, job: Json, road: int) -> None:
    with pytest.raises(ServerError):
        write(client, job, "append", box(road))
    assert read(client, job) == {}
