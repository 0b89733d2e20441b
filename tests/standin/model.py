"""What the server remembers, and how it shows it: one class per table, `World` holds the tables.

Rows of annotations are plain dicts that are replaced, never changed, so copies of the world may
share them. All writes happen under the lock of the server that owns the world.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .media import Media

Json = dict[str, Any]
COLOURS = ("#b83df5", "#33ddff", "#fa3253", "#34d1b7", "#ff007c", "#ff6037", "#ddff33", "#24b353")


class Refusal(Exception):
    """An answer that ends the request: a status and a body."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


class Row(dict[str, Any]):
    """One stored annotation; never changed, so a copy of the world shares it."""

    def __deepcopy__(self, memo: object) -> Row:
        return self


@dataclass(eq=False)
class User:
    id: int
    username: str
    password: str
    groups: list[str]
    joined: datetime
    last_login: datetime | None = None

    @property
    def admin(self) -> bool:
        return "admin" in self.groups


@dataclass(eq=False)
class Organization:
    id: int
    slug: str
    owner: User
    created: datetime
    roles: dict[int, str] = field(default_factory=dict)
    """User id -> owner, maintainer, supervisor or worker."""


@dataclass(eq=False)
class Token:
    id: int
    name: str
    value: str
    owner: User
    read_only: bool
    created: datetime
    expires: datetime | None = None
    used: datetime | None = None


@dataclass(eq=False)
class Label:
    id: int
    name: str
    color: str
    type: str
    attributes: list[Json]
    holder: Project | Task


@dataclass(eq=False)
class Guide:
    id: int
    markdown: str
    holder: Project | Task
    assets: dict[str, bytes] = field(default_factory=dict)
    """The pictures that it shows, by their uuids."""


@dataclass(eq=False)
class Project:
    id: int
    name: str
    owner: User
    organization: Organization | None
    created: datetime
    updated: datetime
    assignee: User | None = None
    assigned: datetime | None = None
    bug_tracker: str = ""
    own_labels: list[Label] = field(default_factory=list)
    own_guide: Guide | None = None
    tasks: list[Task] = field(default_factory=list)

    @property
    def project(self) -> Project:
        return self

    @property
    def labels(self) -> list[Label]:
        return self.own_labels


@dataclass(eq=False)
class Task:
    id: int
    name: str
    owner: User
    organization: Organization | None
    created: datetime
    updated: datetime
    project: Project | None
    assignee: User | None = None
    assigned: datetime | None = None
    bug_tracker: str = ""
    subset: str = ""
    segment_size: int = 0
    overlap: int | None = None
    dimension: str = "2d"
    own_labels: list[Label] = field(default_factory=list)
    own_guide: Guide | None = None
    data: int | None = None
    uploads: dict[str, bytes] = field(default_factory=dict)
    media: Media | None = None
    chunks_updated: datetime | None = None
    jobs: list[Job] = field(default_factory=list)

    @property
    def labels(self) -> list[Label]:
        return (self.project or self).own_labels

    @property
    def guide(self) -> Guide | None:
        """A task in a project shows the project's guide, whatever it has itself."""
        return (self.project or self).own_guide

    @property
    def mode(self) -> str:
        return ("interpolation" if self.media.video else "annotation") if self.media else ""

    @property
    def ground_truth(self) -> Job | None:
        return next((job for job in self.jobs if job.type == "ground_truth"), None)


@dataclass(eq=False)
class Job:
    id: int
    task: Task
    start: int
    stop: int
    created: datetime
    updated: datetime
    type: str = "annotation"
    included: tuple[int, ...] | None = None
    """Task-relative frames of a ground-truth job; others have the range."""
    state: str = "new"
    stage: str = "annotation"
    assignee: User | None = None
    assigned: datetime | None = None
    tags: dict[int, Row] = field(default_factory=dict)
    shapes: dict[int, Row] = field(default_factory=dict)
    tracks: dict[int, Row] = field(default_factory=dict)

    @property
    def frames(self) -> tuple[int, ...]:
        return self.included or tuple(range(self.start, self.stop + 1))

    @property
    def project(self) -> Project | None:
        return self.task.project

    @property
    def organization(self) -> Organization | None:
        return self.task.organization


