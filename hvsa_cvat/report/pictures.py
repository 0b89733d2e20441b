"""The pictures of the report: class colours, overlays, outlines, curves, and their encoding.

A picture is a uint8 (H, W, 3) RGB array. `data_uri` turns it into text for the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
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
"""The largest width of a frame's picture, in pixels. Wider frames are shrunk."""

ROUND_COLOURS = np.array(
    [[240, 165, 0], [0, 150, 220], [216, 40, 150], [60, 165, 60], [125, 90, 240], [225, 85, 30]],
    np.uint8,
)
"""uint8 (6, 3) RGB. They are visible on photographs and on a white or black page."""

WRONG = np.array([235, 45, 40], np.uint8)
INK = "#767c83"
"""The colour of the curves' text and axes: a grey that is visible on a light and a dark page."""


def class_colours(n: int) -> NDArray[np.uint8]:
    """uint8 (n, 3) RGB: a colour for each of `n` classes.

    The first ten are Matplotlib's. Each next one is farthest, in CIELAB, from all before it. So the
    first k colours do not depend on `n`.
    """
    return np.array(_class_colours(n), np.uint8).reshape(n, 3)


@cache
def _class_colours(n: int) -> NDArray[np.uint8]:
    known = [mpl.colors.to_rgb(name) for name in mpl.colors.TABLEAU_COLORS]
    colours = np.round(255 * np.array(known)).astype(np.uint8)
    grid = np.arange(0, 256, 17, dtype=np.uint8)
    candidates = np.stack(np.meshgrid(grid, grid, grid), axis=-1).reshape(-1, 3)
    lab = rgb2lab(candidates / 255)
    # No black, white or grey, which would look like pixels without a class.
    usable = (lab[:, 0] > 30) & (lab[:, 0] < 88) & (np.hypot(lab[:, 1], lab[:, 2]) > 25)
    candidates, lab = candidates[usable], lab[usable]
    seeds = rgb2lab(colours / 255)
    distance = np.linalg.norm(lab[:, None] - seeds[None], axis=-1).min(axis=1)
    chosen = list(colours)
    while len(chosen) < n:
        farthest = int(distance.argmax())
        chosen.append(candidates[farthest])
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=-1))
    return np.array(chosen[:n], np.uint8)


def round_colour(number: int) -> NDArray[np.uint8]:
    """uint8 (3,) RGB: the colour of round `number` = 1, 2, ... The colours repeat after six."""
    colour: NDArray[np.uint8] = ROUND_COLOURS[(number - 1) % len(ROUND_COLOURS)]
    return colour


def overlay(
    image: Image, label_map: LabelMap, colours: NDArray[np.uint8], alpha: float = 0.6
) -> Image:
    """The image with the colour of its class over each pixel, except over `IGNORE` pixels.

    `colours` is uint8 (C, 3) RGB.
    """
    known = label_map != IGNORE
    blended = image.copy()
    blended[known] = np.rint(
        (1 - alpha) * image[known] + alpha * colours[label_map[known]].astype(np.float64)
    ).astype(np.uint8)
    return blended


def outline(image: Image, chosen: NDArray[np.int8]) -> Image:
    """The image with an outline and a tint in the round's colour on the samples of each round.

    `chosen` is int8 (H, W): k for pixels chosen in round k, 0 for pixels never chosen.
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
    """A picture of float32 (H, W) values, from 0 (dark) to `highest` (bright)."""
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
    """bool (H, W): pixels that have a true class and another predicted class."""
    wrong: NDArray[np.bool_] = (truth != IGNORE) & (truth != prediction)
    return wrong


def shrink_image(image: Image, width: int = PICTURE_WIDTH) -> Image:
    """The image, shrunk to a width of at most `width` by averaging areas."""
    if image.shape[1] <= width:
        return image
    size = _shrunk(image.shape[0], image.shape[1], width)
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def shrink_map(array: NDArray[Value], width: int = PICTURE_WIDTH) -> NDArray[Value]:
    """(H, W) shrunk to a width of at most `width`. It takes the nearest pixels."""
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
    """A transparent PNG with a bar for each frame, whose height is its share of `highest`.

    `counts` is (N,): the samples chosen in each frame. A video of more than 800 frames gets 800
    bars, each for several frames, as high as the largest count among them.
    """
    bars = min(len(counts), 800)
    starts = np.arange(bars) * len(counts) // bars
    tops = np.maximum.reduceat(counts, starts) / max(highest, 1)
    rows = 24
    filled = np.arange(rows, 0, -1)[:, None] <= np.ceil(tops * rows)[None]
    picture = np.zeros((rows, bars, 4), np.uint8)
    picture[filled] = [*colour, 255]
    return data_uri(picture, "png")


def curve(
    points: Sequence[tuple[float, float]],
    title: str,
    x_label: str,
    y_range: Range,
    band: Sequence[Range] | None = None,
) -> str:
    """An SVG without background: a score in % (y) over the effort (x). `band`: for each point the
    interval in which the score most likely lies."""
    x, y = zip(*points, strict=True)
    with mpl.rc_context(
        {
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "font.family": "DejaVu Sans",  # comes with matplotlib
            "font.size": 10,
            "svg.hashsalt": title,  # without it, ids in the file differ from run to run
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    ):
        figure = Figure(figsize=(3.7, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(x, y, color="#3b82c4", linewidth=2, marker="o", markersize=5)
        if band is not None:
            low, high = zip(*band, strict=True)
            axes.fill_between(x, low, high, color="#3b82c4", alpha=0.18, linewidth=0)
            axes.vlines(x, low, high, color="#3b82c4", alpha=0.5, linewidth=2)
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
    """A `data:` address of a uint8 (H, W, 3 or 4) picture. `kind` is webp (photographs) or png."""
    buffer = io.BytesIO()
    PilImage.fromarray(picture).save(buffer, kind, quality=80)
    return _uri(buffer.getvalue(), kind)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
