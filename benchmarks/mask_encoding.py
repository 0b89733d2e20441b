"""Masks of a label map, all classes in one pass, beside the SDK's `encode_mask` class by class.

    python -m benchmarks.mask_encoding

Prints for each kind of frame how many times faster the pass is, and the milliseconds of both and of
the `json.dumps` that follows: medians of several runs. Both give the same numbers.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

import click
import cv2
import numpy as np
from cvat_sdk.masks import encode_mask

from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.types import LabelMap

FRAMES = (
    # height, width, classes, pixels from one noise sample to the next
    (240, 320, 14, 24),
    (480, 640, 14, 24),
    (1080, 1920, 14, 60),
    (1080, 1920, 20, 60),
    (1080, 1920, 20, 1),
)


def blobs(height: int, width: int, classes: int, grain: int) -> LabelMap:
    """Patches of about `grain` pixels; at 1 every pixel is drawn on its own."""
    rng = np.random.default_rng(0)
    if grain == 1:
        return rng.integers(0, classes, (height, width), dtype=np.uint8)
    best = np.full((height, width), -np.inf, dtype=np.float32)
    label_map = np.zeros((height, width), dtype=np.uint8)
    for label in range(classes):
        coarse = rng.standard_normal((height // grain, width // grain)).astype(np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        label_map[fine > best] = label
        best = np.maximum(best, fine)
    return label_map


def one_by_one(label_map: LabelMap, labels: Iterable[int]) -> dict[int, list[float]]:
    return {label: encode_mask(label_map == label) for label in labels}


def milliseconds(work: Callable[[], object], runs: int) -> float:
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


@click.command()
@click.option("--runs", default=9, show_default=True)
def main(runs: int) -> None:
    click.echo("      frame  classes  numbers   faster  one pass  SDK loop  json.dumps")
    for height, width, classes, grain in FRAMES:
        label_map = blobs(height, width, classes, grain)
        masks = encode_masks(label_map)
        if masks != one_by_one(label_map, masks):
            raise click.ClickException("the two encodings differ")
        ours = milliseconds(partial(encode_masks, label_map), runs)
        loop = milliseconds(partial(one_by_one, label_map, masks), runs)
        dump = milliseconds(partial(json.dumps, masks), runs)
        numbers = sum(len(points) for points in masks.values())
        click.echo(
            f"{width:>6}x{height:<4} {len(masks):>8} {numbers:>8} {loop / ours:>7.1f}x"
            f" {ours:>6.2f} ms {loop:>6.1f} ms {dump:>8.1f} ms"
        )


if __name__ == "__main__":
    main()
