"""Writing the guide of a project: its words, and the picture that it shows."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from hvsa_cvat.cvat.connection import Log
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Refused, Uncertain
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.guide import merge, show_picture, shown_picture
from hvsa_cvat.errors import ServerError

_PICTURE = "guide.png"
_ATTEMPTS = 3
"""How often the picture is sent if nobody knows whether the server has it."""

Words = Callable[[str, str], str]
"""The text of a guide, by the Markdown of its picture, which is empty where it has none, and the
guide as it is."""


def write_guide(client: CvatClient, project: int, words: Words, log: Log) -> None:
    """Write `words` into the guide of a project, beside what people wrote there."""

    def find() -> Json | None:
        number = client.get(f"projects/{project}")["guide_id"]
        guide: Json | None = None if number is None else client.get(f"guides/{number}")
        return guide

    content = {"project_id": project, "markdown": merge("", words("", ""))}
    # a second guide of one project is a server error, so it is looked for first
    guide = find() or client.create("guides", content, find)
    picture = (files("hvsa_cvat") / "data" / _PICTURE).read_bytes()
    shown = shown_picture(guide["markdown"], picture) or _attach(client, guide["id"], picture, log)
    merged = merge(guide["markdown"], words(shown, guide["markdown"]))
    if merged != guide["markdown"]:
        client.change("PATCH", f"guides/{guide['id']}", {"markdown": merged})


def _attach(client: CvatClient, guide: int, picture: bytes, log: Log) -> str:
    """The Markdown of the picture; empty where the server does not take it."""
    for _ in range(_ATTEMPTS):
        try:
            return show_picture(client.attach(guide, _PICTURE, picture), picture)
        except Uncertain as error:
            # a second one does no harm: the server deletes what the text does not name
            doubt: ServerError = error
        except (Forbidden, NotFound, Refused) as error:
            doubt = error
            break
    log(f"the guide for annotators has no picture: {doubt}")
    return ""
