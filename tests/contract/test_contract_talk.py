"""Issues, and the events that the server sends."""

import hashlib
import hmac
import json
import queue
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import NotFound
from tests.contract.place import Json, Own, Place, jobs_of


def test_an_issue_says_where_and_what(client: CvatClient, job: Json) -> None:
    position = [3.5, 4.0, 6.0, 7.25]
    body = {"job": job["id"], "frame": 1, "position": position, "message": "A corner is missing."}
    issue = client.send("POST", "issues", body)
    assert (issue["job"], issue["frame"], issue["resolved"]) == (job["id"], 1, False)
    assert issue["position"] == position
    (comment,) = client.rows("comments", issue_id=issue["id"])
    assert comment["message"] == "A corner is missing."
    assert [row["id"] for row in client.rows("issues", job_id=job["id"])] == [issue["id"]]
    assert client.change("PATCH", f"issues/{issue['id']}", {"resolved": True})["resolved"] is True
    assert client.rows("issues", job_id=job["id"], resolved=False) == []
    client.change("DELETE", f"issues/{issue['id']}", None)
    with pytest.raises(NotFound):
        client.get(f"issues/{issue['id']}")


@dataclass
class Listener:
    """Where the server delivers its events."""

    url: str
    letters: "queue.Queue[tuple[dict[str, str], bytes]]"

    def take(self, event: str) -> tuple[Json, dict[str, str], bytes]:
        """The next delivery of that event: content, headers in lower case, raw body."""
        while True:
            headers, raw = self.letters.get(timeout=30)
            content = json.loads(raw)
            if content["event"] == event:
                return content, headers, raw


@pytest.fixture(scope="module")
def listener(place: Place) -> Iterator[Listener]:
    letters: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            letters.put(({name.lower(): value for name, value in self.headers.items()}, raw))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    everywhere = "127.0.0.1" if place.listener == "127.0.0.1" else ""
    with ThreadingHTTPServer((everywhere, 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield Listener(f"http://{place.listener}:{server.server_port}/events", letters)
        server.shutdown()
        thread.join()


@dataclass
class Watched:
    """A project whose events come to us."""

    project: Json
    hook: Json
    secret: str


@pytest.fixture(scope="module")
def watched(own: Own, client: CvatClient, listener: Listener) -> Watched:
    project, secret = own.project("watched"), secrets.token_hex(16)
    hook = own.create(
        "webhooks",
        target_url=listener.url,
        type="project",
        project_id=project["id"],
        events=["update:job", "create:issue"],
        secret=secret,
        content_type="application/json",
        is_active=True,
        enable_ssl=True,
        description=own.name,
    )
    assert "secret" not in hook
    delivery = client.send("POST", f"webhooks/{hook['id']}/ping", {})
    if delivery["status_code"] != 200:
        pytest.skip(f"the server cannot reach {listener.url}; set CVAT_LISTENER")
    return Watched(project, hook, secret)


@pytest.fixture(scope="module")
def watched_job(own: Own, watched: Watched) -> Json:
    task = own.images([(0,)], title="watched", project_id=watched.project["id"])
    (job,) = jobs_of(own.client, task)
    return job


def test_a_ping_arrives_signed(watched: Watched, listener: Listener) -> None:
    content, headers, raw = listener.take("ping")
    assert content["webhook"]["id"] == watched.hook["id"]
    expected = hmac.new(watched.secret.encode(), raw, hashlib.sha256).hexdigest()
    assert headers["x-signature-256"] == f"sha256={expected}"


def test_a_change_of_state_arrives_signed(
    client: CvatClient, watched: Watched, watched_job: Json, listener: Listener
) -> None:
    client.change("PATCH", f"jobs/{watched_job['id']}", {"state": "completed"})
    content, headers, raw = listener.take("update:job")
    assert (content["job"]["id"], content["job"]["state"]) == (watched_job["id"], "completed")
    assert content["before_update"]["state"] == "new"
    assert content["sender"]["id"] == client.me()["id"]
    assert content["webhook_id"] == watched.hook["id"]
    expected = hmac.new(watched.secret.encode(), raw, hashlib.sha256).hexdigest()
    assert headers["x-signature-256"] == f"sha256={expected}"


def test_saving_annotations_arrives_as_a_change_of_the_date_alone(
    client: CvatClient, watched_job: Json, listener: Listener
) -> None:
    (label, *_) = client.rows("labels", job_id=watched_job["id"])
    body = {"tags": [{"frame": 0, "label_id": label["id"]}]}
    client.send("PATCH", f"jobs/{watched_job['id']}/annotations", body, action="create")
    content, _, _ = listener.take("update:job")
    assert list(content["before_update"]) == ["updated_date"]


def test_webhooks_are_found_by_project_and_removed(
    client: CvatClient, own: Own, watched: Watched
) -> None:
    rows = client.rows("webhooks", project_id=watched.project["id"])
    assert [row["id"] for row in rows] == [watched.hook["id"]]
    assert rows[0]["target_url"] == watched.hook["target_url"]
    client.change("DELETE", f"webhooks/{watched.hook['id']}", None)
    with pytest.raises(NotFound):
        client.get(f"webhooks/{watched.hook['id']}")
