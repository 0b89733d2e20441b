"""The picture of the README: a frame, what people are asked there, and the masks at the end.

    hvsa-agent simulate hvsa_cvat/data/demo/images --labels hvsa_cvat/data/demo/labels \\
        --classes hvsa_cvat/data/demo/classes.txt --size 144x192 --granularity rectangle:24 \\
        --checkpoint hvsa_cvat/data/demo/pretrained.safetensors --budget 4% --rounds 2 \\
        --out runs/strip
    python -m tools.strip runs/strip hvsa_cvat/data/demo/images --out docs/img/strip.jpg

The run must have asked for rectangles. The frame with most of them is shown.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click
import cv2
import numpy as np
from PIL import Image as PillowImage

from hvsa_cvat.report.pictures import class_colours, outline, overlay
from hvsa_cvat.types import Image
from hvsa_cvat.video.frames import open_frames
from hvsa_cvat.video.segments import Granularity, Rectangles

SCALE = 2
"""How many pixels wide a pixel of the frame is in the picture."""

GAP = 8
"""Pixels of white between two pictures."""


def strip(run: Path, video: Path) -> Image:
    """uint8 (H, W, 3) RGB: the three pictures side by side."""
    frames = open_frames(video)
    settings = json.loads((run / "metrics.json").read_text())["settings"]
    size = Granularity.parse(settings["granularity"]).size
    if size is None:
        raise click.ClickException(f"{run} did not ask for rectangles, but for other samples")
    last = max(int(path.name) for path in (run / "rounds").iterdir())
    asked = [
        (number, frame, segment)
        for number in range(1, last + 1)
        for frame, segment in _samples(run / "rounds" / str(number))
    ]
    ((shown, _),) = Counter(frame for _, frame, _ in asked).most_common(1)
    chosen = np.zeros(frames.size, np.int8)
    segments = Rectangles(len(frames), frames.size, *size)[shown]
    for number, frame, segment in asked:
        if frame == shown:
            chosen[segments == segment] = number
    name = frames.names[shown]
    with PillowImage.open(run / "rounds" / str(last) / "label_maps" / f"{name}.png") as file:
        masks = np.asarray(file)
    image = frames[shown]
    colours = class_colours(len(settings["classes"]))
    pictures = [_enlarged(image), outline(_enlarged(image), _enlarged(chosen))]
    pictures.append(overlay(_enlarged(image), _enlarged(masks), colours))
    white = np.full((pictures[0].shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([pictures[0], white, pictures[1], white, pictures[2]])


def _samples(folder: Path) -> list[tuple[int, int]]:
    told = json.loads((folder / "selection.json").read_text())["samples"]
    return [(frame, segment) for frame, segment in told]


def _enlarged(array: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(array, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_NEAREST))


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("video", type=click.Path(path_type=Path, exists=True))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(run: Path, video: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(strip(run, video)).save(out, quality=90)


if __name__ == "__main__":
    main()
