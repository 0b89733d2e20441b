"""The upload of a new task's images, in groups of files that share a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3

from hvsa_cvat.cvat.http.errors import NotFound, Refused, Uncertain, Unreachable
from hvsa_cvat.cvat.http.exchange import Json, Policy, Request, encode
from hvsa_cvat.cvat.http.response import read_json
from hvsa_cvat.cvat.http.transport import Transport
from hvsa_cvat.errors import MediaError
from hvsa_cvat.ports import Progress

_GROUP_BYTES = 32 * 2**20
_GROUP_FILES = 100
"""The most bytes and files of one request; an upload takes a few times these bytes of memory."""
_PATIENCE = 3600.0
"""Seconds that the server may take to make a task of uploaded files."""


@dataclass(frozen=True)
class Upload:
    """The upload to one task; see `CvatClient.upload`."""

    transport: Transport
    get: Callable[[str], Any]
    sleep: Callable[[float], None]
    task: int

    def run(self, files: Sequence[Path], data: Json, progress: Progress, step: str) -> None:
        if len({file.name for file in files}) != len(files):
            raise ValueError("two files of one upload have the same name")
        try:
            self._post_data({"Upload-Start": ""})
            done = 0
            progress(step, done, len(files))
            for group in _groups(files):
                form, kind = _form(group, data["image_quality"])
                self._post_data({"Upload-Multiple": "", "Content-Type": kind}, form)
                done += len(group)
                progress(step, done, len(files))
            request = self._finish(data)
        except Uncertain as error:
            raise Uncertain(
                f"{error}; task {self.task} is half uploaded: delete it and make it anew"
            ) from error
        self._wait_for_frames(request)

    @property
    def _url(self) -> str:
        return self.transport.address.url

    def _post_data(self, headers: Mapping[str, str], body: bytes | None = None) -> Any:
        request = Request("POST", f"tasks/{self.task}/data/", body, headers=headers)
        return self.transport.call(Policy.ONCE, request, read_json)

    def _finish(self, data: Json) -> str:
        """Returns the id of the background request that makes the frames."""
        try:
            answer = self._post_data({"Upload-Finish": ""}, encode(data))
        except Refused as error:
            # 409: the server has begun already, and names its background request
            if error.status != 409:
                raise
            answer = error.answer
        if not isinstance(answer, dict) or "rq_id" not in answer:
            raise Uncertain(
                f"{self.transport.address.url} names no request for the data of task {self.task}"
            )
        return str(answer["rq_id"])

    def _wait_for_frames(self, request: str) -> None:
        path = f"requests/{quote(request, safe='')}"
        waited = 0.0
        for pause in chain((0.25, 0.5, 1.0, 2.0), repeat(5.0)):
            try:
                answer = self.get(path)
            except NotFound as error:
                # the server forgets finished requests after some minutes
                if self._has_frames():
                    return
                raise Uncertain(
                    f"{error}; nobody knows what became of the upload to task {self.task}: delete "
                    "it and make it anew"
                ) from error
            if answer.get("status") == "finished":
                return
            if answer.get("status") == "failed":
                reason = self.transport.plain(answer.get("message") or "no reason given")
                raise Refused(
                    f"{self._url} cannot make frames of the files of task {self.task}: {reason}; "
                    "delete the task and make it anew",
                    answer=answer,
                )
            if waited >= _PATIENCE:
                raise Unreachable(
                    f"{self._url} has not made the frames of task {self.task} within "
                    f"{_PATIENCE / 60:.0f} minutes; check that its import worker runs"
                )
            self.sleep(pause)
            waited += pause

    def _has_frames(self) -> bool:
        answer = self.get(f"tasks/{self.task}")
        jobs = answer.get("jobs") or {}
        return bool(answer.get("size") and answer.get("mode") and jobs.get("count"))


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
