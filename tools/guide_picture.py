"""The picture in the annotators' guide: a picture to check as CVAT shows it, and what to do.

    python -m tools.guide_picture --out hvsa_cvat/data/guide.png

It is made of a frame of the demo with the code that makes the real ones.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import click
import matplotlib as mpl
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from hvsa_cvat.cvat.cards import enlarge, region_card
from hvsa_cvat.cvat.request.paint import paint_card
from hvsa_cvat.report.pictures import class_colours
from hvsa_cvat.types import Image, LabelMap, Sample

FRAME = "frame_00040"
REGION = np.s_[26:66, 122:162]
"""What is asked for: a piece of a wall and of a window."""
SIDE = 340
"""Pixels of one card in the picture."""
OPACITY = 0.3
"""Of masks, as the page shows them at first."""
WORDS = 40
"""Pixels of height for what stands above a card."""
GAP = 16
SHADES = 96
"""Colours of the file."""

INK, KEY, RED, WHITE = (30, 30, 30), (245, 245, 245), (224, 32, 32), (255, 255, 255)


class Key(str):
    """What is pressed or clicked."""


def guide_picture() -> Image:
    """uint8 (H, W, 3) RGB: a right card and one with a wrong class, side by side."""
    image, label_map, names = _demo_frame()
    wrong = label_map.copy()
    wrong[wrong == names.index("window")] = names.index("tv")
    right_card, wrong_card = (_card(image, one, names) for one in (label_map, wrong))
    width, height = right_card.size
    sheet = PillowImage.new("RGB", (2 * width + GAP, height + WORDS), WHITE)
    draw = ImageDraw.Draw(sheet)
    for left, card in ((0, right_card), (width + GAP, wrong_card)):
        sheet.paste(card, (left, WORDS))
        _tag(draw, left + 8, WORDS + 8)
    _line(draw, 0, "All right: click the", Key("×"), ", then press", Key("F"))
    _line(draw, width + GAP, "A window, no tv: point at it, press", Key("Ctrl"), "+", Key("3"))
    _pointer(draw, 86, WORDS + 20)
    x, y = width + GAP + int(0.55 * width), WORDS + int(0.55 * height)
    draw.text((x + 20, y + 6), "tv", WHITE, _font(15), stroke_width=2, stroke_fill=INK)
    _pointer(draw, x, y)
    return np.asarray(sheet)


def _demo_frame() -> tuple[Image, LabelMap, tuple[str, ...]]:
    with as_file(files("hvsa_cvat") / "data" / "demo") as folder:
        with PillowImage.open(folder / "images" / f"{FRAME}.jpg") as file:
            image = np.asarray(file.convert("RGB"))
        with PillowImage.open(folder / "labels" / f"{FRAME}.png") as file:
            label_map = np.asarray(file)
        return image, label_map, tuple((folder / "classes.txt").read_text().split())


def _card(image: Image, label_map: LabelMap, names: tuple[str, ...]) -> PillowImage.Image:
    """The card with its masks, as an image of Pillow."""
    region = np.zeros(label_map.shape, bool)
    region[REGION] = True
    card = region_card(Sample(0, 0), region, suggests=True, side=SIDE)
    wanted = region[card.window]
    picture = paint_card(image, card, wanted, masked=True).astype(float)
    shown = enlarge(wanted, card.factor)
    colours = class_colours(len(names))[enlarge(label_map[card.window], card.factor)]
    picture[shown] += OPACITY * (colours[shown] - picture[shown])
    return PillowImage.fromarray(np.round(picture).astype(np.uint8))


def _font(size: int) -> ImageFont.FreeTypeFont:
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


def _tag(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    font = _font(14)
    draw.rounded_rectangle((left, top, left + 88, top + 22), 4, fill=RED)
    draw.text((left + 8, top + 3), "to check", WHITE, font)
    draw.text((left + 72, top + 3), "×", WHITE, font)


def _line(draw: ImageDraw.ImageDraw, left: int, *parts: str) -> None:
    """Words and keys from left to right."""
    font, x = _font(15), left
    for part in parts:
        width = int(draw.textlength(part, font))
        if isinstance(part, Key):
            draw.rounded_rectangle((x, 7, x + width + 12, 31), 4, fill=KEY, outline=INK)
            draw.text((x + 6, 10), part, INK, font)
            x += width + 18
        else:
            draw.text((x, 10), part, INK, font)
            x += width + 6


def _pointer(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """The arrow of a mouse, with its point at (x, y)."""
    arrow = [(0, 0), (0, 22), (5, 17), (9, 26), (13, 24), (9, 15), (16, 15)]
    draw.polygon([(x + dx, y + dy) for dx, dy in arrow], fill=WHITE, outline=INK, width=2)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(out: Path) -> None:
    sheet = PillowImage.fromarray(guide_picture())
    sheet.quantize(SHADES, dither=PillowImage.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main()
