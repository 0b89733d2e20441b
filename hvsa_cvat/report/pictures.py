"""The pictures of the report: class colours, overlays, outlines, curves, and their encoding.

Pictures are uint8 (H, W, 3) RGB arrays until `data_uri` makes them part of a page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TypeVar

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image as PilImage
from skimage.color import rgb2lab

from hvsa_cvat.metrics import boundary_region
from hvsa_cvat.types import IGNORE, Image, LabelMap, Size

Value = TypeVar("Value", bound=np.generic)

Range = tuple[float, float]
"""Lowest and highest."""

PICTURE_WIDTH = 480
"""Widest picture of a frame in pixels; wider ones are shrunk."""

ROUND_COLOURS = np.array(
    [[240, 165, 0], [0, 150, 220], [216, 40, 150], [60, 165, 60], [125, 90, 240], [225, 85, 30]],
    np.uint8,
)
"""uint8 (6, 3) RGB; they stand out on photographs and on white and black paper."""

WRONG = np.array([235, 45, 40], np.uint8)
INK = "#767c83"
"""Of the curves: a grey that is legible on white and on near-black, the page's two papers."""


def class_colours(n: int) -> NDArray[np.uint8]:
    """uint8 (n, 3) RGB for `n` classes: ten well-known ones, then always the colour that is
    farthest, in CIELAB, from all before it. The first k do not depend on n."""
    known = [mpl.colors.to_rgb(name) for name in mpl.colors.TABLEAU_COLORS]
    colours = np.round(255 * np.array(known)).astype(np.uint8)
    grid = np.arange(0, 256, 17, dtype=np.uint8)
    candidates = np.stack(np.meshgrid(grid, grid, grid), axis=-1).reshape(-1, 3)
    lab = rgb2lab(candidates / 255)
    # Neither near black and white nor grey, which mean "nothing" in a picture.
    usable = (lab[:, 0] > 30) & (lab[:, 0] < 88) & (np.hypot(lab[:, 1], lab[:, 2]) > 25)
    candidates, lab = candidates[usable], lab[usable]
    seeds = rgb2lab(colours / 255)
    distance = np.linalg.norm(lab[:, None] - seeds[None], axis=-1).min(axis=1)
    chosen = list(colours)
    while len(chosen) < n:
        farthest = int(distance.argmax())
        chosen.append(candidates[farthest])
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=-1))
    return np.array(chosen[:n], np.uint8).reshape(n, 3)


def round_colour(number: int) -> NDArray[np.uint8]:
    """uint8 (3,) RGB of round `number` = 1, 2, ...; they repeat after six."""
    colour: NDArray[np.uint8] = ROUND_COLOURS[(number - 1) % len(ROUND_COLOURS)]
    return colour


def overlay(
    image: Image, label_map: LabelMap, colours: NDArray[np.uint8], alpha: float = 0.6
) -> Image:
    """The image with the colour of each pixel's class over it; `IGNORE` pixels stay bare.

    `colours` is uint8 (C, 3) RGB.
    """
    known = label_map != IGNORE
    blended = image.copy()
    blended[known] = np.rint(
        (1 - alpha) * image[known] + alpha * colours[label_map[known]].astype(np.float64)
    ).astype(np.uint8)
    return blended


def outline(image: Image, chosen: NDArray[np.int8]) -> Image:
    """The image with the samples of each round framed and tinted in the round's colour.

    `chosen` is int8 (H, W): 0 never chosen, k chosen in round k.
    """
    rounds = chosen.astype(np.uint8)
    drawn = image.copy()
    for number in np.unique(rounds[rounds > 0]):
        inside = rounds == number
        colour = round_colour(int(number))
        drawn[inside] = np.rint(0.75 * image[inside] + 0.25 * colour).astype(np.uint8)
        drawn[inside & boundary_region(rounds, 4)] = 0
        drawn[inside & boundary_region(rounds, 3)] = colour
    return drawn


def heat(values: NDArray[np.float32], highest: float) -> Image:
    """float32 (H, W) from 0 (dark) to `highest` (bright)."""
    scaled = np.clip(values / highest, 0, 1) if highest > 0 else np.zeros_like(values)
    return np.asarray(mpl.colormaps["inferno"](scaled, bytes=True)[..., :3], np.uint8)


def mistakes(image: Image, truth: LabelMap, prediction: LabelMap) -> Image:
    """The wrong pixels in red over a dim grey image; pixels without truth are black."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    picture = np.repeat((0.45 * grey).astype(np.uint8)[..., None], 3, axis=2)
    picture[truth == IGNORE] = 0
    picture[wrong_pixels(truth, prediction)] = WRONG
    return picture


def wrong_pixels(truth: LabelMap, prediction: LabelMap) -> NDArray[np.bool_]:
    """bool (H, W): labelled, and predicted as something else."""
    wrong: NDArray[np.bool_] = (truth != IGNORE) & (truth != prediction)
    return wrong


def shrink_image(image: Image, width: int = PICTURE_WIDTH) -> Image:
    """At most `width` wide, by area."""
    if image.shape[1] <= width:
        return image
    size = _shrunk(image.shape[0], image.shape[1], width)
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def shrink_map(array: NDArray[Value], width: int = PICTURE_WIDTH) -> NDArray[Value]:
    """(H, W), at most `width` wide, by the nearest pixel: label maps and masks stay exact."""
    height, full = array.shape
    if full <= width:
        return array
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(_shrunk(height, full, width), (height, full), strict=True)
    )
    shrunk: NDArray[Value] = array[rows[:, None], columns]
    return shrunk


def _shrunk(height: int, full: int, width: int) -> Size:
    return max(1, round(height * width / full)), width


def timeline(counts: NDArray[np.integer], colour: NDArray[np.uint8], highest: int) -> str:
    """A bar for each frame, as high as its share of `highest`, as a transparent PNG.

    `counts` is (N,), the samples chosen in each frame. Long videos are binned to 800 bars, each as
    high as the highest frame in it.
    """
    bars = min(len(counts), 800)
    starts = np.arange(bars) * len(counts) // bars
    tops = np.maximum.reduceat(counts, starts) / max(highest, 1)
    rows = 24
    filled = np.arange(rows, 0, -1)[:, None] <= np.ceil(tops * rows)[None]
    picture = np.zeros((rows, bars, 4), np.uint8)
    picture[filled] = [*colour, 255]
    return data_uri(picture, "png")


def curve(points: Sequence[tuple[float, float]], title: str, x_label: str, y_range: Range) -> str:
    """One score (y, in %) over effort (x), as an SVG without background."""
    x, y = zip(*points, strict=True)
    with mpl.rc_context(
        {
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "font.family": "DejaVu Sans",  # comes with matplotlib
            "font.size": 10,
            "svg.hashsalt": title,  # else ids, and so the file, differ from run to run
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    ):
        figure = Figure(figsize=(3.7, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(x, y, color="#3b82c4", linewidth=2, marker="o", markersize=5)
        for at in points:
            axes.annotate(f"{at[1]:.1f}", at, (0, 7), textcoords="offset points", ha="center")
        axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
        axes.set_xlabel(x_label)
        axes.set_ylim(*y_range)
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter("{x:g} %")
        axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _uri(buffer.getvalue(), "svg+xml")


def data_uri(picture: NDArray[np.uint8], kind: str = "webp") -> str:
    """uint8 (H, W, 3 or 4) as a `data:` address; `kind` is webp (photographs) or png."""
    buffer = io.BytesIO()
    PilImage.fromarray(picture).save(buffer, kind, quality=80)
    return _uri(buffer.getvalue(), kind)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
