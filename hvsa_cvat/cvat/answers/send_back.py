"""Sending a job with gaps back to its annotator, exactly once, even if the process ends on the way.

The server has no single request for this. First the issues are made, which are found again by job,
picture and the beginning of their message. Then the job's date is remembered and its state is set.
Setting it changes the date: a finished job with the remembered date has not been sent back yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from hvsa_cvat.cvat.answers.child_labels import ChildLabels
from hvsa_cvat.cvat.answers.read_card import AskedCard
from hvsa_cvat.cvat.answers.read_job import JobAnswers
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.make_masks import tag_of
from hvsa_cvat.cvat.request.parts import part_shapes
from hvsa_cvat.cvat.state import Reading, State

_MARK = "HVSA: "

_CORNER = (0, 0, 16, 16)
"""Left, top, right, bottom in pixels of a picture, at its red tag. The page hatches the box of an
issue, and nobody can begin to paint at its words: so it lies beside what is to be looked at."""

_CHECK = "Look at the picture, correct what is wrong, and click the x of the tag."
_WHAT_TO_DO = (
    "Then finish the job again. What you cannot tell you may leave: it comes back only once."
)


def send_back(
    connection: TaskConnection,
    row: Json,
    cards: Sequence[AskedCard],
    answers: JobAnswers,
    labels: ChildLabels,
) -> bool:
    """Make an issue on each picture with a gap and set the state of the job, `row`, to `rejected`.

    Masks that the annotator has removed, and that nothing replaces, are put back, and the tags of
    their pictures where these are gone. False where the job is not completed any more.
    """
    job, client = row["id"], connection.client
    for frame, box, message in _messages(answers):
        body = {"job": job, "frame": frame, "position": list(box), "message": message}
        client.create("issues", body, partial(_find_issue, client, job, frame))
    _put_back(connection, job, cards, answers, labels)
    row = client.get(f"jobs/{job}")
    if row["state"] != "completed":
        return False
    connection.state.readings.begin_send_back(job, row["updated_date"])
    _reject(connection, row)
    return True


def finish_sending_back(connection: TaskConnection, row: Json) -> bool:
    """Set the state of a finished job if a process ended just before it did so."""
    if connection.state.readings.send_back_begun(row["id"]) != row["updated_date"]:
        return False
    _reject(connection, row)
    return True


def was_sent_back(state: State, row: Json) -> bool:
    """Whether a job that is finished now has gone back before."""
    reading = state.readings.get(row["id"])
    return state.readings.send_back_begun(row["id"]) is not None or (
        reading is not None and reading.sent_back
    )


def percent(share: float) -> str:
    """A share, 0 to 1, for people."""
    return "less than 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _put_back(
    connection: TaskConnection,
    job: int,
    cards: Sequence[AskedCard],
    answers: JobAnswers,
    labels: ChildLabels,
) -> None:
    """Safe to repeat: the reading before it finds masks that were put back by their groups."""
    ids = labels.ids()
    shapes: list[Json] = []
    for asked in cards:
        mine = {p.number: p for p in answers.lost if p.card == asked.number and p.label in ids}
        shapes += part_shapes(asked.card, asked.content, mine, ids)
    if not shapes:
        return
    # a second tag would look like the first: people click one away, and the picture has one still
    pictures = sorted({shape["frame"] for shape in shapes} & answers.checked)
    tags = [tag_of(frame, labels.tag) for frame in pictures]
    content = {"version": 0, "shapes": shapes, "tags": tags, "tracks": []}
    connection.client.send("PATCH", f"jobs/{job}/annotations", content, action="create")
    connection.log(f"job {job}: {len(shapes)} removed masks are put back")


def _reject(connection: TaskConnection, row: Json) -> None:
    # "rejected" is the server's word for work to be done again, and job lists show it until the job
    # is finished again. "in progress" would look as if the job had never been handed in.
    body = {"state": "rejected"}
    if row["stage"] != "annotation":
        body["stage"] = "annotation"
    connection.client.change("PATCH", f"jobs/{row['id']}", body)
    connection.state.readings.save(row["id"], Reading(row["updated_date"], sent_back=True))


def _find_issue(client: CvatClient, job: int, frame: int) -> Json | None:
    for issue in client.rows("issues", job_id=job):
        if issue["job"] == job and issue["frame"] == frame:
            for comment in client.rows("comments", issue_id=issue["id"]):
                if comment["issue"] == issue["id"] and comment["message"].startswith(_MARK):
                    return issue
    return None


def _messages(answers: JobAnswers) -> Iterator[tuple[int, tuple[int, int, int, int], str]]:
    """Frame, box and text of each issue."""
    if answers.is_empty:
        first = answers.gaps[0]
        text = "nobody has checked anything in this job yet: all red tags are still there."
        yield first.card, _CORNER, f"{_MARK}{text} {_CHECK} {_WHAT_TO_DO}"
        return
    for gap in answers.gaps:
        if gap.checked:
            text = f"{percent(gap.share)} of what is asked for on this picture has no class yet."
            yield gap.card, gap.box, f"{_MARK}{text} Paint it, up to its edges. {_WHAT_TO_DO}"
        else:
            text = "the red tag is still on this picture."
            yield gap.card, _CORNER, f"{_MARK}{text} {_CHECK} {_WHAT_TO_DO}"
