from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Refused
from hvsa_cvat.cvat.media import read_media
from hvsa_cvat.cvat.task import ClassLabel, follow_labels, read_task
from hvsa_cvat.errors import AnnotationError, ConfigError, MediaError
from hvsa_cvat.ports import silent
from tests.standin import StandIn
from tests.standin.model import Background

FRAMES = [np.zeros((4, 6, 3), np.uint8)] * 3


@pytest.fixture
def cvat() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def client(cvat: StandIn) -> Iterator[CvatClient]:
    with connect(cvat) as client:
        yield client


def connect(cvat: StandIn, organization: str | None = None, **login: str) -> CvatClient:
    credentials = Credentials(**login) if login else Credentials(token=cvat.admin.token)
    return CvatClient(Address(cvat.url, organization), credentials, sleep=lambda seconds: None)


def label(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "type": kind}


def change_labels(client: CvatClient, task: int, *labels: dict[str, Any]) -> None:
    client.change("PATCH", f"tasks/{task}", {"labels": list(labels)})


def test_the_classes_are_the_labels_that_carry_masks(cvat, client):
    labels = [
        label("road", "mask"),
        label("nose", "points"),
        label("car", "any"),
        label("sky", "polygon"),
        label("rainy", "tag"),
        label("box", "rectangle"),
    ]
    made = cvat.add_task("clip", labels, FRAMES)
    task = read_task(client, made.id, background=["sky"])
    assert (task.id, task.name, task.project, task.project_name) == (made.id, "clip", None, None)
    assert task.labels.names == ("road", "car", "sky")
    assert [c.type for c in task.classes] == ["mask", "any", "polygon"]
    assert all(c.color.startswith("#") for c in task.classes)
    assert set(task.left_out) == {"nose", "rainy", "box"}
    assert task.new_labels == ()
    assert task.background == {2}
    assert task.size == (4, 6)
    ids = [cvat.label(made, name) for name in task.labels]
    assert [task.index_of(label_id) for label_id in ids] == [0, 1, 2]
    assert task.index_of(cvat.label(made, "nose")) is None


def test_a_task_in_a_project_has_the_labels_and_name_of_the_project(cvat, client):
    project = cvat.add_project("streets", ["road", "car"])
    task = read_task(client, cvat.add_task("clip", project=project, frames=FRAMES).id)
    assert (task.project, task.project_name) == (project.id, "streets")
    assert task.labels.names == ("road", "car")


def test_labels_are_followed_when_people_change_them(cvat, client):
    made = cvat.add_task("clip", ["road", "car"], FRAMES)
    known = [(c.id, c.name) for c in read_task(client, made.id).classes]
    (road, _), (car, _) = known
    change_labels(
        client, made.id, {"id": road, "name": "street"}, {"name": "tree"}, label("nose", "points")
    )
    task = read_task(client, made.id, known=known)
    assert task.labels.names == ("road", "car")
    assert task.index_of(road) == 0
    assert task.new_labels == ("tree",)
    assert task.left_out == ("nose",)

    change_labels(client, made.id, {"id": car, "deleted": True})
    with pytest.raises(AnnotationError, match=r"label 'car' of task .* is gone; add a label"):
        read_task(client, made.id, known=known)
    change_labels(client, made.id, {"name": "car"})
    assert read_task(client, made.id, known=known).index_of(cvat.label(made, "car")) == 1


def named(*labels: tuple[int, str]) -> list[ClassLabel]:
    return [ClassLabel(number, name, "#000000", "any") for number, name in labels]


def test_labels_that_moved_into_a_project_are_known_by_name():
    moved = follow_labels(7, [(1, "road"), (2, "car")], named((11, "car"), (12, "road")))
    assert [(c.id, c.name) for c in moved] == [(12, "road"), (11, "car")]


def test_labels_that_exchanged_their_names_are_known_by_id():
    moved = follow_labels(7, [(1, "road"), (2, "car")], named((1, "car"), (2, "road")))
    assert [(c.id, c.name) for c in moved] == [(1, "road"), (2, "car")]


def test_a_name_does_not_bring_a_label_to_a_second_class():
    with pytest.raises(AnnotationError, match="'road' of task 7 is gone"):
        follow_labels(7, [(1, "road"), (2, "car")], named((2, "road")))


def test_a_label_that_carries_no_masks_any_more():
    with pytest.raises(AnnotationError, match="'road' of task 7 is now of type points"):
        follow_labels(7, [(1, "road")], [ClassLabel(1, "road", "#000000", "points")])


@given(st.permutations(range(5)), st.lists(st.text("ab", min_size=1), min_size=5, max_size=5))
def test_no_renaming_confuses_the_classes(order, names):
    known = [(number, f"class {number}") for number in range(5)]
    found = named(*((number, f"{names[number]}{number}") for number in order))
    followed = follow_labels(7, known, found)
    assert [(c.id, c.name) for c in followed] == known


