"""Both sides of a Nuclio function: `Processor` runs it as Nuclio does, the rest does with it what
CVAT's server does (2.42 to 2.73 alike)."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import nuclio_sdk
import numpy as np
import urllib3
import yaml
from nuclio_sdk.json_encoder import Encoder
from PIL import Image as PillowImage

from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.types import IGNORE, Image, LabelMap, Mask, Size

Json = dict[str, Any]


class Processor:
    """A folder of a function behind a real socket, through nuclio's own SDK.

    Nuclio gives each worker a process and one event at a time; here all events go to one context
    at once, which is harder on it. What Nuclio does before (building the image) is left out.
    """

    def __init__(self, folder: Path, log: io.StringIO | None = None) -> None:
        self.log = log or io.StringIO()
        logger = nuclio_sdk.Logger(logging.DEBUG, f"function {id(self)}")
        logger.set_handler("default", self.log, nuclio_sdk.logger.JSONFormatter())
        self.context = nuclio_sdk.Context(logger, worker_id=0)
        self.module = _import_main(folder)
        self.module.init_context(self.context)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = outer.handle(body, dict(self.headers), self.path)
                content = answer["body"].encode()
                self.send_response(answer["status_code"])
                self.send_header("Content-Type", answer["content_type"])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def handle(self, body: bytes, headers: Mapping[str, str], path: str = "/") -> Json:
        """What the wrapper around the handler makes of an event, and of what it raises."""
        event = nuclio_sdk.Event.deserialize(
            {
                "body": body,
                "content_type": headers.get("Content-Type", ""),
                "headers": headers,
                "path": path,
                "method": "POST",
                "timestamp": int(time.time()),
                "trigger": {"kind": "http", "name": "myHttpTrigger"},
                **dict.fromkeys(("fields", "id", "url", "type", "type_version", "version")),
                **dict.fromkeys(("size", "shard_id", "num_shards"), 0),
            },
            kind=nuclio_sdk.EventDeserializerKinds.msgpack,
        )
        encode = Encoder().encode
        try:
            output = self.module.handler(self.context, event)
            answer: Json = nuclio_sdk.Response.from_entrypoint_output(encode, output)
        except Exception:
            answer = {"body": traceback.format_exc(), "status_code": 500}
            answer |= {"content_type": "text/plain", "headers": {}, "body_encoding": "text"}
        read: Json = json.loads(encode(answer))
        assert read["body_encoding"] == "text"
        return read

    def __enter__(self) -> Processor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _import_main(folder: Path) -> ModuleType:
    """`main`, with its folder first on the path and forgotten afterwards."""
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("main", folder / "main.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("model_handler", None)


def call(url: str, payload: Any) -> urllib3.BaseHTTPResponse:
    """As CVAT's server calls a function: JSON, by POST, with that patience."""
    return urllib3.request("POST", url, json=payload, retries=False, timeout=120)


def in_base64(image: Image | PillowImage.Image, **options: Any) -> str:
    """A frame as CVAT sends it, as a PNG file."""
    pillow = image if isinstance(image, PillowImage.Image) else PillowImage.fromarray(image)
    content = io.BytesIO()
    pillow.save(content, "PNG", **options)
    return base64.b64encode(content.getvalue()).decode()


def as_shapes(answer: Sequence[Json]) -> list[Json]:
    """What CVAT's server makes of a detector's answer."""
    shapes = []
    for item in answer:
        shape = {"type": item["type"], "label": item["label"], "frame": 0}
        if item["type"] == "mask":
            *pixels, left, top, right, bottom = item["mask"]
            assert len(pixels) == (right - left + 1) * (bottom - top + 1)
            changes = np.flatnonzero(np.diff(pixels, prepend=0, append=2))
            runs = np.diff(changes, prepend=0).tolist()
            shape["points"] = [*runs, left, top, right, bottom]
        else:
            shape["points"] = item["points"]
        shapes.append(shape)
    return shapes


def as_label_map(answer: Sequence[Json], labels: Sequence[str], size: Size) -> LabelMap:
    """The shapes painted; no pixel may lie in two of them."""
    label_map = np.full(size, IGNORE, np.uint8)
    for shape in as_shapes(answer):
        filled = fill_shape(shape, size)
        assert filled is not None
        window, inside = filled
        assert (label_map[window][inside] == IGNORE).all()
        label_map[window][inside] = labels.index(shape["label"])
    return label_map


def as_region(answer: Json, size: Size) -> Mask:
    """The mask that CVAT makes of an interactor's answer to an image of `size`.

    The page up to 2.72 lays the mask into its `bounds`, or takes it as the whole image if there
    are none. The page of 2.73 always takes it as the whole image. With a region of interest the
    server of 2.73 lays it into a window of the region's size, which is that of the image it sent.
    """
    mask = np.array(answer["mask"], dtype=np.bool_)
    left, top, right, bottom = answer.get("bounds", (0, 0, mask.shape[1] - 1, mask.shape[0] - 1))
    on_older_page = np.zeros(size, dtype=np.bool_)
    on_older_page[top : bottom + 1, left : right + 1] = mask
    on_newer_page = np.zeros(size, dtype=np.bool_)
    on_newer_page[: mask.shape[0], : mask.shape[1]] = mask
    assert np.array_equal(on_newer_page, on_older_page)
    around = np.zeros((size[0] + 20, size[1] + 30), dtype=np.bool_)
    around[10 : 10 + size[0], 10 : 10 + size[1]] = mask
    assert np.array_equal(around[10:-10, 10:-20], on_older_page)
    return on_older_page


def read_function(file: Path) -> Json:
    """What CVAT's server reads of a function: by the rules of its lambda manager, on metadata that
    Nuclio keeps as a map of strings to strings."""
    content = yaml.safe_load(file.read_text())
    metadata, spec = content["metadata"], content["spec"]
    notes = metadata["annotations"]
    assert all(isinstance(value, str) for value in notes.values()), notes
    assert notes["type"] in ("detector", "interactor", "reid", "tracker")
    labels = [
        {"name": label["name"], "type": label.get("type", "any")}
        for label in json.loads(notes.get("spec") or "[]")
    ]
    assert len({label["name"] for label in labels}) == len(labels)
    return {
        "id": metadata["name"],
        "kind": notes["type"],
        "name": notes.get("name", metadata["name"]),
        "labels_v2": labels,
        "description": spec["description"],
        "version": int(notes.get("version", "1")),
        "min_pos_points": int(notes.get("min_pos_points", 1)),
        "min_neg_points": int(notes.get("min_neg_points", -1)),
        "startswith_box": bool(notes.get("startswith_box", False)),
        "startswith_box_optional": bool(notes.get("startswith_box_optional", False)),
        "help_message": notes.get("help_message", ""),
    }


def variables(file: Path) -> dict[str, str]:
    """The environment that a function starts with."""
    content = yaml.safe_load(file.read_text())
    found = {pair["name"]: pair["value"] for pair in content["spec"]["env"]}
    assert all(isinstance(value, str) for value in found.values()), found
    return found
