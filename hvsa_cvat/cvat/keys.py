"""The keys by which what we make on a server is found again: its issue tracker links.

hvsa://<server>/tasks/<task>/.../rounds/<round>    a child task, asking about <task>
hvsa://<server>/check/labels/<digest>              the companion project of tasks of these classes
hvsa://<server>/check/projects/<project>           the same of earlier versions: of a project
hvsa://<server>/check/tasks/<task>                 the same of earlier versions: of a single task
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

OURS = "hvsa://"
"""How all our keys begin."""


def server_key(url: str) -> str:
    """What stands for a server in keys and workspaces: its host in lower case, and its port if
    there is one.

    Scheme and path do not count, so that every address of one server gives the same key. (Two
    servers at one host and port, under different paths, need a workspace each.)
    """
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def companion_key(url: str, names: Iterable[str]) -> str:
    """The key of the companion project of tasks whose classes have these names, in any order."""
    return f"{OURS}{server_key(url)}/check/labels/{label_digest(names)}"


def label_digest(names: Iterable[str]) -> str:
    """Stands for a set of class names."""
    return hashlib.sha256(json.dumps(sorted(names)).encode()).hexdigest()[:12]


def earlier_companion_key(url: str, task: int, project: int | None) -> str:
    """The key that earlier versions gave the companion project of a task.

    Version 0.1 wrote no `check`; the labels of its projects are of another type.
    """
    about = f"tasks/{task}" if project is None else f"projects/{project}"
    return f"{OURS}{server_key(url)}/check/{about}"


def is_request_about(key: str, task: int) -> bool:
    """Whether a key is that of a request about a task of the server on which it was found.

    Which server the key names does not matter: people reach one server under several addresses,
    and version 0.1 wrote the path of the address, too.
    """
    found = re.match(rf"{OURS}\S+?/tasks/(\d+)/", key)
    return found is not None and int(found[1]) == task
