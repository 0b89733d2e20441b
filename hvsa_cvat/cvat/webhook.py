"""CVAT's webhook deliveries, which wake the agent early.

A delivery may come twice, late or never. It only says that something changed: what changed is read
from the server.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.saves import Save
from hvsa_cvat.errors import ConfigError

EVENTS = ("create:job", "update:job")

_LARGEST_BODY = 1 << 20
"""Bytes; a delivery has a few thousand."""

_DESCRIPTION = "hvsa-agent: wakes the agent when a job changes"

Scope = Mapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def signature(secret: str, body: bytes) -> str:
    """The header `X-Signature-256` that CVAT sends with a raw body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def matters(delivery: Json, own_user: int) -> bool:
    """Whether a delivery says that somebody else made a job or changed its state or stage.

    CVAT also delivers every saved annotation, our own included; then only the job's date changed.
    """
    sender = delivery.get("sender") or {}
    if sender.get("id") == own_user:
        return False
    if delivery.get("event") == "create:job":
        return True
    before = delivery.get("before_update") or {}
    return delivery.get("event") == "update:job" and bool({"state", "stage"} & set(before))


def save_of(delivery: Json, own_user: int) -> Save | None:
    """The save that a delivery tells of; None where it tells of something else, or of our own.

    When annotations are saved, only the date of their job changes.
    """
    job, sender = delivery.get("job") or {}, delivery.get("sender") or {}
    before = set(delivery.get("before_update") or {})
    if delivery.get("event") != "update:job" or sender.get("id") in (None, own_user):
        return None
    if not before or before - {"updated_date", "state", "stage"}:
        return None
    number, state, date = (job.get(name) for name in ("id", "state", "updated_date"))
    if not isinstance(number, int) or not isinstance(state, str) or not isinstance(date, str):
        return None
    return Save(number, state, date)


class Listener:
    """An ASGI application that calls `wake` for each signed delivery that matters, and `saved` for
    each that tells of a save.

    A request without a valid signature is answered with 401 and ignored. A signed one that is no
    delivery is answered with 400, and `log` gets a line.
    """

    def __init__(
        self,
        secret: str,
        own_user: int,
        wake: Callable[[], None],
        log: Callable[[str], None],
        saved: Callable[[Save], None] = lambda save: None,
    ) -> None:
        if not secret:
            raise ConfigError(
                "webhooks need a secret; set HVSA_WEBHOOK_SECRET to the same long random text "
                "here and for `hvsa-agent webhook install`"
            )
        self._secret = secret
        self._own_user = own_user
        self._wake = wake
        self._log = log
        self._saved = saved

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _read(receive)
        if body is None:
            await answer(send, 413, b"too large\n")
            return
        given = dict(scope["headers"]).get(b"x-signature-256", b"")
        if not hmac.compare_digest(given, signature(self._secret, body).encode()):
            await answer(send, 401, b"wrong or missing signature\n")
            return
        try:
            delivery = _delivery(body)
        except ValueError as error:
            self._log(f"webhooks: a signed request is no delivery of CVAT ({error})")
            await answer(send, 400, b"no delivery\n")
            return
        await answer(send, 200, b"")
        if (save := save_of(delivery, self._own_user)) is not None:
            self._saved(save)
        if matters(delivery, self._own_user):
            self._wake()


class _Sender(msgspec.Struct):
    id: int | None = None


class _Delivery(msgspec.Struct):
    event: str
    job: dict[str, Any] | None = None
    sender: _Sender | None = None
    before_update: dict[str, Any] | None = None


def _delivery(body: bytes) -> Json:
    """`ValueError` where a body is no delivery."""
    try:
        content: Json = json.loads(body)
        msgspec.convert(content, _Delivery)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error).replace("`", "")) from error
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    return content


def install(client: CvatClient, target: str, secret: str, projects: list[int]) -> list[Json]:
    """Make the server deliver to `target`: one webhook for the organisation or, in the personal
    space, one for each project. A webhook to the same target is updated."""
    _check_target(target)
    if client.address.organization:
        scopes: list[Json] = [{"type": "organization"}]
    else:
        scopes = [{"type": "project", "project_id": project} for project in projects]
    if not scopes:
        raise ConfigError(
            "no project to install a webhook for: in the personal space CVAT delivers for projects "
            "only, and the companion project is made when people are first asked; run "
            "`hvsa-agent sync` first, or use the agent without webhooks"
        )
    installed = []
    for scope in scopes:
        wanted = {
            "target_url": target,
            "description": _DESCRIPTION,
            "events": list(EVENTS),
            "content_type": "application/json",
            "is_active": True,
            "enable_ssl": True,
            "secret": secret,
        }

        def find(scope: Json = scope) -> Json | None:
            for row in client.rows("webhooks"):
                same = all(row.get(name) == value for name, value in scope.items())
                if same and row["target_url"] == target:
                    return row
            return None

        present = find()
        if present is None:
            installed.append(client.create("webhooks", {**wanted, **scope}, find))
        else:
            installed.append(client.change("PATCH", f"webhooks/{present['id']}", wanted))
    return installed


def _check_target(target: str) -> None:
    """Refuse addresses that CVAT refuses, with a reason, which CVAT does not give."""
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"webhook address {target!r}: write where the server reaches the agent, like "
            "https://agent.example.com/"
        )
    if "." not in parts.hostname and ":" not in parts.hostname and parts.hostname != "localhost":
        raise ConfigError(
            f"webhook address {target!r}: CVAT accepts no host name without a dot; give the "
            "container a network alias such as hvsa-agent.internal, or use its address"
        )


async def _read(receive: Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > _LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return body


async def answer(send: Send, status: int, body: bytes) -> None:
    """Answer a request with a line of text."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