def test_labels_of_a_companion_project_are_no_classes(cvat, client):
    made = cvat.add_task("clip", ["car", "hvsa:region"], FRAMES)
    with pytest.raises(AnnotationError, match=r"'hvsa:region' of task \d+ is no class"):
        read_task(client, made.id)


def test_labels_that_cannot_be_used(cvat, client):
    made = cvat.add_task("clip", [label("nose", "points")], FRAMES)
    with pytest.raises(AnnotationError, match=f"task {made.id} has no label that masks can carry"):
        read_task(client, made.id)
    made = cvat.add_task("clip", ["road", "car"], FRAMES)
    with pytest.raises(ConfigError, match=r"no class 'sky' .*road, car"):
        read_task(client, made.id, background=["road", "sky"])


def test_a_task_that_is_not_there_or_elsewhere(cvat, client):
    with pytest.raises(NotFound, match=r"no task 99 in the personal space; check the number"):
        read_task(client, 99)
    lab = cvat.add_organization("lab")
    cvat.add_organization("other")
    made = cvat.add_task("clip", ["road"], FRAMES, organization=lab)
    assert read_task(connect(cvat, "lab"), made.id).name == "clip"
    for place in (None, "other"):
        with pytest.raises(NotFound, match=f"no task {made.id} in .*set the organisation"):
            read_task(connect(cvat, place), made.id)


def test_a_task_that_we_may_not_read(cvat):
    cvat.add_user("ann", "secret", ["worker"])
    made = cvat.add_task("clip", ["road"], FRAMES)
    with (
        connect(cvat, user="ann", password="secret") as client,
        pytest.raises(Forbidden, match=f"may not read task {made.id} .*; make it the assignee"),
    ):
        read_task(client, made.id)


def test_a_task_without_frames_says_why(cvat, client, tmp_path):
    made = cvat.add_task("clip", ["road"])
    with pytest.raises(MediaError, match=f"task {made.id} has no frames; upload"):
        read_task(client, made.id)
    identity = f"action=create&target=task&target_id={made.id}"
    importing = Background(identity, made, made.owner, made.created, "", [""])
    cvat.world.backgrounds[identity] = importing
    with pytest.raises(MediaError, match=f"task {made.id} is still importing its frames; try"):
        read_task(client, made.id)
    del cvat.world.backgrounds[identity]

    (tmp_path / "bad.mp4").write_bytes(b"no film")
    with pytest.raises(Refused):
        client.upload(made.id, [tmp_path / "bad.mp4"], {"image_quality": 70}, silent, "uploading")
    with pytest.raises(MediaError, match=rf"the import of task {made.id} failed \(.+\); delete it"):
        read_task(client, made.id)


def test_a_task_without_data_as_newer_servers_describe_it(cvat, client):
    """CVAT 2.73 answers an empty dimension until there is data."""
    row = client.get(f"tasks/{cvat.add_task('empty', ['road']).id}")
    with pytest.raises(MediaError, match="has no frames; upload"):
        read_media(client, {**row, "dimension": ""})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dimension": "3d"}, "holds point clouds; choose"),
        ({"dimension": "3d", "media_type": "point_cloud"}, "holds point clouds; choose"),
        ({"dimension": "1d", "media_type": "audio"}, "holds audio; choose"),
        ({"validation_mode": "gt_pool"}, "honeypots"),
    ],
)
def test_media_that_is_no_film(cvat, client, change, reason):
    row = client.get(f"tasks/{cvat.add_task('clip', ['road'], FRAMES).id}")
    assert read_media(client, row).kind == "images"
    assert read_media(client, {**row, "media_type": "image"}).kind == "images"
    with pytest.raises(MediaError, match=reason):
        read_media(client, {**row, **change})


def test_frames_of_several_sizes(cvat, client):
    images = [np.zeros((4, width, 3), np.uint8) for width in (6, 6, 7)]
    made = cvat.add_task("clip", ["road"], images, names=["a.png", "b.png", "c.png"])
    with pytest.raises(MediaError, match=r"frame 2 of task .* \(c.png\) is 7x4 but frame 0 is 6x4"):
        read_task(client, made.id)
    client.change("PATCH", f"tasks/{made.id}/data/meta", {"deleted_frames": [0, 1]})
    task = read_task(client, made.id)
    assert (task.size, task.media.numbers, task.media.names) == ((4, 7), (2,), ("frame_000002",))
    client.change("PATCH", f"tasks/{made.id}/data/meta", {"deleted_frames": [0, 1, 2]})
    with pytest.raises(MediaError, match=r"all frames of task .* are deleted; restore"):
        read_task(client, made.id)
