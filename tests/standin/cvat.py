"""`StandIn`: the server as tests hold it, and `Person`: what people do in the web interface."""

from __future__ import annotations

import copy
import json
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import urllib3

from . import annotation, api
from .media import Film, Pixels, from_arrays, from_film
from .model import Job, Json, Organization, Project, Task, User, Webhook, World
from .server import Faults, Postman, Request, Server, deliver


class ProcessDied(BaseException):
    """The client's process ends here: nothing below catches it, nothing is tidied up."""


@dataclass(frozen=True)
class Account:
    """How somebody logs in."""

    id: int
    name: str
    password: str
    token: str
    """A personal access token that may write."""


class StandIn:
    """A CVAT server on 127.0.0.1. See the docstring of the package."""

    def __init__(
        self,
        version: str = "2.54.1",
        clock: Callable[[], datetime] | None = None,
        first_ids: Mapping[str, int] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self.world = World(clock)
        self.world.version = version
        self.world.next_ids |= first_ids or {}
        self.tls = tls
        self.requests: list[Request] = []
        self.errors: list[Exception] = []
        self.faults: Faults = {}
        self.retry_after = 0
        self.before_request: Callable[[Request], None] | None = None
        self.after_request: Callable[[Request], None] | None = None
        self.twist: Callable[[Request], bytes | None] | None = None
        """The body that is sent in place of the right one; None leaves that."""
        self.admin = self.add_user("admin", "admin", ["admin"])
        self._postman = Postman(self)
        self._server: Server | None = None
        self._port = 0
        self.up()

    # The server as a whole

    @property
    def url(self) -> str:
        return self.world.url

    def up(self) -> None:
        """Listens again, at the same address."""
        assert self._server is None
        self._server = Server(self, self._port)
        self._port = self._server.server_address[1]
        scheme, host = ("https", "localhost") if self.tls else ("http", "127.0.0.1")
        self.world.url = f"{scheme}://{host}:{self._port}"

    def down(self) -> None:
        """Connections are cut and new ones refused; what the server knows stays."""
        if self._server:
            self._server.close()
            self._server = None

    def close(self) -> None:
        self.down()
        self._postman.close()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        for wrong in self.errors:
            if error is None:
                raise wrong
            error.add_note(f"the stand-in failed: {wrong!r}")

    def snapshot(self) -> World:
        """All that the server knows, for `restore`; log, faults and hooks are not part of it."""
        with self.lock:
            return copy.deepcopy(self.world)

    def restore(self, snapshot: World) -> None:
        """The objects of before (tasks, jobs, ...) are history: ask for them again by id."""
        with self.lock:
            self.world = copy.deepcopy(snapshot)

    def serve(self, request: Request, account: User | None = None) -> api.Answer:
        """Acts, one request at a time; deliveries leave afterwards."""
        with self.lock:
            world = self.world
            call = api.Call(
                world,
                request.method,
                request.path,
                request.query,
                request.headers,
                request.body,
                account,
                lambda hook, payload: deliver(self, hook, payload),
            )
            try:
                result = api.answer(call)
            except Exception as error:  # a bug of the stand-in, or a body that it cannot read
                self.errors.append(error)
                result = api.Answer(500, traceback.format_exc())
            request.user = call.account.username if call.account else None
            letters, world.outbox = world.outbox, []
        self._postman.send(letters)
        return result

    def delivered(self, timeout: float = 10) -> bool:
        """Waits until every webhook has been delivered."""
        return self._postman.wait(timeout)

    @contextmanager
    def process_dies(self, number: int, when: Literal["before", "after"]) -> Iterator[None]:
        """Raises `ProcessDied` in the client before request `number` (from 0, counted from here)
        is sent, or once its work is done but before the client sees the answer."""
        sent = 0
        send = urllib3.connectionpool.HTTPConnectionPool.urlopen

        def urlopen(pool: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal sent
            mine, sent = sent == number, sent + 1
            if mine and when == "before":
                raise ProcessDied
            answer = send(pool, *args, **kwargs)
            if mine:
                answer.close()
                raise ProcessDied
            return answer

        pools: Any = urllib3.connectionpool.HTTPConnectionPool
        pools.urlopen = urlopen
        try:
            yield
        finally:
            pools.urlopen = send

    # People and organisations

    def add_user(
        self, name: str, password: str = "password", groups: Sequence[str] = ("user",)
    ) -> Account:
        """Groups: admin, business, user or worker."""
        with self.lock:
            user = self.world.add_user(name, password, groups)
            token = self.world.add_token(user, "stand-in", read_only=False, number=-user.id)
        return Account(user.id, name, password, token.value)

    def token(self, user: Account | str, read_only: bool = False) -> str:
        with self.lock:
            return self.world.add_token(self._user(user), "stand-in", read_only).value

    def add_organization(
        self,
        slug: str,
        owner: Account | str | None = None,
        members: Mapping[str, str] | None = None,
    ) -> Organization:
        """`members`: user name -> owner, maintainer, supervisor or worker."""
        with self.lock:
            organization = self.world.add_organization(slug, self._user(owner or self.admin))
            for name, role in (members or {}).items():
                organization.roles[self._user(name).id] = role
            return organization

    def _user(self, user: Account | str) -> User:
        name = user if isinstance(user, str) else user.name
        return next(u for u in self.world.users.values() if u.username == name)

    # Projects and tasks without the way over HTTP

    def add_project(
        self,
        name: str,
        labels: Sequence[str | Json] = (),
        owner: Account | str | None = None,
        organization: Organization | None = None,
    ) -> Project:
        with self.lock:
            user = self._user(owner or self.admin)
            return self.world.add_project(name, user, organization, _labels(labels))

    def add_task(
        self,
        name: str,
        labels: Sequence[str | Json] = (),
        frames: Sequence[Pixels] = (),
        video: Sequence[Pixels] | Path | None = None,
        *,
        names: Sequence[str] | None = None,
        job_size: int = 0,
        overlap: int | None = None,
        project: Project | None = None,
        owner: Account | str | None = None,
        organization: Organization | None = None,
        start_frame: int = 0,
        step: int = 1,
    ) -> Task:
        """`frames` become PNG files, `video` a film; both are the frames in use: `start_frame` and
        `step` only say which source frames they were. Without both the task has no data yet."""
        with self.lock:
            organization = project.organization if project else organization
            user = self._user(owner or self.admin)
            task = self.world.add_task(name, user, organization, project, _labels(labels))
            task.segment_size, task.overlap = job_size, overlap
            if video is not None:
                film = Film(video) if isinstance(video, Path) else list(video)
                media = from_film(film, "video.mp4")
            else:
                names = names or [f"frame_{i:06d}.png" for i in range(len(frames))]
                media = from_arrays(frames, names)
            if media.size:
                media = replace(media, start=start_frame, step=step)
                self.world.attach(task, media, None)
            return task

    # What the server knows

    def project(self, number: int) -> Project:
        return self.world.projects[number]

    def task(self, number: int) -> Task:
        return self.world.tasks[number]

    def job(self, number: int) -> Job:
        return self.world.jobs[number]

    def label(self, holder: Task | Project, name: str) -> int:
        """The id of a label."""
        return next(label.id for label in holder.labels if label.name == name)

    def shapes(self, job: Job | int) -> list[Json]:
        """The shapes of a job as the API shows them."""
        with self.lock:
            shapes: list[Json] = annotation.show([self.job(_id(job))])["shapes"]
            return shapes

    def webhook(self, number: int) -> Webhook:
        return self.world.webhooks[number]

    def person(self, user: Account | str) -> Person:
        return Person(self, self._user(user).username)


def _id(thing: Job | int) -> int:
    return thing if isinstance(thing, int) else thing.id


def _labels(labels: Sequence[str | Json]) -> list[Json]:
    return [{"name": label} if isinstance(label, str) else label for label in labels]


class Person:
    """Somebody in the web interface. Each action is saved at once, with the rights of the account,
    and does to ids, groups, sources and attributes what the interface does."""

    def __init__(self, cvat: StandIn, name: str) -> None:
        self.cvat, self.name = cvat, name

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """An API call that is neither logged nor disturbed; a refusal is an AssertionError."""
        raw = b"" if body is None else json.dumps(body).encode()
        request = Request(-1, method, f"/api/{path}", query, len(raw), {}, raw)
        result = self.cvat.serve(request, self.cvat._user(self.name))
        assert result.status < 300, f"{method} {path}: {result.status} {result.body}"
        return copy.deepcopy(result.body)

    def save(self, job: Job | int, action: str, kind: str, row: Json) -> int:
        """The first save of a new job sets it in progress, with a request of its own."""
        number = _id(job)
        answer = self.call("PATCH", f"jobs/{number}/annotations", {kind: [row]}, action=action)
        if self.cvat.job(number).state == "new":
            self.call("PATCH", f"jobs/{number}", {"state": "in progress"})
        saved: int = answer[kind][0]["id"]
        return saved

    def _shape(self, job: Job | int, shape_id: int) -> Json:
        return copy.deepcopy(dict(self.cvat.job(_id(job)).shapes[shape_id]))

    def draw(self, job: Job | int, shape: Json) -> int:
        """A new shape, manual and without group unless `shape` says otherwise; its id."""
        blank = {"type": "polygon", "source": "manual", "group": 0, "z_order": 0, "attributes": []}
        return self.save(job, "create", "shapes", {**blank, **shape})

    def draw_track(self, job: Job | int, track: Json) -> int:
        blank = {"source": "manual", "group": 0, "attributes": []}
        return self.save(job, "create", "tracks", {**blank, **track})

    def set_class(self, job: Job | int, shape_id: int, spec_id: int, value: str) -> None:
        """Source stays; the attribute set last comes last."""
        row = self._shape(job, shape_id)
        rest = [a for a in row["attributes"] if a["spec_id"] != spec_id]
        row["attributes"] = [*rest, {"spec_id": spec_id, "value": value}]
        self.save(job, "update", "shapes", row)

    def relabel(self, job: Job | int, shape_id: int, label_id: int) -> None:
        """Attributes are lost; id, group and source stay."""
        row = {**self._shape(job, shape_id), "label_id": label_id, "attributes": []}
        self.save(job, "update", "shapes", row)

    def carve(self, job: Job | int, shape_id: int, points: Sequence[float]) -> None:
        """ "Remove underlying pixels", when somebody draws over the shape: the source stays."""
        self.save(job, "update", "shapes", {**self._shape(job, shape_id), "points": list(points)})

    def remove_tag(self, job: Job | int, frame: int) -> None:
        """The x of a tag on a frame: of the first one."""
        tags = self.cvat.job(_id(job)).tags.values()
        row = next(tag for tag in tags if tag["frame"] == frame)
        self.save(job, "delete", "tags", copy.deepcopy(dict(row)))

    def move(self, job: Job | int, shape_id: int, points: Sequence[float]) -> None:
        """What was automatic is semi-automatic now."""
        row = {**self._shape(job, shape_id), "points": list(points)}
        row["source"] = "semi-auto" if row["source"] == "auto" else row["source"]
        self.save(job, "update", "shapes", row)

    def delete(self, job: Job | int, shape_id: int) -> None:
        self.save(job, "delete", "shapes", self._shape(job, shape_id))

    def delete_and_undo(self, job: Job | int, shape_id: int) -> int:
        """Comes back under a new id; the group stays."""
        row = self._shape(job, shape_id)
        self.delete(job, shape_id)
        del row["id"]
        return self.save(job, "create", "shapes", row)

    def copy(self, job: Job | int, shape_id: int, **changes: Any) -> int:
        row = {**self._shape(job, shape_id), "source": "manual", "group": 0, **changes}
        del row["id"]
        return self.save(job, "create", "shapes", row)

    def remove_all(self, job: Job | int) -> None:
        """ "Remove all annotations": a PUT, so what nobody in the browser has seen goes too."""
        self.call("PUT", f"jobs/{_id(job)}/annotations", {"shapes": [], "tags": [], "tracks": []})

    def finish(self, job: Job | int) -> None:
        """ "Finish the job": the state changes, the stage does not."""
        self.call("PATCH", f"jobs/{_id(job)}", {"state": "completed"})

    def reopen(self, job: Job | int) -> None:
        self.call("PATCH", f"jobs/{_id(job)}", {"state": "in progress"})

    def reject(self, job: Job | int) -> None:
        self.call("PATCH", f"jobs/{_id(job)}", {"state": "rejected"})

    def accept(self, job: Job | int) -> None:
        self.call("PATCH", f"jobs/{_id(job)}", {"stage": "acceptance", "state": "completed"})

    def resolve(self, issue: int) -> None:
        self.call("PATCH", f"issues/{issue}", {"resolved": True})
