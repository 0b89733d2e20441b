"""The answers of our Nuclio functions to CVAT: they take a payload and return JSON.

CVAT sends an image, but does not say which frame of which task it is. This module does not use
nuclio's SDK; the files that Nuclio runs (`templates/`) pass payloads in and send answers.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import reprlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from hvsa_cvat.annotation.polygons import encode_polygons
from hvsa_cvat.errors import CheckpointError, ConfigError, HvsaError, MediaError
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.serving.bitmaps import MOST_BYTES, pieces, rows_json
from hvsa_cvat.serving.download import download
from hvsa_cvat.serving.model import Prediction, SegmentationModel
from hvsa_cvat.serving.region import Click, clicked_region
from hvsa_cvat.types import Image, LabelMap
from hvsa_cvat.video.images import opened_image, read_image

MOST_PIXELS = 64_000_000
"""The most pixels of an image. A file of a few kilobytes can claim to have many more."""

_MOST_ANSWER = f"the {MOST_BYTES // 2**20} MiB that an answer may have"

_KEPT_PREDICTIONS = 4
"""Predictions that an interactor keeps, so that further clicks into an image are answered fast."""

_MOST_CLICKS = 100
"""The most positive or negative clicks. Each takes time in proportion to the image."""

_SENT_IMAGE = Path("sent")
"""Stands for the path of an image that was sent."""

_CLICKS = TypeAdapter(list[tuple[FiniteFloat, FiniteFloat]])


class PayloadError(HvsaError):
    """A function cannot answer the payload that was sent."""


@dataclass(frozen=True)
class Answer:
    """The HTTP response of a function."""

    status: int
    body: str
    content_type: str = "application/json"


class Function(Protocol):
    """Computes the answer to a payload."""

    def __call__(self, payload: Mapping[str, Any]) -> str:
        """The answer as JSON. `PayloadError` if the payload cannot be answered."""


def respond(function: Function, body: object) -> Answer:
    """Answer the body of a request, which is parsed JSON or bytes. Status 400 if it is invalid."""
    try:
        return Answer(200, function(_payload(body)))
    except PayloadError as error:
        return Answer(400, " ".join(str(error).split()), "text/plain")


def open_function(environment: Mapping[str, str]) -> Function:
    """The function that the variables `HVSA_*` describe, with its network loaded.

    It fails now rather than at the first image if there are no weights, if their classes differ
    from those that CVAT knows, or if there is no GPU although one is asked for.
    """
    device = environment.get("HVSA_DEVICE", "auto")
    try:
        choose_device(device)
    except ConfigError as error:
        raise ConfigError(
            f"HVSA_DEVICE is {device!r}, but PyTorch finds no such device in this container; give "
            "it a GPU (NVIDIA container toolkit, limit nvidia.com/gpu), or deploy function.yaml"
        ) from error
    model = SegmentationModel(_checkpoint(environment), device)
    promised = json.loads(_variable(environment, "HVSA_LABELS"))
    if set(promised) != set(model.labels):
        raise CheckpointError(
            f"the checkpoint knows {', '.join(model.labels)}, but this function was rendered for "
            f"{', '.join(promised)}; give it a checkpoint of the same project, or render it again"
        )
    if _variable(environment, "HVSA_FUNCTION") == "interactor":
        return Interactor(model)
    return Detector(model, polygons=environment.get("HVSA_SHAPES") == "polygons")


def _checkpoint(environment: Mapping[str, str]) -> Path:
    url = environment.get("HVSA_CHECKPOINT_URL")
    if url is None:
        path = Path(_variable(environment, "HVSA_CHECKPOINT"))
        if not path.exists():
            raise CheckpointError(
                f"there is no checkpoint {path} in this container; put it into the folder of the "
                "host that is mounted there (--mount), or render the function again"
            )
        return path
    folder = Path(tempfile.gettempdir()) / "hvsa"
    return download(url, _variable(environment, "HVSA_CHECKPOINT_SHA256"), folder)


def _variable(environment: Mapping[str, str], name: str) -> str:
    try:
        return environment[name]
    except KeyError:
        raise ConfigError(
            f"{name} is not set; render the function again with `hvsa-agent serverless render`"
        ) from None


class Detector:
    """Gives every pixel a class: one mask for each class, or polygons.

    In the payload, `image` is base64. Pixels with a confidence below `threshold` are left out.
    `conv_mask_to_poly` asks for polygons; with `polygons` every answer has polygons.
    """

    def __init__(self, model: SegmentationModel, polygons: bool = False) -> None:
        self._model = model
        self._polygons = polygons

    def __call__(self, payload: Mapping[str, Any]) -> str:
        threshold = payload.get("threshold") or 0
        if not _is_number(threshold) or not 0 <= threshold <= 1:
            raise PayloadError(f"threshold {reprlib.repr(threshold)} must be a number from 0 to 1")
        prediction = self._model.predict(_image(payload))
        if self._polygons or payload.get("conv_mask_to_poly"):
            return self._as_polygons(prediction, threshold)
        return self._as_masks(prediction, threshold)

    def _as_masks(self, prediction: Prediction, threshold: float) -> str:
        label_map = prediction.above(threshold)
        found = pieces(label_map)
        if found is None:
            height, width = label_map.shape
            raise PayloadError(
                f"the masks of this {width}x{height} image would take more than {_MOST_ANSWER}; "
                "render the function with --shapes polygons"
            )
        items = []
        for piece in found:
            sure = prediction.confidence[piece.window][piece.inside].mean()
            items.append(self._item(piece.label, sure, "mask", piece.json))
        return "[" + ",".join(items) + "]"

    def _as_polygons(self, prediction: Prediction, threshold: float) -> str:
        label_map = prediction.above(threshold)
        sure = {
            label: prediction.confidence[label_map == label].mean()
            for label in np.unique(label_map).tolist()
        }
        items = (
            self._item(label, sure[label], "points", json.dumps(points))
            for label, points in encode_polygons(label_map)
        )
        return "[" + ",".join(items) + "]"

    def _item(self, label: int, confidence: float, key: str, points: str) -> str:
        """One shape in the form that CVAT's server reads. `points` is JSON."""
        name = json.dumps(self._model.labels.names[label])
        kind = {"mask": "mask", "points": "polygon"}[key]
        return (
            f'{{"confidence":"{confidence:.3f}","label":{name},"type":"{kind}",'
            f'"{key}":{points},"attributes":[]}}'
        )


