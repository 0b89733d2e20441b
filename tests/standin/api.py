"""The REST API: paths, rights, filters and pages. A handler takes a `Call` and answers."""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from itertools import accumulate, pairwise
from operator import ge, gt, le, lt
from typing import Any
from urllib.parse import urlencode

from . import annotation
from .media import BadMedia, Media, checksum, from_uploads
from .model import (
    Background,
    Guide,
    Issue,
    Job,
    Json,
    Organization,
    Project,
    Refusal,
    Task,
    User,
    Webhook,
    World,
    stamp,
)


@dataclass
class Answer:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """One request, parsed, with the one who asks and the organisation that it is about."""

    world: World
    method: str
    path: str
    query: dict[str, str]
    headers: Any
    raw: bytes
    account: User | None
    deliver: Callable[[Webhook, Json], Json]
    """Posts an event while the caller waits; answers the record of it."""
    organization: Organization | None = None
    anywhere: bool = True
    """No organisation was named, not even the personal space."""

    @property
    def user(self) -> User:
        assert self.account is not None
        return self.account

    def json(self) -> Json:
        try:
            body = json.loads(self.raw or b"{}")
        except ValueError as error:
            raise Refusal(400, {"detail": f"JSON parse error - {error}"}) from error
        if not isinstance(body, dict):
            raise Refusal(400, {"non_field_errors": ["Invalid data. Expected a dictionary."]})
        return body


Handler = Callable[..., Answer]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE")
OPEN = ("server/about", "auth/login")
WEB_ADDRESS = re.compile(r"https?://(localhost|\[[0-9a-f:]+\]|[\w-]+(\.[\w-]+)+)(:\d+)?([/?#].*)?")
"""Much as Django has it: a host name needs a dot."""


