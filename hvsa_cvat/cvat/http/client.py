"""A CVAT server as the rest of this package sees it: paths in, plain JSON out, safe to repeat."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain, count, repeat
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import urllib3

from hvsa_cvat.cvat.http.access import (
    Address,
    Credentials,
    Forbidden,
    NotFound,
    Refused,
    Unauthorized,
    Uncertain,
    Unreachable,
    Untrusted,
)
from hvsa_cvat.cvat.http.transport import (
    Policy,
    Request,
    Transport,
    date_of,
    encode,
    read_headers,
    read_json,
)
from hvsa_cvat.errors import MediaError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import Progress

__all__ = [
    "NEWEST",
    "OLDEST",
    "Address",
    "Credentials",
    "CvatClient",
    "Forbidden",
    "Json",
    "NotFound",
    "Refused",
    "Unauthorized",
    "Uncertain",
    "Unreachable",
    "Untrusted",
]

Json = dict[str, Any]

OLDEST, NEWEST = (2, 42), (2, 80)
"""The servers that this client is made for; others get a warning."""

_ABOUT = Request("GET", "server/about", anonymous=True)

_PAGE = 100
_READINGS = 5
"""How often a list that changes while its pages are read is begun anew."""

_CREATIONS = 3
_LOOKS = (0.0, 2.0, 8.0)
"""Seconds before each look for an object whose creation got no answer: a gateway gives up on a
request while the server still works on it."""

_GROUP_BYTES = 32 * 2**20
_GROUP_FILES = 100
"""Files that share one upload request; the memory of an upload is a small multiple of a group."""
_PATIENCE = 3600.0
"""Seconds that the server may take to make a task of uploaded files."""

_BLOCK = 2**20


def _quiet(line: str) -> None:
    pass


class CvatClient:
    """One connection to one server, for one thread. Use it in a `with` statement.

    Paths are relative to `/api/` and have no leading slash; JSON is as the server has it. Query
    values are sent as text, bools as `true` and `false`, dicts and lists as JSON; None is left out.
    Every method may raise the errors of this module.
    """

    def __init__(
        self,
        address: Address,
        credentials: Credentials,
        *,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
        log: Callable[[str], None] = _quiet,
        timeouts: tuple[float, float] = (10, 300),
    ) -> None:
        """`timeouts`: seconds to connect, and to wait for the next byte. `log` gets one line for
        every repetition and warning."""
        self.address = address
        self._sleep = sleep
        self._log = log
        self._me: Json | None = None
        self._version: tuple[int, int] | None = None
        self._transport = Transport(
            address, credentials, sleep, rng or random.Random(), log, timeouts
        )

    def __enter__(self) -> CvatClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CvatClient({self.address.url!r})"

    @property
    def by_token(self) -> bool:
        """Whether an access token says who we are, and not a user name and password."""
        return self._transport.by_token

    def close(self) -> None:
        """Close the connections; safe to repeat."""
        self._transport.close()

    def login(self) -> None:
        """Log in now; other calls do it when they need it."""
        self._transport.login()

    def me(self) -> Json:
        """The account that we are; asked for once."""
        if self._me is None:
            # in the personal space, so that a wrong organisation is not taken for a wrong login
            request = Request("GET", "users/self", headers={"X-Organization": ""})
            self._me = self._transport.call(Policy.READ, request, read_json)
        return self._me

    def version(self) -> tuple[int, int]:
        """Of the server, e.g. (2, 54); asked for once, without logging in."""
        if self._version is None:
            about = self._transport.call(Policy.READ, _ABOUT, read_json)
            text = str(about.get("version")) if isinstance(about, dict) else ""
            numbers = re.match(r"(\d+)\.(\d+)", text)
            if numbers is None:
                raise Unreachable(
                    f"{self.address.url} does not say which version of CVAT it is; check the "
                    "server address"
                )
            self._version = (int(numbers[1]), int(numbers[2]))
            if not OLDEST <= self._version <= NEWEST:
                known = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
                self._log(
                    f"{self.address.url} is CVAT {self._transport.plain(text)}, this client is "
                    f"made for {known}; it may fail or misread"
                )
        return self._version

    def server_time(self) -> datetime | None:
        """What the server's clock shows, to the second, or None where it does not tell."""
        return date_of(self._transport.call(Policy.READ, _ABOUT, read_headers).get("Date"))

    def get(self, path: str, /, **query: object) -> Any:
        """The JSON of `path`; repeated as needed."""
        return self._transport.call(Policy.READ, Request("GET", path, query=query), read_json)

    def rows(self, path: str, /, **query: object) -> list[Json]:
        """All rows of a list, by ascending id, each once."""
        name = self._transport.name("GET", path)
        for _ in range(_READINGS):
            found = self._read_pages(path, query)
            if found is not None:
                return found
            self._log(f"{name}: the list changed while it was read; again")
        raise Unreachable(
            f"{name}: the list changed during each of {_READINGS} readings; try again when fewer "
            "people are at work"
        )

    def download(self, path: str, target: Path, /, **query: object) -> Mapping[str, str]:
        """Write the body of `path` to the file `target`, whole or not at all; repeated as needed.

        Returns the headers of the answer.
        """

        def save(response: urllib3.BaseHTTPResponse) -> Mapping[str, str]:
            with atomic_write(target) as temporary, temporary.open("wb") as file:
                for block in response.stream(_BLOCK):
                    file.write(block)
            return response.headers

        return self._transport.call(Policy.READ, Request("GET", path, query=query), save)

    def change(self, method: str, path: str, body: Any = None, /, **query: object) -> Any:
        """A PATCH or DELETE that does the same when it is done twice; repeated as needed.

        What is already gone counts as deleted.
        """
        request = Request(method, path, encode(body), query)
        try:
            return self._transport.call(Policy.REPEATABLE, request, read_json)
        except NotFound:
            if method == "DELETE":
                return None
            raise

    def send(self, method: str, path: str, body: Any = None, /, **query: object) -> Any:
        """A write that must not happen twice; `Uncertain` where nobody knows whether it did."""
        request = Request(method, path, encode(body), query)
        return self._transport.call(Policy.ONCE, request, read_json)

    def create(self, path: str, body: Any, find: Callable[[], Json | None]) -> Json:
        """The object that `find` finds, or else a new one, made by a POST of `body`.

        `find` must know the object by a key that only it has. A POST without an answer is looked
        up before it is sent again, which is tried a few times.
        """
        known = find()
        sent = 0
        while known is None:
            try:
                made: Json = self.send("POST", path, body)
                return made
            except Uncertain as error:
                sent += 1
                self._log(f"{error}; looking for what it made")
                known = self._look(find)
                if known is None and sent == _CREATIONS:
                    raise
        return known

    def _look(self, find: Callable[[], Json | None]) -> Json | None:
        for pause in _LOOKS:
            self._sleep(pause)
            known = find()
            if known is not None:
                return known
        return None

    def upload(
        self, task: int, files: Sequence[Path], data: Json, progress: Progress, step: str
    ) -> None:
        """Give a new task its images and wait until the server has made its frames of them.

        `data` is CVAT's data request with at least `image_quality`. Names are the files' own,
        without folders, so each only once. After any error the task is to be deleted and made
        anew: a second upload would append to the files of the first. `Uncertain` says that nobody
        knows how far it came.
        """
        if len({file.name for file in files}) != len(files):
            raise ValueError("two files of one upload have the same name")
        try:
            self._post_data(task, {"Upload-Start": ""})
            done = 0
            progress(step, done, len(files))
            for group in _groups(files):
                form, kind = _form(group, data["image_quality"])
                self._post_data(task, {"Upload-Multiple": "", "Content-Type": kind}, form)
                done += len(group)
                progress(step, done, len(files))
            request = self._finish_upload(task, data)
        except Uncertain as error:
            raise Uncertain(
                f"{error}; task {task} is half uploaded: delete it and make it anew"
            ) from error
        self._wait_for_frames(task, request)

    def _post_data(self, task: int, headers: Mapping[str, str], body: bytes | None = None) -> Any:
        request = Request("POST", f"tasks/{task}/data/", body, headers=headers)
        return self._transport.call(Policy.ONCE, request, read_json)

    def _finish_upload(self, task: int, data: Json) -> str:
        """Returns the id of the background request that makes the frames."""
        try:
            answer = self._post_data(task, {"Upload-Finish": ""}, encode(data))
        except Refused as error:
            # 409: the server is at it already, and names the request
            if error.status != 409:
                raise
            answer = error.answer
        if not isinstance(answer, dict) or "rq_id" not in answer:
            raise Uncertain(f"{self.address.url} names no request for the data of task {task}")
        return str(answer["rq_id"])

    def _wait_for_frames(self, task: int, request: str) -> None:
        path = f"requests/{quote(request, safe='')}"
        waited = 0.0
        for pause in chain((0.25, 0.5, 1.0, 2.0), repeat(5.0)):
            try:
                answer = self.get(path)
            except NotFound as error:
                # the server forgets finished requests after some minutes
                if self._has_frames(task):
                    return
                raise Uncertain(
                    f"{error}; nobody knows what became of the upload to task {task}: delete it "
                    "and make it anew"
                ) from error
            if answer.get("status") == "finished":
                return
            if answer.get("status") == "failed":
                reason = self._transport.plain(answer.get("message") or "no reason given")
                raise Refused(
                    f"{self.address.url} cannot make frames of the files of task {task}: {reason}; "
                    "delete the task and make it anew",
                    answer=answer,
                )
            if waited >= _PATIENCE:
                raise Unreachable(
                    f"{self.address.url} has not made the frames of task {task} within "
                    f"{_PATIENCE / 60:.0f} minutes; check that its import worker runs"
                )
            self._sleep(pause)
            waited += pause

    def _has_frames(self, task: int) -> bool:
        answer = self.get(f"tasks/{task}")
        jobs = answer.get("jobs") or {}
        return bool(answer.get("size") and answer.get("mode") and jobs.get("count"))

    def _read_pages(self, path: str, query: Mapping[str, object]) -> list[Json] | None:
        """None where rows moved between the pages, so that one may have slipped through."""
        rows: dict[object, Json] = {}
        total = 0
        for page in count(1):
            try:
                answer = self.get(path, **{"sort": "id", "page_size": _PAGE, **query, "page": page})
            except NotFound:
                if page == 1:
                    raise
                return None
            try:
                results, last = answer["results"], answer["next"] is None
                total = total if page > 1 else answer["count"]
                before = len(rows)
                rows |= {row["id"]: row for row in results}
                moved = answer["count"] != total or len(rows) != before + len(results)
            except (TypeError, KeyError) as error:
                raise Unreachable(
                    f"{self._transport.name('GET', path)}: the answer is no list of CVAT; check "
                    "the server address"
                ) from error
            if moved:
                return None
            if last:
                break
        return list(rows.values())


def _groups(files: Sequence[Path]) -> Iterator[list[Path]]:
    """In order, each group within the limits or a single file."""
    group: list[Path] = []
    size = 0
    for file in files:
        try:
            own = file.stat().st_size
        except OSError as error:
            raise _cannot_read(file, error) from error
        if group and (size + own > _GROUP_BYTES or len(group) == _GROUP_FILES):
            yield group
            group, size = [], 0
        group.append(file)
        size += own
    if group:
        yield group


def _form(files: Sequence[Path], image_quality: int) -> tuple[bytes, str]:
    """A multipart body and its content type."""
    fields: list[tuple[str, Any]] = [("image_quality", str(image_quality))]
    for number, file in enumerate(files):
        try:
            fields.append((f"client_files[{number}]", (file.name, file.read_bytes())))
        except OSError as error:
            raise _cannot_read(file, error) from error
    return urllib3.encode_multipart_formdata(fields)


def _cannot_read(file: Path, error: OSError) -> MediaError:
    return MediaError(f"cannot read {file}: {error.strerror or error}; it is needed for an upload")