class Interactor:
    """The region under clicks: `pos_points` and `neg_points` are [[x, y], ...].

    The answer is a mask of the whole image. CVAT's page up to 2.72 also reads a smaller mask with
    its `bounds`, but the page of 2.73 ignores them, and the server refuses any other size if the
    annotator has chosen a region of interest. (Then the image is the crop of that region.)
    """

    def __init__(self, model: SegmentationModel) -> None:
        def look(content: bytes) -> LabelMap:
            return model.predict(_decoded(content)).label_map

        self._label_map = lru_cache(maxsize=_KEPT_PREDICTIONS)(look)

    def __call__(self, payload: Mapping[str, Any]) -> str:
        positive, negative = _clicks(payload, "pos_points"), _clicks(payload, "neg_points")
        if not positive:
            raise PayloadError("pos_points is empty; click into the region")
        label_map = self._label_map(_content(payload))
        if 2 * label_map.size > MOST_BYTES:
            height, width = label_map.shape
            raise PayloadError(
                f"the mask of this {width}x{height} image would take more than {_MOST_ANSWER}; "
                "choose a region of interest in CVAT's AI tools"
            )
        region = clicked_region(label_map, positive, negative)
        return f'{{"mask":{rows_json(region)}}}'


def _payload(body: object) -> Mapping[str, Any]:
    if isinstance(body, bytes | str):
        # nuclio's SDK parses JSON by its content type, and passes on what it cannot parse
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise PayloadError(f"the payload is no JSON ({error})") from error
    if not isinstance(body, Mapping):
        raise PayloadError("the payload must be a JSON object")
    return body


def _image(payload: Mapping[str, Any]) -> Image:
    return _decoded(_content(payload))


def _content(payload: Mapping[str, Any]) -> bytes:
    text = payload.get("image")
    if not isinstance(text, str) or not text:
        raise PayloadError("the payload holds no image; send the file in base64 as `image`")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PayloadError(f"image is no base64 ({error})") from error


def _decoded(content: bytes) -> Image:
    try:
        with opened_image(_SENT_IMAGE, io.BytesIO(content)) as image:
            width, height = image.size
        if width * height > MOST_PIXELS:
            raise PayloadError(
                f"the image has {width}x{height} pixels, more than {MOST_PIXELS // 10**6} million"
            )
        return read_image(_SENT_IMAGE, io.BytesIO(content))
    except MediaError as error:
        raise PayloadError("the image cannot be read: it is damaged, or no image") from error


def _clicks(payload: Mapping[str, Any], key: str) -> list[Click]:
    clicks = payload.get(key) or []
    if isinstance(clicks, list) and len(clicks) > _MOST_CLICKS:
        raise PayloadError(f"{key} has {len(clicks):,} clicks; at most {_MOST_CLICKS} are allowed")
    try:
        return _CLICKS.validate_python(clicks)
    except ValidationError as error:
        raise PayloadError(f"{key} must be a list of [x, y]") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