def route(methods: str, path: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        pattern = re.compile("/api/" + path.replace("<id>", r"(\d+)") + "/?")
        ROUTES.extend((method, pattern, handler) for method in methods.split())
        return handler

    return register


def answer(call: Call) -> Answer:
    """Finds the handler and calls it; refusals become answers."""
    found = {m: (h, match) for m, p, h in ROUTES if (match := p.fullmatch(call.path))}
    if not found:
        return Answer(404, {"detail": "Not found."})
    allowed = [verb for verb in VERBS if verb in found]
    if call.path.strip("/") != "api/webhooks":
        allowed += (["HEAD"] if "GET" in found else []) + ["OPTIONS"]
    try:
        if call.account is None and call.path.removeprefix("/api/").strip("/") not in OPEN:
            identify(call)
        if call.method not in found:
            raise Refusal(405, {"detail": f'Method "{call.method}" not allowed.'})
        handler, match = found[call.method]
        result = handler(call, *(int(x) if x.isdigit() else x for x in match.groups()))
    except Refusal as refusal:
        result = Answer(refusal.status, refusal.body)
    result.headers["Allow"] = ", ".join(allowed)
    return result


# Who asks, and where


def forbidden(reason: str = "You do not have permission to perform this action.") -> Refusal:
    return Refusal(403, {"detail": reason})


def identify(call: Call) -> None:
    """By token, by the key of a login, or by its cookies, which need the CSRF token to write."""
    world = call.world
    kind, _, secret = call.headers.get("Authorization", "").partition(" ")
    if kind == "Bearer":
        token = world.tokens.get(secret) if world.release >= (2, 48) else None
        if token is None or (token.expires and token.expires <= world.now()):
            raise Refusal(401, {"detail": "Invalid token."})
        token.used, call.account = world.now(), token.owner
        if token.read_only and call.method != "GET":
            raise forbidden()
    elif kind == "Token":
        call.account = next(
            (user for user, key, _ in world.sessions.values() if key == secret), None
        )
        if call.account is None:
            raise Refusal(401, {"detail": "Invalid token."})
    else:
        cookie = SimpleCookie(call.headers.get("Cookie", "")).get("sessionid")
        if cookie is None or cookie.value not in world.sessions:
            raise Refusal(401, {"detail": "Authentication credentials were not provided."})
        call.account, _, csrf = world.sessions[cookie.value]
        if call.method != "GET" and call.headers.get("X-CSRFToken") != csrf:
            raise forbidden("CSRF Failed: CSRF token missing.")
    choose_organization(call)


def choose_organization(call: Call) -> None:
    """Named by header or query; an empty name is the personal space."""
    slug = call.query.get("org", call.headers.get("X-Organization"))
    number = call.query.get("org_id")
    if number is not None and slug is not None:
        raise Refusal(400, ["You cannot specify 'org_id' beside 'org' or 'X-Organization'"])
    call.anywhere = slug is None and number is None
    if slug or number:
        every = call.world.organizations.values()
        found = [o for o in every if o.slug == slug or str(o.id) == number]
        if not found:
            raise Refusal(404, {"detail": f"{slug or number} organization does not exist."})
        call.organization = found[0]
        if not call.user.admin and call.user.id not in found[0].roles:
            raise forbidden("You should be an active member in the organization.")


def maintains(user: User, organization: Organization | None) -> bool:
    roles = organization.roles if organization else {}
    return user.admin or roles.get(user.id) in ("owner", "maintainer")


def manages(user: User, thing: Any) -> bool:
    """Staff: maintainers of the organisation, owner or assignee, also of what is above."""
    if isinstance(thing, Guide):
        return manages(user, thing.holder)
    if maintains(user, thing.organization):
        return True
    if thing.organization and user.id not in thing.organization.roles:
        return False
    if isinstance(thing, Job):
        return manages(user, thing.task)
    if isinstance(thing, Issue):
        return user is thing.owner or manages(user, thing.job)
    if isinstance(thing, Webhook):
        return thing.project is not None and user is thing.project.owner
    if user in (thing.owner, thing.assignee):
        return True
    return isinstance(thing, Task) and thing.project is not None and manages(user, thing.project)


def works(user: User, thing: Any) -> bool:
    """Staff, and those to whom the job was given."""
    if isinstance(thing, Issue):
        return user is thing.assignee or works(user, thing.job)
    return manages(user, thing) or (isinstance(thing, Job) and thing.assignee is user)


def reads_guide(user: User, guide: Guide) -> bool:
    tasks = guide.holder.tasks if isinstance(guide.holder, Project) else [guide.holder]
    return manages(user, guide) or any(works(user, job) for task in tasks for job in task.jobs)


def person(call: Call, number: object, organization: Organization | None) -> User | None:
    """The user to assign; others than oneself only admins, or within an organisation."""
    if number is None:
        return None
    user = call.world.users.get(number) if isinstance(number, int) else None
    if user is None:
        raise Refusal(400, {"assignee_id": [f'Invalid pk "{number}" - object does not exist.']})
    same = organization is not None and user.id in organization.roles
    if not (call.user.admin or user is call.user or same):
        raise forbidden()
    return user


def only(body: Json, fields: str) -> Json:
    if not set(body) <= set(fields.split()):
        raise forbidden("Attempted to update an unknown field")
    return body


def needs(body: Json, fields: str) -> Json:
    for name in fields.split():
        if body.get(name) in (None, "", []):
            raise Refusal(400, {name: ["This field is required."]})
    return body


# Lists: simple filters, JSON logic, search, order, pages

Fields = dict[str, Callable[[Any], Any]]


def fields(names: str) -> Fields:
    """Fields that can be filtered and sorted by: "name" or "name=path.to.attribute", where any
    step of the path may be None."""

    def follow(path: str) -> Callable[[Any], Any]:
        def value(row: Any) -> Any:
            for step in path.split("."):
                row = None if row is None else getattr(row, step)
            return row

        return value

    parts = [name.partition("=") for name in names.split()]
    return {name: follow(path or name) for name, _, path in parts}


def dated(table: Fields) -> Fields:
    return {**table, "updated_date": lambda row: stamp(row.updated)}


PEOPLE = "owner=owner.username assignee=assignee.username "
ABOVE = "project_id=project.id project_name=project.name "
PROJECT = dated(fields(PEOPLE + "id name tracker_link=bug_tracker"))
TASK = dated(fields(PEOPLE + ABOVE + "id name subset mode dimension tracker_link=bug_tracker"))
TASK |= {"status": lambda t: World.status(t.jobs)}
TASK |= {"validation_mode": lambda t: "gt" if t.ground_truth else None}
JOB = dated(fields(ABOVE + "id task_id=task.id task_name=task.name assignee=assignee.username"))
JOB |= fields("state stage type dimension=task.dimension")
ISSUE = fields(PEOPLE + "id job_id=job.id task_id=job.task.id frame_id=frame resolved")
HOOK = fields("id target_url project_id=project.id type owner=owner.username")
SEARCHED = ("name", "owner", "assignee", "username", "subset", "task_name", "project_name", "state")


def matches(rule: Json, row: Any, table: Fields) -> bool:
    """JSON logic as the server has it; an unknown field is a refused request."""
    op, args = next(iter(rule.items()))
    if op in ("and", "or"):
        return (all if op == "and" else any)(matches(arg, row, table) for arg in args)
    if op == "!":
        return not matches(args, row, table)

    def value(arg: Any) -> Any:
        if not isinstance(arg, dict):
            return arg
        if arg["var"] not in table:
            raise Refusal(400, [f"filter: {arg['var']} filter is not supported"])
        return table[arg["var"]](row)

    left, right, *rest = [value(arg) for arg in args]
    if op == "==":
        return bool(left == right)
    if op == "in":
        of_text = not isinstance(args[0], dict)
        return str(left).lower() in str(right or "").lower() if of_text else left in right
    order = {"<": lt, "<=": le, ">": gt, ">=": ge}
    if op not in order:
        raise Refusal(400, [f"filter: {op} operation is not supported"])
    chain = [left, right, *rest]
    known = None not in chain
    return known and all(order[op](a, b) for a, b in pairwise(chain))


def listing(
    call: Call,
    rows: Iterable[Any],
    table: Fields,
    show: Callable[[Any], Json] | None = None,
    order: str = "-id",
) -> Answer:
    """A page of rows. Query parameters that nobody knows are ignored, so a misspelt filter
    returns everything."""
    query, rows = call.query, list(rows)
    for name, wanted in query.items():
        if name in table and name not in ("id", "updated_date"):
            rows = [row for row in rows if str(table[name](row)).lower() == wanted.lower()]
    if "filter" in query:
        try:
            rule = json.loads(query["filter"])
        except ValueError as error:
            raise Refusal(400, [f"filter: {error}"]) from error
        rows = [row for row in rows if matches(rule, row, table)]
    if wanted := query.get("search", "").lower():
        searched = [table[name] for name in SEARCHED if name in table]
        rows = [row for row in rows if any(wanted in str(f(row) or "").lower() for f in searched)]
    for name in reversed(query.get("sort", order).split(",")):
        key = table.get(name.removeprefix("-"), table["id"])
        rows = sorted(rows, key=lambda row: (key(row) is None, key(row)), reverse=name[0] == "-")
    count, page, size = len(rows), int(query.get("page", 1)), query.get("page_size", "10")
    step = max(count, 1) if size == "all" else int(size)
    if page < 1 or (page > 1 and (page - 1) * step >= count):
        raise Refusal(404, {"detail": "Invalid page."})

    def link(number: int) -> str | None:
        there = 0 <= (number - 1) * step < count
        return (
            f"{call.world.url}{call.path}?{urlencode({**query, 'page': number})}" if there else None
        )

    shown = [(show or call.world.show)(row) for row in rows[(page - 1) * step : page * step]]
    pages = {"next": link(page + 1), "previous": link(page - 1)}
    return Answer(200, {"count": count, **pages, "results": shown})


# What every kind of thing has: a list, reading by id, deletion


@dataclass(frozen=True)
class Kind:
    title: str
    table: Fields
    sees: Callable[[User, Any], bool]


KINDS = {
    "projects": Kind("Project", PROJECT, manages),
    "tasks": Kind("Task", TASK, manages),
    "jobs": Kind("Job", JOB, works),
    "issues": Kind("Issue", ISSUE, works),
    "webhooks": Kind("Webhook", HOOK, manages),
    "guides": Kind("AnnotationGuide", {}, reads_guide),
}


def find(call: Call, kind: str, number: object) -> Any:
    """404 when it is not there, 403 when it is not for this user."""
    thing = getattr(call.world, kind).get(number)
    if thing is None:
        raise Refusal(404, {"detail": f"No {KINDS[kind].title} matches the given query."})
    if not KINDS[kind].sees(call.user, thing):
        raise forbidden()
    return thing


def manage(call: Call, kind: str, number: object) -> Any:
    thing = find(call, kind, number)
    if not manages(call.user, thing):
        raise forbidden()
    return thing


def created(call: Call, thing: Any) -> Answer:
    shown = call.world.show(thing)
    return Answer(201, shown, {"Location": shown["url"]} if "url" in shown else {})


@route("GET", "(projects|tasks|jobs|issues|webhooks)")
def read_list(call: Call, kind: str) -> Answer:
    here = [
        thing
        for thing in getattr(call.world, kind).values()
        if call.anywhere or thing.organization is call.organization
    ]
    seen = [thing for thing in here if KINDS[kind].sees(call.user, thing)]
    return listing(call, seen, KINDS[kind].table)


@route("GET", "(projects|tasks|jobs|issues|webhooks|guides)/<id>")
def read(call: Call, kind: str, number: int) -> Answer:
    return Answer(200, call.world.show(find(call, kind, number)))


@route("DELETE", "(projects|tasks|jobs|issues|webhooks|guides)/<id>")
def delete(call: Call, kind: str, number: int) -> Answer:
    thing = manage(call, kind, number)
    if isinstance(thing, Job) and thing.type != "ground_truth":
        raise Refusal(400, ["Only ground truth jobs can be removed"])
    if kind not in ("webhooks", "guides"):
        call.world.announce(f"delete:{kind[:-1]}", thing, call.user)
    call.world.drop(thing)
    return Answer(204)


# The server and its users


@route("GET", "server/about")
def about(call: Call) -> Answer:
    words = {"name": "Computer Vision Annotation Tool", "description": "A stand-in for tests."}
    words |= {"version": call.world.version, "logo_url": f"{call.world.url}/static/logo.svg"}
    return Answer(200, {**words, "subtitle": "Open Data Annotation Platform"})


@route("POST", "auth/login")
def login(call: Call) -> Answer:
    body = call.json()
    for user in call.world.users.values():
        if (user.username, user.password) == (body.get("username"), body.get("password")):
            session, key, csrf = (secrets.token_hex(16) for _ in range(3))
            call.world.sessions[session] = (user, key, csrf)
            user.last_login = call.world.now()
            cookies = (
                f"csrftoken={csrf}; Max-Age=31449600; Path=/; SameSite=Lax\n"
                f"sessionid={session}; HttpOnly; Max-Age=1209600; Path=/; SameSite=Lax"
            )
            return Answer(200, {"key": key}, {"Set-Cookie": cookies})
    reason = "Unable to log in with provided credentials."
    raise Refusal(400, {"non_field_errors": [reason]})


@route("POST", "auth/logout")
def logout(call: Call) -> Answer:
    sessions = call.world.sessions
    for session in [s for s, (user, _, _) in sessions.items() if user is call.user]:
        del sessions[session]
    return Answer(200, {"detail": "Successfully logged out."})


@route("GET", "auth/access_tokens")
def list_tokens(call: Call) -> Answer:
    own = [token for token in call.world.tokens.values() if token.owner is call.user]
    return listing(call, own, fields("id name"))


@route("GET", "auth/access_tokens/self")
def show_own_token(call: Call) -> Answer:
    """The token by which the request was made."""
    value = call.headers.get("Authorization", "").removeprefix("Bearer ")
    for token in call.world.tokens.values():
        if token.value == value:
            return Answer(200, call.world.show_token(token))
    raise Refusal(404, {"detail": "Not found."})


@route("POST", "auth/access_tokens")
def create_token(call: Call) -> Answer:
    """A token cannot make tokens."""
    if call.headers.get("Authorization", "").startswith("Bearer"):
        raise forbidden()
    body = needs(call.json(), "name")
    token = call.world.add_token(call.user, body["name"], body.get("read_only", True))
    return Answer(201, {**call.world.show_token(token), "value": token.value})


@route("GET", "users/self")
def whoami(call: Call) -> Answer:
    return Answer(200, call.world.show_user(call.user))


@route("GET", "users")
def list_users(call: Call) -> Answer:
    """In an organisation its members; in the personal space those without any organisation."""
    world, users = call.world, list(call.world.users.values())
    if call.organization:
        users = [user for user in users if user.id in call.organization.roles]
    elif not call.anywhere:
        members = {number for o in world.organizations.values() for number in o.roles}
        users = [user for user in users if user.id not in members]
    if call.user.admin:
        return listing(call, users, fields("id username"), order="id")
    if not call.organization:
        users = [user for user in users if user is call.user]
    return listing(call, users, fields("id username"), lambda u: world.show_person(u) or {}, "id")


@route("GET", "organizations")
def list_organizations(call: Call) -> Answer:
    every = [call.organization] if call.organization else call.world.organizations.values()
    own = [o for o in every if call.user.admin or call.user.id in o.roles]
    return listing(call, own, fields("id slug name=slug"))


@route("GET", "memberships")
def list_memberships(call: Call) -> Answer:
    world, rows = call.world, []
    for organization in world.organizations.values():
        for user, role in organization.roles.items():
            row: Json = {
                "id": 1000 * organization.id + user,
                "user": world.show_person(world.users[user]),
            }
            row |= {"organization": organization.id, "is_active": True, "role": role}
            rows.append({**row, "joined_date": stamp(organization.created), "invitation": None})
    own = {o.id for o in world.organizations.values() if call.user.id in o.roles or call.user.admin}
    own &= own if call.anywhere else {call.organization.id} if call.organization else set()
    table: Fields = {"id": lambda m: m["id"], "user": lambda m: m["user"]["username"]}
    seen = [row for row in rows if row["organization"] in own]
    return listing(call, seen, {**table, "role": lambda m: m["role"]}, lambda m: m)


# Projects, tasks, labels


def may_create(call: Call, project: Project | None) -> None:
    if call.organization:
        allowed = call.organization.roles.get(call.user.id) in ("owner", "maintainer", "supervisor")
    else:
        allowed = bool({"user", "business"} & set(call.user.groups))
    if not (allowed or call.user.admin or (project and manages(call.user, project))):
        raise forbidden()


@route("POST", "projects")
def create_project(call: Call) -> Answer:
    body, world = needs(call.json(), "name"), call.world
    may_create(call, None)
    labels, assignee = (
        body.get("labels") or [],
        person(call, body.get("assignee_id"), call.organization),
    )
    project = world.add_project(body["name"], call.user, call.organization, labels)
    project.bug_tracker, project.assignee = body.get("bug_tracker") or "", assignee
    return created(call, project)


@route("POST", "tasks")
def create_task(call: Call) -> Answer:
    body, world = needs(call.json(), "name"), call.world
    wanted = body.get("project_id")
    project = None if wanted is None else manage(call, "projects", wanted)
    may_create(call, project)
    organization = project.organization if project and call.anywhere else call.organization
    if project and project.organization is not organization:
        raise Refusal(400, ["The task and its project must be in the same organization."])
    labels, assignee = body.get("labels") or [], person(call, body.get("assignee_id"), organization)
    task = world.add_task(body["name"], call.user, organization, project, labels)
    task.bug_tracker, task.subset = body.get("bug_tracker") or "", body.get("subset") or ""
    task.segment_size, task.overlap = body.get("segment_size") or 0, body.get("overlap")
    task.assignee = assignee
    return created(call, task)


@route("PATCH", "(projects|tasks)/<id>")
def update_project_or_task(call: Call, kind: str, number: int) -> Answer:
    thing, world = manage(call, kind, number), call.world
    own = " subset project_id" if kind == "tasks" else ""
    body = only(call.json(), "name bug_tracker assignee_id labels" + own)
    before = world.show(thing)
    if labels := body.pop("labels", None):
        if isinstance(thing, Task) and thing.project:
            raise Refusal(400, ["Labels of a task in a project are edited in the project"])
        world.edit_labels(thing, labels)
    if "assignee_id" in body:
        thing.assignee = person(call, body.pop("assignee_id"), thing.organization)
        thing.assigned = world.now()
    if "project_id" in body:
        raise Refusal(501, "moving tasks is left out")
    for name, value in body.items():
        setattr(thing, name, value)
    world.touch(thing, call.user, {name: before[name] for name in body})
    return Answer(200, world.show(thing))


@route("GET", "labels")
def list_labels(call: Call) -> Answer:
    """Whoever has a job of the task may see them."""
    query = call.query
    if "job_id" in query:
        holder = find(call, "jobs", int(query["job_id"])).task
    elif "task_id" in query:
        holder = call.world.tasks.get(int(query["task_id"]))
        if not holder or not any(works(call.user, thing) for thing in (holder, *holder.jobs)):
            find(call, "tasks", int(query["task_id"]))
    elif "project_id" in query:
        holder = find(call, "projects", int(query["project_id"]))
    else:
        raise Refusal(501, "labels of everything are left out")
    return listing(call, holder.labels, fields("id name type"), order="id")


@route("GET", "labels/<id>")
def read_label(call: Call, number: int) -> Answer:
    holders: tuple[Project | Task, ...] = (
        *call.world.projects.values(),
        *call.world.tasks.values(),
    )
    for label in [label for holder in holders for label in holder.own_labels]:
        if label.id == number and manages(call.user, label.holder):
            return Answer(200, call.world.show_label(label))
    raise Refusal(404, {"detail": "No Label matches the given query."})


# Data


@route("POST", "tasks/<id>/data")
def upload(call: Call, number: int) -> Answer:
    """Start, files in several requests, finish. The work itself is done at once, but reported as
    that of a worker: accepted, then started, then finished or failed."""
    task, world = manage(call, "tasks", number), call.world
    body: Json = {}
    if task.media is not None:
        raise Refusal(400, "Adding more data is not supported")
    if "Upload-Start" in call.headers:
        task.data = task.data or world.new_id("data")
        return Answer(202)
    kind = call.headers.get("Content-Type", "")
    if kind.startswith("multipart/form-data"):
        files, body = multipart(kind, call.raw)
        if len({name for name, _ in files}) < len(files):
            raise Refusal(500, "duplicate key value violates unique constraint")
        for name, content in files:
            # A file that is there already grows: never upload twice into one task.
            task.uploads[name] = task.uploads.get(name, b"") + content
    else:
        body = call.json()
    if "Upload-Multiple" in call.headers:
        return Answer(200)
    mapping = body.get("job_file_mapping")
    if mapping is not None:
        names = [name for part in mapping for name in part]
        if len(set(names)) < len(names):
            raise Refusal(400, {"job_file_mapping": ["Files must be unique"]})
        if not mapping or not all(mapping):
            raise Refusal(400, {"job_file_mapping": ["Empty jobs are not allowed"]})
    identity, failure = f"action=create&target=task&target_id={number}", ""
    try:
        if mapping and task.segment_size:
            raise BadMedia("ValueError: job_file_mapping can't be used with segment_size")
        ends = list(accumulate(len(part) for part in mapping or []))
        ranges = [(start, end - 1) for start, end in zip([0, *ends], ends, strict=False)]
        world.attach(task, from_uploads(task.uploads, body), ranges or None)
    except BadMedia as error:
        failure = str(error)
    messages = ["", "Preparing a manifest file"] if task.mode == "interpolation" else [""]
    begun = world.now()
    world.backgrounds[identity] = Background(identity, task, call.user, begun, failure, messages)
    return Answer(202, {"rq_id": identity})


def multipart(kind: str, raw: bytes) -> tuple[list[tuple[str, bytes]], Json]:
    """Files by their base names, as the server keeps them, and the plain fields."""
    boundary = b"--" + kind.partition("boundary=")[2].strip('"').encode()
    files, plain = [], {}
    for part in raw.split(boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        content, text = content.removesuffix(b"\r\n"), head.decode()
        if found := re.search(r'filename="([^"]*)"', text):
            files.append((found[1].replace("\\", "/").rpartition("/")[2], content))
        elif name := re.search(r'name="([^"]*)"', text):
            plain[name[1]] = content.decode()
    return files, plain


@route("GET", "requests/(.+)")
def read_background(call: Call, identity: str) -> Answer:
    """A finished one is forgotten after 500 seconds."""
    world = call.world
    request = world.backgrounds.get(identity.rstrip("/"))
    end = request and request.finished
    if request is None or (end and (world.now() - end).total_seconds() > 500):
        raise Refusal(404, {"detail": "There is no request with specified id"})
    if request.owner is not call.user and not call.user.admin:
        raise forbidden()
    if not request.messages:
        request.finished = request.finished or world.now()
    shown = world.show_background(request)
    request.messages = request.messages[world.working :]
    return Answer(200, shown)


@route("POST", "events/export")
def export_events(call: Call) -> Answer:
    """Without analytics the work is taken in, and fails."""
    if call.world.refuses_events is not None:
        raise Refusal(call.world.refuses_events, {"detail": "no events here"})
    number = int(call.query.get("task_id", 0))
    task, world = find(call, "tasks", number), call.world
    identity = f"action=export&target=events&id={world.new_id('export')}"
    failure = "" if world.analytics else "ConnectionError: no clickhouse"
    background = Background(identity, task, call.user, world.now(), failure, [""])
    background.result = f"{world.url}/api/events/download?rq_id={identity.replace('&', '%26')}"
    world.backgrounds[identity] = background
    return Answer(202, {"rq_id": identity})


@route("GET", "events/download")
def download_events(call: Call) -> Answer:
    """The rows of everybody, whichever export it was."""
    if not call.world.analytics:
        raise Refusal(404, {"detail": "File not found"})
    lines = ["scope,job_id,user_id,duration,timestamp"]
    for job, milliseconds in call.world.working_time:
        lines += [f"draw:object,{job},1,40,0", f"send:working_time,{job},1,{milliseconds},0"]
    return Answer(200, "\n".join(lines).encode(), {"Content-Type": "text/csv"})


def media_of(call: Call, kind: str, number: int) -> tuple[Task, Media, Sequence[int], Job | None]:
    """The task, its media and the frames that the task or job shows."""
    thing = find(call, kind, number)
    job = thing if isinstance(thing, Job) else None
    task = job.task if job else thing
    if task.media is None:
        raise Refusal(400, {"detail": "No data found for the task"})
    return task, task.media, job.frames if job else range(task.media.size), job


@route("GET PATCH", "(tasks|jobs)/<id>/data/meta")
def meta(call: Call, kind: str, number: int) -> Answer:
    """Start, stop and included frames are absolute source frames, deleted ones task-relative.
    PATCH replaces the whole list of deleted frames, a job's among the task's."""
    task, media, frames, job = media_of(call, kind, number)
    if call.method == "PATCH":
        kept = {frame for frame in media.deleted if frame not in frames}
        wanted = {frame for frame in call.json().get("deleted_frames", []) if frame in frames}
        media.deleted = tuple(sorted(kept | wanted))
        call.world.touch(job or task, call.user)
    first, last = (job.start, job.stop) if job else (0, media.size - 1)
    rows = []
    for i, picture in enumerate(media.pictures):
        if media.video or first <= i <= last:
            name = picture.name if media.video or i in frames else "placeholder.jpg"
            row = {"width": picture.width, "height": picture.height, "name": name}
            rows.append({**row, "related_files": 0, "has_related_context": False})
    included = job.included if job else None
    body = {"frames": rows, "size": len(frames), "chunk_size": media.chunk_size}
    body |= {"image_quality": media.quality, "chapters": [] if media.video else None}
    body |= {"start_frame": media.source(first), "stop_frame": media.source(last)}
    body |= {"frame_filter": f"step={media.step}" if media.step > 1 else ""}
    body |= {"deleted_frames": [frame for frame in media.deleted if frame in frames]}
    body |= {"included_frames": included and [media.source(frame) for frame in included]}
    body |= {"storage": "local", "cloud_storage_id": None}
    return Answer(200, {**body, "chunks_updated_date": stamp(task.chunks_updated)})


@route("GET", "(tasks|jobs)/<id>/data")
def data(call: Call, kind: str, number: int) -> Answer:
    """A frame by its task-relative number; a chunk by its number in the task or `index` in the
    job. Of a task chunk that reaches past the job only the job's frames are served."""
    task, media, frames, job = media_of(call, kind, number)
    query = call.query
    original, wanted = query.get("quality") == "original", query.get("type")
    relative = job is not None and "index" in query
    place = query.get("index" if relative else "number", "")
    if wanted not in ("frame", "chunk") or not place.isdigit():
        raise Refusal(400, ["Data type and number of the frame or chunk are required"])
    if wanted == "frame":
        if int(place) not in frames:
            raise Refusal(400, ["Incorrect requested frame number"])
        # A film's frame comes out of the chunk of the first job that has it.
        home = job or next(job for job in task.jobs if int(place) in job.frames)
        first = home.frames.index(int(place)) // media.chunk_size * media.chunk_size
        chunk = home.frames[first : first + media.chunk_size]
        body, content = media.frame(int(place), original, chunk)
        return Answer(200, body, {"Content-Type": content})
    first, last = int(place) * media.chunk_size, (int(place) + 1) * media.chunk_size
    chosen = frames[first:last] if relative else [n for n in frames if first <= n < last]
    if not chosen:
        raise Refusal(400, ["Incorrect requested chunk number"])
    zipped = job is not None and job.included is not None and not original
    body, content = media.chunk(chosen, original, zipped)
    sums = {"X-Checksum": checksum(body), "X-Updated-Date": stamp(task.chunks_updated) or ""}
    return Answer(200, body, {**sums, "Content-Type": content})


# Jobs and annotations


@route("POST", "jobs")
def create_job(call: Call) -> Answer:
    """Only ground truth, and one a task."""
    body, world = needs(call.json(), "type task_id frames"), call.world
    if body["type"] != "ground_truth" or body.get("frame_selection_method") != "manual":
        raise Refusal(400, {"type": [f'"{body["type"]}" is not a valid choice.']})
    manage(call, "tasks", body["task_id"])
    task, media, every, _ = media_of(call, "tasks", body["task_id"])
    if task.ground_truth:
        reason = 'Task with validation mode "gt" cannot have more than 1 GT job'
        raise Refusal(400, [reason])
    frames = tuple(sorted(body["frames"]))
    if len(set(frames)) < len(frames) or not set(frames) <= set(every):
        raise Refusal(400, [f"Incorrect frames: {frames}"])
    assignee = person(call, body.get("assignee"), task.organization)
    job = world.add_job(task, 0, media.size - 1)
    job.type, job.included, job.assignee = "ground_truth", frames, assignee
    return created(call, job)


STATES = {
    "state": ("new", "in progress", "completed", "rejected"),
    "stage": ("annotation", "validation", "acceptance"),
}


@route("PATCH", "jobs/<id>")
def update_job(call: Call, number: int) -> Answer:
    """Another stage sets the state back to "new", unless the same request sets it."""
    job, world = find(call, "jobs", number), call.world
    body = only(call.json(), "state stage assignee")
    if {"stage", "assignee"} & set(body) and not manages(call.user, job):
        raise forbidden()
    for name, choices in STATES.items():
        if body.get(name, choices[0]) not in choices:
            raise Refusal(400, {name: [f'"{body[name]}" is not a valid choice.']})
    before = world.show_job(job)
    if "assignee" in body:
        job.assignee = person(call, body["assignee"], job.organization)
        job.assigned = world.now()
    moved = body.get("stage", job.stage) != job.stage
    job.stage = body.get("stage", job.stage)
    job.state = body.get("state", "new" if moved else job.state)
    after = world.show_job(job)
    names = ("state", "stage", "assignee")
    world.touch(job, call.user, {n: before[n] for n in names if before[n] != after[n]})
    return Answer(200, world.show_job(job))


@route("GET", "(tasks|jobs)/<id>/annotations")
def read_annotations(call: Call, kind: str, number: int) -> Answer:
    task, _, _, job = media_of(call, kind, number)
    return Answer(200, annotation.show([job]) if job else annotation.show_task(task))


@route("PUT PATCH DELETE", "(tasks|jobs)/<id>/annotations")
def change_annotations(call: Call, kind: str, number: int) -> Answer:
    """PUT and DELETE take everything away, whoever made it."""
    task, _, _, job = media_of(call, kind, number)
    action = call.query.get("action", "") if call.method == "PATCH" else "put"
    if action not in ("create", "update", "delete", "put"):
        raise Refusal(400, ["Please specify a correct 'action' for the request"])
    body = {} if call.method == "DELETE" else call.json()
    if job:
        result = annotation.change(call.world, job, action, body)
    else:
        result = annotation.change_task(call.world, task, action, body)
    for one in [job] if job else task.jobs:
        call.world.touch(one, call.user)
    return Answer(204) if call.method == "DELETE" else Answer(200, result)


@route("POST", "(tasks|jobs)/<id>/annotations")
def import_annotations(call: Call, kind: str, number: int) -> Answer:
    raise Refusal(501, "imports are left out")


# Issues, guides, webhooks


@route("POST", "issues")
def create_issue(call: Call) -> Answer:
    """With its first comment."""
    body, world = needs(call.json(), "job message position"), call.world
    job, now = find(call, "jobs", body["job"]), world.now()
    place = [float(value) for value in body["position"]]
    assignee = person(call, body.get("assignee"), job.organization)
    issue = Issue(world.new_id("issue"), job, body["frame"], place, call.user, now, now, assignee)
    world.issues[issue.id] = issue
    comment(call, issue, body["message"])
    world.announce("create:issue", issue, call.user)
    return Answer(201, world.show_issue(issue))


def comment(call: Call, issue: Issue, message: str) -> Json:
    now = stamp(call.world.now())
    new = {"id": call.world.new_id("comment"), "issue": issue.id, "message": message}
    new |= {"created_date": now, "updated_date": now, "owner": call.world.show_person(call.user)}
    issue.comments.append(new)
    return new


@route("PATCH", "issues/<id>")
def update_issue(call: Call, number: int) -> Answer:
    issue, body = find(call, "issues", number), only(call.json(), "resolved assignee position")
    issue.resolved = body.get("resolved", issue.resolved)
    issue.position = body.get("position", issue.position)
    if "assignee" in body:
        issue.assignee = person(call, body["assignee"], issue.organization)
    call.world.touch(issue, call.user)
    return Answer(200, call.world.show_issue(issue))


@route("GET", "comments")
def list_comments(call: Call) -> Answer:
    issues = [issue for issue in call.world.issues.values() if works(call.user, issue)]
    table: Fields = {"id": lambda c: c["id"], "issue_id": lambda c: c["issue"]}
    rows = [row for issue in issues for row in issue.comments]
    return listing(call, rows, table, lambda c: c)


@route("POST", "comments")
def create_comment(call: Call) -> Answer:
    body = needs(call.json(), "issue message")
    return Answer(201, comment(call, find(call, "issues", body["issue"]), body["message"]))


@route("POST", "guides")
def create_guide(call: Call) -> Answer:
    """The second guide of one thing is a server error."""
    body, world = call.json(), call.world
    kind = "tasks" if body.get("project_id") is None else "projects"
    holder = manage(call, kind, body.get(f"{kind[:-1]}_id"))
    if holder.own_guide:
        raise Refusal(500, "duplicate key value violates unique constraint")
    holder.own_guide = Guide(world.new_id("guide"), body.get("markdown", "").strip(), holder)
    world.guides[holder.own_guide.id] = holder.own_guide
    return Answer(201, world.show_guide(holder.own_guide))


@route("PATCH", "guides/<id>")
def update_guide(call: Call, number: int) -> Answer:
    """Assets that the text does not name any more are deleted."""
    guide: Guide = manage(call, "guides", number)
    guide.markdown = call.json().get("markdown", guide.markdown).strip()
    named = re.findall(r"\(/api/assets/([0-9a-f-]{36})\)", guide.markdown)
    guide.assets = {key: content for key, content in guide.assets.items() if key in named}
    return Answer(200, call.world.show_guide(guide))


@route("POST", "assets")
def create_asset(call: Call) -> Answer:
    """A picture of a guide, by whoever may write the guide."""
    kind = call.headers.get("Content-Type", "")
    if not kind.startswith("multipart/form-data"):
        raise Refusal(415, {"detail": f'Unsupported media type "{kind}" in request.'})
    files, plain = multipart(kind, call.raw)
    guide: Guide = manage(call, "guides", int(needs(plain, "guide_id")["guide_id"]))
    if not files:
        raise Refusal(400, {"file": ["No file was submitted."]})
    name, content = files[0]
    if not name.endswith((".png", ".jpg", ".jpeg", ".webp", ".gif", ".pdf")):
        raise Refusal(400, {"file": ["File is not supported as an asset."]})
    key = str(uuid.uuid4())
    guide.assets[key] = content
    owner = call.world.show_person(call.user)
    shown = {"uuid": key, "filename": name, "guide_id": guide.id, "owner": owner}
    return Answer(201, {**shown, "created_date": stamp(call.world.now())})


@route("GET", "assets/([0-9a-f-]{36})")
def read_asset(call: Call, key: str) -> Answer:
    for guide in call.world.guides.values():
        if key in guide.assets and reads_guide(call.user, guide):
            return Answer(200, guide.assets[key], {"Content-Type": "image/png"})
    raise Refusal(404, {"detail": "No Asset matches the given query."})


def configure(hook: Webhook, body: Json) -> None:
    if not WEB_ADDRESS.fullmatch(body.get("target_url", hook.target_url)):
        raise Refusal(400, {"target_url": ["Enter a valid URL."]})
    for name in ("target_url", "events", "secret", "description", "is_active", "enable_ssl"):
        setattr(hook, name, body.get(name, getattr(hook, name)))


@route("POST", "webhooks")
def create_webhook(call: Call) -> Answer:
    body, world = needs(call.json(), "target_url type events"), call.world
    project = find(call, "projects", body.get("project_id")) if body["type"] == "project" else None
    organization = project.organization if project else call.organization
    if not project and not organization:
        raise Refusal(400, ["Creating an organization webhook needs an organization"])
    now = world.now()
    taken = world.next_ids.get("webhook", 1)
    hook = Webhook(taken, body["type"], call.user, project, organization, now, now)
    if not manages(call.user, hook):
        raise forbidden()
    configure(hook, body)
    world.webhooks[world.new_id("webhook")] = hook
    return created(call, hook)


@route("PATCH", "webhooks/<id>")
def update_webhook(call: Call, number: int) -> Answer:
    hook = find(call, "webhooks", number)
    configure(hook, call.json())
    hook.updated = call.world.now()
    return Answer(200, call.world.show_webhook(hook))


@route("POST", "webhooks/<id>/ping")
def ping(call: Call, number: int) -> Answer:
    """Delivered while the caller waits."""
    hook = find(call, "webhooks", number)
    shown = {"event": "ping", "webhook": call.world.show_webhook(hook)}
    return Answer(200, call.deliver(hook, {**shown, "sender": call.world.show_person(call.user)}))


@route("GET", "webhooks/<id>/deliveries")
def list_deliveries(call: Call, number: int) -> Answer:
    table: Fields = {"id": lambda d: d["id"], "event": lambda d: d["event"]}
    return listing(call, find(call, "webhooks", number).deliveries, table, lambda d: d)
