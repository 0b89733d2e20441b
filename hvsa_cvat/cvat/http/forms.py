"""What an answer of CVAT must hold for us to read it: the fields that are used, and their types.

An answer is checked when it arrives, so that a server that answers something else, or a newer one
that renamed a field, is one line that names the request. What is not named here is not read, or is
checked where it is read.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

import msgspec

from hvsa_cvat.cvat.http.exchange import Failure

MOST_FRAMES = 10**7
"""Frames of a task: 90 hours of film. Ranges up to a claimed number are walked through."""
_LONGEST_SIDE = 2**16
"""Pixels; image formats hold no more."""

_Frame = Annotated[int, msgspec.Meta(ge=0, lt=MOST_FRAMES)]
_Side = Annotated[int, msgspec.Meta(ge=1, lt=_LONGEST_SIDE)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Row(msgspec.Struct):
    id: int


class _Person(_Row):
    username: str


class _Account(_Person):
    groups: list[str]


class _Jobs(msgspec.Struct):
    count: int | None = None


class _Task(_Row):
    name: str
    project_id: int | None
    project_name: str | None = None
    size: _Frame | None = None
    mode: str | None = None
    jobs: _Jobs | None = None
    bug_tracker: str | None = None
    media_type: str | None = None
    data_original_chunk_type: str | None = None


class _Project(_Row):
    name: str
    bug_tracker: str | None
    guide_id: int | None = None


class _Guide(_Row):
    markdown: str


class _Asset(msgspec.Struct):
    uuid: str


class _Attribute(_Row):
    name: str
    values: list[str]
    default_value: str | None = None


class _Label(_Row):
    name: str
    color: str
    type: str
    attributes: list[_Attribute]


class _Job(_Row):
    task_id: int
    start_frame: _Frame
    stop_frame: _Frame
    state: str
    stage: str
    updated_date: datetime
    assignee: _Person | None
    type: str = "annotation"


class _Picture(msgspec.Struct):
    name: str
    width: _Side
    height: _Side


class _Media(msgspec.Struct):
    size: _Frame
    chunk_size: Annotated[int, msgspec.Meta(ge=1)]
    deleted_frames: list[int]
    frames: list[_Picture]
    chunks_updated_date: datetime


class _Value(msgspec.Struct):
    spec_id: int
    value: str


class Shape(_Row):
    """A shape as the server sends it. Its points are checked where they are read: people's shapes
    may hold any."""

    type: str
    frame: _Frame
    label_id: int
    source: str | None = None
    group: int | None = None
    z_order: int | None = None
    rotation: float | None = None
    attributes: list[_Value] | None = None


class _KeyFrame(msgspec.Struct):
    type: str
    frame: _Frame
    rotation: float | None = None
    attributes: list[_Value] | None = None


class Track(_Row):
    """A track as the server sends it."""

    label_id: int
    shapes: list[_KeyFrame]
    source: str | None = None
    group: int | None = None
    attributes: list[_Value] | None = None


class _Annotations(msgspec.Struct):
    shapes: list[Shape]
    tags: list[Any] = []
    tracks: list[Track] = []


class _Issue(_Row):
    job: int
    frame: _Frame
    resolved: bool = False


class _Comment(_Row):
    issue: int
    message: str


class _Membership(_Row):
    user: _Row | None
    role: str


class _Webhook(_Row):
    target_url: str


class _Status(msgspec.Struct):
    status: str


class _Named(msgspec.Struct):
    name: str


class _Function(msgspec.Struct):
    id: str
    kind: str
    labels_v2: list[_Named] | None = None


class _Page(msgspec.Struct):
    count: _Count
    next: str | None
    results: list[Any]


_FORMS: dict[str, Any] = {
    "users/self": _Account,
    "tasks/*": _Task,
    "tasks/*/data/meta": _Media,
    "projects/*": _Project,
    "guides/*": _Guide,
    "assets": _Asset,
    "jobs/*": _Job,
    "jobs/*/annotations": _Annotations,
    "requests/*": _Status,
    "lambda/functions": list[_Function],
}
_ROWS: dict[str, Any] = {
    "tasks": list[_Task],
    "projects": list[_Project],
    "labels": list[_Label],
    "jobs": list[_Job],
    "users": list[_Person],
    "issues": list[_Issue],
    "comments": list[_Comment],
    "memberships": list[_Membership],
    "webhooks": list[_Webhook],
}


def check_answer(method: str, path: str, answer: Any) -> Any:
    """The answer to a request, if it can be read; `Failure` else.

    The answer to a creation needs an id, the answer to a deletion nothing.
    """
    name = _kind(path)
    if method == "DELETE":
        return answer
    form = _Row if method == "POST" and name in {*_ROWS, "guides"} else _FORMS.get(name)
    return answer if form is None else _checked(answer, form)


def check_page(path: str, answer: Any) -> Any:
    """One page of a list, if its rows can be read; `Failure` else."""
    page = _checked(answer, _Page)
    _checked(page["results"], _ROWS.get(_kind(path), list[_Row]))
    return page


def _kind(path: str) -> str:
    """`jobs/*` for `jobs/7/`."""
    return re.sub(r"(?<=/)\d+(?=/|$)|(?<=^requests/).+", "*", path.strip("/"))


def _checked(answer: Any, form: Any) -> Any:
    try:
        msgspec.convert(answer, form)
    except (msgspec.MsgspecError, RecursionError) as error:
        text = str(error).replace("`", "")
        raise Failure(f"an answer that no CVAT sends ({text})", lasting=True) from error
    return answer
