"""What lies on the cards of a child job: our masks, and a tag on each card until it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.errors import Uncertain
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.child_task import ChildTask
from hvsa_cvat.cvat.request.parts import part_shapes
from hvsa_cvat.cvat.state import Part
from hvsa_cvat.errors import ServerError

_ATTEMPTS = 4
"""How often masks and tags are looked up, and those that are missing made."""
_BATCH = 200
"""Masks or tags in one request."""


def make_masks(connection: TaskConnection, wanted: ChildTask, job: Json) -> dict[int, int]:
    """Make the masks and tags that a job lacks; number of a part -> id of its shape.

    In a job that people have begun nothing is made, because what it lacks they have removed: the
    parts of the masks that they deleted are missing in what is returned.
    """
    frames = _frames(job)
    parts = [part for part in wanted.plan.parts if part.card in frames]
    path = f"jobs/{job['id']}/annotations"
    found = connection.client.get(path)
    if _is_begun(job, found):
        return match_masks(parts, found["shapes"])
    doubt: Uncertain | None = None
    for _ in range(_ATTEMPTS):
        present = match_masks(parts, found["shapes"])
        tagged = {tag["frame"] for tag in found["tags"] if tag["label_id"] == wanted.project.tag}
        lacking = [part for part in parts if part.number not in present]
        untagged = [frame for frame in frames if frame not in tagged]
        if not lacking and not untagged:
            return present
        try:
            # tags first: a card with masks and without its tag would look as if it was checked
            _create(connection, path, [tag_of(f, wanted.project.tag) for f in untagged], "tags")
            _create(connection, path, _shapes(wanted, lacking), "shapes")
        except Uncertain as error:
            connection.log(f"{error}; looking whether it was")
            doubt = error
        found = connection.client.get(path)
    raise doubt or ServerError(
        f"{connection.client.address.url} does not keep the masks of job {job['id']}; check the "
        "server's version with `hvsa-agent doctor`"
    )


def match_masks(parts: Sequence[Part], shapes: Sequence[Json]) -> dict[int, int]:
    """Number of a part -> id of its shape, found by its group.

    People may have begun already: a mask whose label or pixels they changed is still the mask of
    its part, and is not made a second time.
    """
    cards = {part.number: part.card for part in parts}
    found: dict[int, int] = {}
    for shape in sorted(shapes, key=lambda shape: shape["id"]):
        number: int = shape.get("group") or 0
        if shape["type"] == "mask" and cards.get(number, -1) == shape["frame"]:
            found.setdefault(number, shape["id"])
    return found


def tag_of(frame: int, label: int) -> Json:
    """The tag of a card that nobody has checked, as it is sent."""
    return {"frame": frame, "label_id": label, "source": "auto", "group": 0, "attributes": []}


def is_untouched(content: Json, job: Json, tag: int) -> bool:
    """Whether the annotations of a job are only what we make: nothing yet, or a tag on each card
    and masks."""
    if _is_empty(content):
        return True
    return (
        not content["tracks"]
        and all(one["label_id"] == tag for one in content["tags"])
        and sorted(one["frame"] for one in content["tags"]) == list(_frames(job))
        and all(s["type"] == "mask" and s.get("source") == "auto" for s in content["shapes"])
    )


def _is_begun(job: Json, content: Json) -> bool:
    """Whether people may have worked in a job.

    We give jobs to people when all masks are made. Somebody can take a job before, but then nothing
    lies in it.
    """
    taken = job["assignee"] is not None and not _is_empty(content)
    return taken or job["state"] != "new"


def _is_empty(content: Json) -> bool:
    return not (content["shapes"] or content["tags"] or content["tracks"])


def _frames(job: Json) -> range:
    return range(job["start_frame"], job["stop_frame"] + 1)


def _shapes(wanted: ChildTask, parts: Sequence[Part]) -> list[Json]:
    by_card: dict[int, dict[int, Part]] = {}
    for part in parts:
        by_card.setdefault(part.card, {})[part.number] = part
    plan, labels = wanted.plan, wanted.project.labels
    return [
        shape
        for card, mine in by_card.items()
        for shape in part_shapes(plan.cards[card], plan.contents[card].array, mine, labels)
    ]


def _create(
    connection: TaskConnection, path: str, rows: Sequence[Mapping[str, object]], kind: str
) -> None:
    for first in range(0, len(rows), _BATCH):
        content = {"shapes": [], "tags": [], "tracks": [], kind: rows[first : first + _BATCH]}
        connection.client.send("PATCH", path, content, action="create")
