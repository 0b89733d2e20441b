"""A CVAT server as the rest of this package sees it: paths in, plain JSON out, safe to repeat."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import urllib3

from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.errors import (
    NotFound,
    Uncertain,
    Unreachable,
)
from hvsa_cvat.cvat.http.exchange import Json, Policy, Request, encode
from hvsa_cvat.cvat.http.export import Export
from hvsa_cvat.cvat.http.forms import check_answer, check_page
from hvsa_cvat.cvat.http.limits import LARGEST_FILE, LONGEST_CALL, MOST_PAGES, Patience
from hvsa_cvat.cvat.http.outcome import Outcome
from hvsa_cvat.cvat.http.response import date_of, read_blocks, read_headers, read_json
from hvsa_cvat.cvat.http.transport import Transport
from hvsa_cvat.cvat.http.upload import Upload
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import Progress

OLDEST, NEWEST = (2, 42), (2, 80)
"""The versions of CVAT that this client is made for; for others it logs a warning."""

_ABOUT = Request("GET", "server/about", anonymous=True)

_PAGE = 100
_READINGS = 5
"""How often a list is read from its first page if it changes meanwhile."""

_CREATIONS = 3
_LOOKS = (0.0, 2.0, 8.0)
"""Seconds before each search for an object whose creation got no answer: a gateway may give up on a
request while the server still works on it."""


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
        longest: float = LONGEST_CALL,
        stopping: Callable[[], bool] = lambda: False,
        count: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """`timeouts`: seconds to connect, and to wait for the next byte. `longest`: seconds of one
        call with all its repetitions. `log` gets one line for every repetition and warning.
        `stopping` tells whether the agent was asked to stop: then nothing is repeated, and calls
        end within seconds. `count` is told what came of each exchange."""
        patience = Patience(*timeouts, call=longest)
        self.address = address
        self._sleep = sleep
        self._log = log
        self._before_write: Callable[[], None] = lambda: None
        self._me: Json | None = None
        self._version: tuple[int, int] | None = None
        self._transport = Transport(
            address, credentials, sleep, rng or random.Random(), log, patience, stopping, count
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

    @contextmanager
    def guarded(self, check: Callable[[], None]) -> Iterator[None]:
        """Call `check` before each write; what it raises keeps the request from being sent."""
        before, self._before_write = self._before_write, check
        try:
            yield
        finally:
            self._before_write = before

    def login(self) -> None:
        """Log in now; other calls do it when they need it."""
        self._transport.login()

    def me(self) -> Json:
        """The account that we are logged in as; asked for once."""
        if self._me is None:
            # in the personal space, so that a wrong organisation is not taken for a wrong login
            request = Request("GET", "users/self", headers={"X-Organization": ""})
            self._me = self._call(Policy.READ, request)
        return self._me

    def version(self) -> tuple[int, int]:
        """The server's version, e.g. (2, 54); asked for once, without logging in."""
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
        return self._call(Policy.READ, Request("GET", path, query=query))

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

    def download(
        self, path: str, target: Path, /, *, most: int = LARGEST_FILE, **query: object
    ) -> Mapping[str, str]:
        """Write the body of `path` to the file `target`, whole or not at all; repeated as needed.

        A body of more than `most` bytes is refused. Returns the headers of the answer.
        """

        def save(response: urllib3.BaseHTTPResponse) -> Mapping[str, str]:
            with atomic_write(target) as temporary, temporary.open("wb") as file:
                for block in read_blocks(response, most):
                    file.write(block)
                self._transport.check_in_time()
            return response.headers

        return self._transport.call(Policy.READ, Request("GET", path, query=query), save)

    def change(self, method: str, path: str, body: Any = None, /, **query: object) -> Any:
        """A PATCH or DELETE that does the same when it is done twice; repeated as needed.

        What is already gone counts as deleted.
        """
        self._before_write()
        request = Request(method, path, encode(body), query)
        try:
            return self._call(Policy.REPEATABLE, request)
        except NotFound:
            if method == "DELETE":
                return None
            raise

    def send(self, method: str, path: str, body: Any = None, /, **query: object) -> Any:
        """A write that must not happen twice; `Uncertain` where nobody knows whether it did."""
        self._before_write()
        request = Request(method, path, encode(body), query)
        return self._call(Policy.ONCE, request)

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
                if known is None and (sent == _CREATIONS or self._transport.stopping):
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

        `data` is CVAT's data request with at least `image_quality`. The server stores the files by
        name, without folders, so no two may have the same name. After any error the task must be
        deleted and made anew: a second upload would append to the files of the first. `Uncertain`:
        nobody knows how far the upload came.
        """
        self._before_write()
        Upload(self._transport, self.get, self._sleep, task).run(files, data, progress, step)

    def attach(self, guide: int, name: str, picture: bytes) -> str:
        """Give a guide a picture, a file of this name; the path by which its text refers to it.

        The server deletes a picture that the text does not name when the text changes.
        """
        fields: list[tuple[str, Any]] = [("guide_id", str(guide)), ("file", (name, picture))]
        form, kind = urllib3.encode_multipart_formdata(fields)
        request = Request("POST", "assets", form, headers={"Content-Type": kind})
        return f"/api/assets/{self._call(Policy.ONCE, request)['uuid']}"

    def export(self, path: str, target: Path, /, *, most: int, **query: object) -> None:
        """Let the server make the file that `path` stands for, and write it to `target`.

        Nothing is repeated but the question whether it is made; a file of more than `most` bytes
        is refused.
        """
        download = partial(self.download, most=most)
        Export(self.send, self.get, download, self._sleep).run(path, query, target)

    def _call(self, policy: Policy, request: Request) -> Any:
        def take(response: urllib3.BaseHTTPResponse) -> Any:
            return check_answer(request.method, request.path, read_json(response))

        return self._transport.call(policy, request, take)

    def _read_page(self, path: str, query: Mapping[str, object]) -> Any:
        def take(response: urllib3.BaseHTTPResponse) -> Any:
            return check_page(path, read_json(response))

        return self._transport.call(Policy.READ, Request("GET", path, query=query), take)

    def _read_pages(self, path: str, query: Mapping[str, object]) -> list[Json] | None:
        """None where rows moved between the pages, so that one may have slipped through."""
        rows: dict[object, Json] = {}
        total = 0
        for number in range(1, MOST_PAGES + 1):
            asked = {"sort": "id", "page_size": _PAGE, **query, "page": number}
            try:
                page = self._read_page(path, asked)
            except NotFound:
                if number == 1:
                    raise
                return None
            total = total if number > 1 else page["count"]
            before = len(rows)
            rows |= {row["id"]: row for row in page["results"]}
            if page["count"] != total or len(rows) != before + len(page["results"]):
                return None
            if page["next"] is None:
                return list(rows.values())
        raise Unreachable(
            f"{self._transport.name('GET', path)}: the list has more than {MOST_PAGES} pages; "
            "check the server address"
        )
