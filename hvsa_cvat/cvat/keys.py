"""The keys by which what we make on a server is found again: its issue tracker links.

hvsa://<server>/tasks/<task>/.../rounds/<round>    a child task, asking about <task>
hvsa://<server>/projects/<project>                 the companion project of a project
hvsa://<server>/tasks/<task>                       the companion project of a single task
"""

from __future__ import annotations

import re
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


def companion_keys(url: str, task: int, project: int | None) -> tuple[str, ...]:
    """The keys that the companion project of a task may have: the present form, which a new one
    gets, then the form of version 0.1.

    Version 0.1 wrote the host as the user did, and the path after it. Keys on a server are never
    rewritten, so that form is looked for until version 1.0.
    """
    parts = urlsplit(url)
    about = f"tasks/{task}" if project is None else f"projects/{project}"
    servers = dict.fromkeys((server_key(url), parts.netloc + parts.path))
    return tuple(f"{OURS}{server}/{about}" for server in servers)


def is_request_about(key: str, task: int) -> bool:
    """Whether a key is that of a request about a task of the server on which it was found.

    Which server the key names does not matter: people reach one server under several addresses,
    and version 0.1 wrote the path of the address, too.
    """
    found = re.match(rf"{OURS}\S+?/tasks/(\d+)/", key)
    return found is not None and int(found[1]) == task
