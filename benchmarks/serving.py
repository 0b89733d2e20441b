"""What a Nuclio function's answer costs: milliseconds and bytes, of masks and of polygons.

    python -m benchmarks.serving

First the encoding alone, on label maps of patches and of noise: the answer as it is built here, the
same through a list of integers and `json`, and polygons. Then whole calls with the network of the
package: base64 and PNG read, predicted, encoded; and a click, first and repeated. Medians of the
processor's time on one thread, which other programs on the machine hardly change.
"""

from __future__ import annotations

import base64
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path

import click
import cv2
import numpy as np
import torch

from benchmarks.mask_encoding import blobs
from hvsa_cvat.annotation.polygons import encode_polygons
from hvsa_cvat.serving.bitmaps import pieces
from hvsa_cvat.serving.model import SegmentationModel
from hvsa_cvat.serving.nuclio import Detector, Interactor
from hvsa_cvat.types import LabelMap
from hvsa_cvat.video.frames import resize_image
from hvsa_cvat.video.images import read_image

FRAMES = (
    # height, width, classes, pixels from one noise sample to the next
    (480, 640, 14, 24),
    (1080, 1920, 14, 60),
    (1080, 1920, 20, 60),
    (1080, 1920, 20, 8),
    (2160, 3840, 14, 60),
)
SIZES = ((480, 640), (1080, 1920), (2160, 3840))
MIB = 2**20


def milliseconds(work: Callable[[], object], runs: int) -> float:
    taken = []
    for _ in range(runs):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return 1000 * statistics.median(taken)


def masks(label_map: LabelMap) -> list[str]:
    """Empty where they do not fit an answer, which the handler refuses."""
    return [piece.json for piece in pieces(label_map) or ()]


def by_json(label_map: LabelMap) -> list[str]:
    """The obvious way."""
    answer = []
    for piece in pieces(label_map) or ():
        numbers = [*piece.inside.astype(int).ravel().tolist(), *piece.box]
        answer.append(json.dumps(numbers, separators=(",", ":")))
    return answer


def encode(runs: int) -> None:
    click.echo("      frame classes    masks                     by json    polygons")
    for height, width, classes, grain in FRAMES:
        label_map = blobs(height, width, classes, grain)
        ours = masks(label_map)
        if ours != by_json(label_map):
            raise click.ClickException("the two encodings differ")
        polygons = json.dumps(encode_polygons(label_map))
        click.echo(
            f"{width:>6}x{height:<4} {classes:>7}"
            f" {len(ours):>5} {sum(map(len, ours)) / MIB:>6.1f} MiB"
            f" {milliseconds(partial(masks, label_map), runs):>6.0f} ms"
            f" {milliseconds(partial(by_json, label_map), 1):>7.0f} ms"
            f" {len(polygons) / MIB:>6.1f} MiB"
            f" {milliseconds(lambda m=label_map: json.dumps(encode_polygons(m)), 1):>6.0f} ms"
        )


def call(runs: int) -> None:
    demo = Path(str(files("hvsa_cvat") / "data" / "demo"))
    model = SegmentationModel(demo / "pretrained.safetensors", "cpu")
    detector = Detector(model)
    frame = read_image(demo / "images" / "frame_00010.jpg")
    click.echo(f"\n{model.description}, on {model.device}, seen at {model.size[1]}x{model.size[0]}")
    click.echo("      frame      sent      answer  whole call  network alone  click  next click")
    for size in SIZES:
        image = resize_image(frame, size)
        _, content = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
        payload = {"image": base64.b64encode(content.tobytes()).decode(), "pos_points": [[9, 9]]}
        answer = detector(payload)
        click.echo(
            f"{size[1]:>6}x{size[0]:<4}"
            f" {len(payload['image']) / MIB:>5.1f} MiB {len(answer) / MIB:>7.1f} MiB"
            f" {milliseconds(partial(detector, payload), runs):>8.0f} ms"
            f" {milliseconds(partial(model.predict, image), runs):>11.0f} ms"
            f" {milliseconds(lambda p=payload: Interactor(model)(p), runs):>3.0f} ms"
            f" {milliseconds(partial(click_again(model, payload), payload), runs):>8.0f} ms"
        )


def click_again(model: SegmentationModel, payload: dict[str, object]) -> Interactor:
    interactor = Interactor(model)
    interactor(payload)
    return interactor


@click.command()
@click.option("--runs", default=3, show_default=True)
def main(runs: int) -> None:
    torch.set_num_threads(1)
    encode(runs)
    call(runs)


if __name__ == "__main__":
    main()