@dataclass(eq=False)
class Issue:
    id: int
    job: Job
    frame: int
    position: list[float]
    owner: User
    created: datetime
    updated: datetime
    assignee: User | None = None
    resolved: bool = False
    comments: list[Json] = field(default_factory=list)

    @property
    def project(self) -> Project | None:
        return self.job.project

    @property
    def organization(self) -> Organization | None:
        return self.job.organization


@dataclass(eq=False)
class Webhook:
    id: int
    type: str
    owner: User
    project: Project | None
    organization: Organization | None
    created: datetime
    updated: datetime
    target_url: str = ""
    events: list[str] = field(default_factory=list)
    secret: str = ""
    description: str = ""
    is_active: bool = True
    enable_ssl: bool = True
    deliveries: list[Json] = field(default_factory=list)


@dataclass(eq=False)
class Background:
    """The background request that makes a task of uploaded files."""

    id: str
    task: Task
    owner: User
    created: datetime
    failure: str
    messages: list[str]
    """What the polls before the end are told, one after the other."""
    finished: datetime | None = None
    result: str | None = None
    """Where the file lies that it makes."""


Watched = Project | Task | Job | Issue


def stamp(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def pick(thing: Any, names: str) -> Json:
    """The attributes that the API calls by the same name."""
    return {name: getattr(thing, name) for name in names.split()}


def dates(thing: Any) -> Json:
    return {"created_date": stamp(thing.created), "updated_date": stamp(thing.updated)}


def number(thing: Any) -> int | None:
    return thing.id if thing else None


class World:
    """The tables. Times come from `clock` and never stand still: a microsecond at least a write."""

    def __init__(self, clock: Callable[[], datetime] | None = None) -> None:
        self.clock = clock
        self.last = datetime.min.replace(tzinfo=UTC)
        self.url = ""
        self.version = "2.54.1"
        self.working = True
        """Whether a worker takes background requests; without one they stay "queued" for ever."""
        self.analytics = False
        """Whether a log of events is kept."""
        self.refuses_events: int | None = 501
        """The status with which an export of the log is refused; None: it is begun."""
        self.working_time: list[tuple[int, int]] = []
        """(job, milliseconds) in the log of events."""
        self.next_ids: dict[str, int] = {}
        self.users: dict[int, User] = {}
        self.organizations: dict[int, Organization] = {}
        self.tokens: dict[str, Token] = {}
        """By value."""
        self.sessions: dict[str, tuple[User, str, str]] = {}
        """Session cookie -> user, key for `Token`, CSRF token."""
        self.projects: dict[int, Project] = {}
        self.tasks: dict[int, Task] = {}
        self.jobs: dict[int, Job] = {}
        self.issues: dict[int, Issue] = {}
        self.guides: dict[int, Guide] = {}
        self.webhooks: dict[int, Webhook] = {}
        self.backgrounds: dict[str, Background] = {}
        self.outbox: list[tuple[Webhook, Json]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        twin = World(self.clock)
        memo[id(self)] = twin
        tables = {name: value for name, value in vars(self).items() if name != "clock"}
        vars(twin).update(copy.deepcopy(tables, memo))
        return twin

    @property
    def release(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".")[:2])

    def now(self) -> datetime:
        moment = self.clock() if self.clock else datetime.now(UTC)
        self.last = max(moment, self.last + timedelta(microseconds=1))
        return self.last

    def new_id(self, table: str) -> int:
        taken = self.next_ids.get(table, 1)
        self.next_ids[table] = taken + 1
        return taken

    # People

    def add_user(self, name: str, password: str, groups: Iterable[str]) -> User:
        user = User(self.new_id("user"), name, password, list(groups), self.now())
        self.users[user.id] = user
        return user

    def add_organization(self, slug: str, owner: User) -> Organization:
        new = Organization(self.new_id("organization"), slug, owner, self.now())
        new.roles[owner.id] = "owner"
        self.organizations[new.id] = new
        return new

    def add_token(self, owner: User, name: str, read_only: bool, number: int = 0) -> Token:
        value = f"{secrets.token_hex(4)}.{secrets.token_hex(16)}"
        taken = number or self.new_id("token")
        self.tokens[value] = Token(taken, name, value, owner, read_only, self.now())
        return self.tokens[value]

    # Projects, tasks, labels

    def add_project(
        self, name: str, owner: User, organization: Organization | None, labels: list[Json]
    ) -> Project:
        now = self.now()
        project = Project(self.new_id("project"), name, owner, organization, now, now)
        self.edit_labels(project, labels)
        self.projects[project.id] = project
        self.announce("create:project", project, owner)
        return project

    def add_task(
        self,
        name: str,
        owner: User,
        organization: Organization | None,
        project: Project | None,
        labels: list[Json],
    ) -> Task:
        if project and labels:
            raise Refusal(400, {"labels": ["Labels can't be given for a task in a project"]})
        now = self.now()
        task = Task(self.new_id("task"), name, owner, organization, now, now, project)
        self.edit_labels(task, labels)
        self.tasks[task.id] = task
        self.announce("create:task", task, owner)
        if project:
            project.tasks.append(task)
            self.touch(project, owner)
        return task

    def edit_labels(self, holder: Project | Task, edits: list[Json]) -> None:
        """Without an id a label is added, with one edited; `deleted` takes annotations along."""
        labels = holder.own_labels
        for edit in edits:
            known = next((label for label in labels if label.id == edit.get("id")), None)
            if edit.get("id") and known is None:
                raise Refusal(404, {"detail": f"Not found label with id #{edit['id']} to change"})
            if edit.get("deleted") and known:
                labels.remove(known)
                for job in [job for job in self.jobs.values() if holder in (job.task, job.project)]:
                    for kind in ("tags", "shapes", "tracks"):
                        rows = getattr(job, kind).items()
                        kept = {n: row for n, row in rows if row["label_id"] != known.id}
                        setattr(job, kind, kept)
                continue
            if known is None:
                if any(label.name == edit["name"] for label in labels):
                    raise Refusal(400, {"labels": [f"Label name {edit['name']!r} is not unique"]})
                colour = COLOURS[len(labels) % len(COLOURS)]
                known = Label(self.new_id("label"), edit["name"], colour, "any", [], holder)
                labels.append(known)
            known.name = edit.get("name", known.name)
            known.color = edit.get("color") or known.color
            known.type = edit.get("type", known.type)
            for attribute in edit.get("attributes", []):
                old = next((a for a in known.attributes if a["id"] == attribute.get("id")), None)
                if old is None:
                    old = {"id": self.new_id("attribute"), "mutable": False, "input_type": "text"}
                    old |= {"default_value": "", "values": []}
                    known.attributes.append(old)
                old.update({k: v for k, v in attribute.items() if k != "id"})
                old["values"] = old["values"] or [""]

    # Data and jobs

    def attach(self, task: Task, media: Media, ranges: list[tuple[int, int]] | None) -> None:
        """Gives the task its frames and cuts it into jobs: by `ranges`, or by size and overlap."""
        task.media, task.chunks_updated = media, self.now()
        task.data = task.data or self.new_id("data")
        if ranges is not None:
            task.segment_size = task.overlap = 0
        else:
            size = step = task.segment_size
            if size == 0 or size > media.size:
                size, step = media.size, media.size * 2
            wished = task.overlap
            if wished is None:
                wished = 5 if media.video else 0
            task.segment_size, task.overlap = size, min(wished, size // 2)
            starts = range(0, max(media.size - task.overlap, 1), step - task.overlap)
            ranges = [(start, min(start + size, media.size) - 1) for start in starts]
        for start, stop in ranges:
            self.add_job(task, start, stop)
        task.updated = self.now()

    def add_job(self, task: Task, start: int, stop: int) -> Job:
        now = self.now()
        job = Job(self.new_id("job"), task, start, stop, now, now)
        task.jobs.append(job)
        self.jobs[job.id] = job
        self.announce("create:job", job, task.owner)
        return job

    def drop(self, thing: Any) -> None:
        """With all that hangs on it."""
        if isinstance(thing, Project):
            for task in list(thing.tasks):
                self.drop(task)
            for hook in [hook for hook in self.webhooks.values() if hook.project is thing]:
                self.drop(hook)
        elif isinstance(thing, Task):
            if thing.project:
                thing.project.tasks.remove(thing)
            for job in list(thing.jobs):
                self.drop(job)
        elif isinstance(thing, Job):
            thing.task.jobs.remove(thing)
            for issue in [issue for issue in self.issues.values() if issue.job is thing]:
                self.drop(issue)
        elif isinstance(thing, Guide):
            thing.holder.own_guide = None
        if isinstance(thing, (Project, Task)) and thing.own_guide:
            self.drop(thing.own_guide)
        del getattr(self, f"{type(thing).__name__.lower()}s")[thing.id]

    # Changes

    def touch(self, thing: Watched, user: User, before: Json | None = None) -> None:
        """Marks a change: the thing and all it is part of get a new date and tell the webhooks."""
        old = {"updated_date": stamp(thing.updated)}
        thing.updated = self.now()
        event = f"update:{type(thing).__name__.lower()}"
        self.announce(event, thing, user, {**(before or {}), **old})
        if isinstance(thing, Job):
            self.touch(thing.task, user)
        elif isinstance(thing, Task) and thing.project:
            self.touch(thing.project, user)

    def announce(self, event: str, thing: Watched, user: User, before: Json | None = None) -> None:
        """Puts the event into the outbox, once for every webhook that asked for it."""
        for hook in self.webhooks.values():
            place = "project" if hook.type == "project" else "organization"
            here = getattr(hook, place) is getattr(thing, place)
            if here and hook.is_active and event in hook.events:
                payload: Json = {type(thing).__name__.lower(): self.show(thing)}
                payload |= {"sender": self.show_person(user), "event": event}
                payload |= {} if before is None else {"before_update": before}
                self.outbox.append((hook, {**payload, "webhook_id": hook.id}))

    # As the API shows it
    # fmt: off  (keys that belong together stand on one line)

    def link(self, path: str) -> str:
        return f"{self.url}/api/{path}"

    def show(self, thing: Any) -> Json:
        shown: Json = getattr(self, f"show_{type(thing).__name__.lower()}")(thing)
        return shown

    def show_person(self, user: User | None) -> Json | None:
        """As others mention the user."""
        if user is None:
            return None
        names = {"username": user.username, "first_name": "", "last_name": ""}
        return {"url": self.link(f"users/{user.id}"), "id": user.id, **names}

    def people(self, thing: Any) -> Json:
        owner, assignee = self.show_person(thing.owner), self.show_person(thing.assignee)
        return {"owner": owner, "assignee": assignee}

    def show_user(self, user: User) -> Json:
        return {
            **(self.show_person(user) or {}),
            "email": f"{user.username}@example.com",
            "groups": user.groups,
            "is_staff": user.admin,
            "is_superuser": user.admin,
            "is_active": True,
            "last_login": stamp(user.last_login),
            "date_joined": stamp(user.joined),
            "has_analytics_access": user.admin,
        }

    def show_organization(self, organization: Organization) -> Json:
        created = stamp(organization.created)
        return {
            **pick(organization, "id slug"),
            "name": organization.slug,
            "description": "",
            "contact": {},
            "created_date": created,
            "updated_date": created,
            "owner": self.show_person(organization.owner),
        }

    def show_token(self, token: Token) -> Json:
        return {
            **pick(token, "id name read_only"),
            "created_date": stamp(token.created),
            "updated_date": stamp(token.created),
            "expiry_date": stamp(token.expires),
            "last_used_date": stamp(token.used),
            "owner": self.show_person(token.owner),
        }

    def show_label(self, label: Label) -> Json:
        place = "project_id" if isinstance(label.holder, Project) else "task_id"
        family: Json = {"sublabels": [], "parent_id": None, "has_parent": False}
        return {**pick(label, "id name color attributes type"), **family, place: label.holder.id}

    def _place(self, thing: Any, kind: str) -> Json:
        return {
            "url": self.link(f"{kind}s/{thing.id}"),
            "organization": number(thing.organization),
            "target_storage": None,
            "source_storage": None,
            "labels": {"url": self.link(f"labels?{kind}_id={thing.id}")},
            "assignee_updated_date": stamp(thing.assigned),
        }

    def show_project(self, project: Project) -> Json:
        tasks = project.tasks
        return {
            **self._place(project, "project"),
            **pick(project, "id name bug_tracker"),
            **self.people(project),
            **dates(project),
            "guide_id": number(project.own_guide),
            "status": "annotation",
            "dimension": tasks[0].dimension if tasks else None,
            "organization_id": number(project.organization),
            "tasks": {"count": len(tasks), "url": self.link(f"tasks?project_id={project.id}")},
            "task_subsets": sorted({task.subset for task in tasks if task.subset}),
        }

    def show_task(self, task: Task) -> Json:
        accepted = [j for j in task.jobs if (j.stage, j.state) == ("acceptance", "completed")]
        data: Json = {}
        if task.data is not None:
            media = task.media or Media((), ())
            kind = "video" if media.video else "imageset"
            data = {"data": task.data, "size": media.size, "image_quality": media.quality}
            data |= {"data_chunk_size": media.chunk_size, "data_cloud_storage_id": None}
            data |= {"data_original_chunk_type": kind, "data_compressed_chunk_type": kind}
        return {
            **self._place(task, "task"),
            **pick(task, "id name mode bug_tracker overlap segment_size dimension subset"),
            **self.people(task),
            **dates(task),
            **data,
            "project_id": number(task.project),
            "guide_id": number(task.guide),
            "organization_id": number(task.organization),
            "status": self.status(task.jobs),
            "jobs": {
                "count": len(task.jobs),
                "completed": len(accepted),
                "validation": sum(job.stage == "validation" for job in task.jobs),
                "url": self.link(f"jobs?task_id={task.id}"),
            },
            "validation_mode": "gt" if task.ground_truth else None,
            "consensus_enabled": False,
        }

    @staticmethod
    def status(jobs: list[Job]) -> str:
        """Completed means accepted and completed, so "Finish the job" alone never gets there."""
        if jobs and all(job.stage == "acceptance" and job.state == "completed" for job in jobs):
            return "completed"
        return "validation" if jobs and all(j.stage != "annotation" for j in jobs) else "annotation"

    def show_job(self, job: Job) -> Json:
        task, media = job.task, job.task.media
        assert media is not None
        kind = "video" if media.video else "imageset"
        issues = sum(issue.job is job for issue in self.issues.values())
        above = task.project.bug_tracker if task.project else ""
        return {
            **self._place(job, "job"),
            **pick(job, "id stage state type"),
            **dates(job),
            "task_id": task.id,
            "project_id": number(task.project),
            "guide_id": number(task.guide),
            "assignee": self.show_person(job.assignee),
            "dimension": task.dimension,
            "mode": task.mode,
            "status": self.status([job]),
            "bug_tracker": task.bug_tracker or above or None,
            "frame_count": len(job.frames),
            "start_frame": job.start,
            "stop_frame": job.stop,
            "data_chunk_size": media.chunk_size,
            "data_original_chunk_type": kind,
            "data_compressed_chunk_type": "imageset" if job.included else kind,
            "issues": {"url": self.link(f"issues?job_id={job.id}"), "count": issues},
            "parent_job_id": None,
            "consensus_replicas": 0,
        }

    def show_issue(self, issue: Issue) -> Json:
        comments = self.link(f"comments?issue_id={issue.id}")
        return {
            **pick(issue, "id frame position resolved"),
            **self.people(issue),
            **dates(issue),
            "job": issue.job.id,
            "comments": {"count": len(issue.comments), "url": comments},
        }

    def show_guide(self, guide: Guide) -> Json:
        project = isinstance(guide.holder, Project)
        ids = (None, guide.holder.id) if project else (guide.holder.id, None)
        return {**pick(guide, "id markdown"), "task_id": ids[0], "project_id": ids[1]}

    def show_webhook(self, hook: Webhook) -> Json:
        return {
            **pick(hook, "id target_url description type is_active enable_ssl events"),
            **dates(hook),
            "url": self.link(f"webhooks/{hook.id}"),
            "content_type": "application/json",
            "owner": self.show_person(hook.owner),
            "project_id": number(hook.project),
            "organization": number(hook.organization),
        }

    def show_background(self, request: Background) -> Json:
        end, task = request.finished, request.task
        if end:
            status, message = "failed" if request.failure else "finished", request.failure
        else:
            status = "started" if self.working else "queued"
            message = request.messages[0]
        operation = {"type": "create:task", "target": "task", "task_id": task.id}
        operation |= {"project_id": number(task.project), "job_id": None, "format": None}
        return {
            "status": status,
            "message": message,
            "id": request.id,
            "progress": 0.0,
            "operation": {**operation, "lightweight": None},
            "created_date": stamp(request.created),
            "started_date": stamp(request.created) if self.working else None,
            "finished_date": stamp(end),
            "expiry_date": stamp(end and end + timedelta(seconds=500)),
            "owner": pick(request.owner, "id username"),
            "result_url": request.result if status == "finished" else None,
            "result_id": None,
        }
