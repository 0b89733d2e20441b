"""Procedural textures: uint8 (H, W, 3) RGB, most of them tileable; rows run from top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hvsa_cvat.types import Image

Floats = NDArray[np.float64]
Color = NDArray[np.float64]
"""float64 (3,), RGB in 0..1."""

SIDE = 128
"""Rows and columns of a tileable texture."""


def noise(rng: np.random.Generator, sigma: tuple[float, float]) -> Floats:
    """Tileable smooth noise with zero mean and unit deviation."""
    field = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), sigma, mode="wrap")
    return np.asarray((field - field.mean()) / (field.std() + 1e-9), dtype=np.float64)


def _paint(base: Color, shade: Floats) -> Floats:
    return np.asarray(base * (1.0 + shade[..., None]))


def _image(values: Floats) -> Image:
    return np.asarray(np.clip(values * 255.0 + 0.5, 0, 255), dtype=np.uint8)


def _mix(a: Color | Floats, b: Color | Floats, weight: NDArray[np.floating[Any]]) -> Floats:
    return np.asarray(a * (1 - weight[..., None]) + b * weight[..., None])


def _coordinates() -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return y, x


def plain(rng: np.random.Generator, a: Color, b: Color) -> Image:
    return _image(_paint(a, 0.02 * noise(rng, (1, 1)) + 0.03 * noise(rng, (20, 20))))


def wood(rng: np.random.Generator, a: Color, b: Color) -> Image:
    """Grain along x."""
    bend = noise(rng, (14, 30))
    y, _ = _coordinates()
    rings = np.sin(2 * np.pi * (4 * y + 0.35 * bend))
    fine = noise(rng, (0.6, 14))
    return _image(_paint(a, 0.10 * rings + 0.09 * fine))


def planks(rng: np.random.Generator, a: Color, b: Color) -> Image:
    """Floor boards along x."""
    rows = 6
    grain = np.asarray(wood(rng, a, b), dtype=np.float64) / 255.0
    y, x = _coordinates()
    row = np.minimum((y * rows).astype(int), rows - 1)
    tone = rng.uniform(0.78, 1.15, (rows, 2))
    shift = rng.uniform(0, 1, rows)[row]
    place = (x + shift) % 1.0
    values = grain * tone[row, (place > 0.5).astype(int)][..., None]
    seam = ((y * rows) % 1.0 < 0.07) | (place % 0.5 < 0.012)
    return _image(np.where(seam[..., None], values * 0.5, values))


def herringbone(rng: np.random.Generator, a: Color, b: Color) -> Image:
    y, x = _coordinates()
    left = (x * 4).astype(int) % 2 == 0
    slant = np.where(left, y * 8 + x * 8, y * 8 - x * 8)
    tone = rng.uniform(0.75, 1.2, 64)[(np.floor(slant).astype(int) * 2 + left) % 64]
    seam = (slant % 1.0 < 0.12) | ((x * 4) % 1.0 < 0.04)
    values = _paint(a, 0.06 * noise(rng, (1, 3))) * tone[..., None]
    return _image(np.where(seam[..., None], values * 0.55, values))


def tiles(rng: np.random.Generator, a: Color, b: Color) -> Image:
    y, x = _coordinates()
    grout = ((x * 4) % 1.0 < 0.06) | ((y * 4) % 1.0 < 0.06)
    tone = rng.uniform(0.92, 1.06, (4, 4))[(y * 4).astype(int), (x * 4).astype(int)]
    values = _paint(a, 0.03 * noise(rng, (4, 4))) * tone[..., None]
    return _image(np.where(grout[..., None], b * 0.8, values))


def checker(rng: np.random.Generator, a: Color, b: Color) -> Image:
    y, x = _coordinates()
    odd = ((x * 4).astype(int) + (y * 4).astype(int)) % 2
    return _image(_mix(a, b, odd.astype(float)) * (1 + 0.04 * noise(rng, (3, 3)))[..., None])


def brick(rng: np.random.Generator, a: Color, b: Color) -> Image:
    y, x = _coordinates()
    row = (y * 8).astype(int)
    place = (x * 4 + 0.5 * (row % 2)) % 4
    tone = rng.uniform(0.7, 1.2, (8, 4))[row, place.astype(int)]
    mortar = ((y * 8) % 1.0 < 0.14) | (place % 1.0 < 0.07)
    values = _paint(a, 0.08 * noise(rng, (1, 1))) * tone[..., None]
    return _image(np.where(mortar[..., None], 0.5 * b + 0.35, values))


def stripes(rng: np.random.Generator, a: Color, b: Color) -> Image:
    _, x = _coordinates()
    count = int(rng.integers(3, 9))
    wide = (((x * count) % 1.0) < rng.uniform(0.25, 0.6)).astype(float)
    return _image(_mix(a, b, wide) * (1 + 0.03 * noise(rng, (1, 1)))[..., None])


def plaid(rng: np.random.Generator, a: Color, b: Color) -> Image:
    y, x = _coordinates()
    bands = 0.5 * ((x * 3) % 1.0 < 0.4) + 0.5 * ((y * 3) % 1.0 < 0.4)
    lines = ((x * 6) % 1.0 < 0.08) | ((y * 6) % 1.0 < 0.08)
    values = _mix(a, b, bands)
    return _image(np.where(lines[..., None], 1.0 - 0.6 * (1 - values), values))


def dots(rng: np.random.Generator, a: Color, b: Color) -> Image:
    y, x = _coordinates()
    row = (y * 6).astype(int)
    distance = np.hypot((x * 6 + 0.5 * (row % 2)) % 1.0 - 0.5, (y * 6) % 1.0 - 0.5)
    return _image(_mix(a, b, (distance < 0.27).astype(float)))


def damask(rng: np.random.Generator, a: Color, b: Color) -> Image:
    """Wallpaper: a mirrored blob motif in a half-drop repeat."""
    blob = noise(rng, (6, 6))
    motif = blob + blob[:, ::-1] + 0.5 * (blob[::-1] + blob[::-1, ::-1])
    return _image(_mix(a, b, 0.75 * (motif > 0.5)))


def cloth(rng: np.random.Generator, a: Color, b: Color) -> Image:
    y, x = _coordinates()
    weave = np.sin(2 * np.pi * 32 * x) * np.sin(2 * np.pi * 32 * y)
    return _image(_paint(a, 0.06 * weave + 0.05 * noise(rng, (1, 1)) + 0.05 * noise(rng, (9, 9))))


def carpet(rng: np.random.Generator, a: Color, b: Color) -> Image:
    return _image(_paint(a, 0.12 * noise(rng, (0.7, 0.7)) + 0.05 * noise(rng, (6, 6))))


def marble(rng: np.random.Generator, a: Color, b: Color) -> Image:
    y, x = _coordinates()
    veins = np.abs(np.sin(2 * np.pi * (x + y) + 1.6 * noise(rng, (9, 9)))) ** 0.35
    return _image(_mix(b, a, veins) * (1 + 0.03 * noise(rng, (3, 3)))[..., None])


def terrazzo(rng: np.random.Generator, a: Color, b: Color) -> Image:
    values = np.broadcast_to(a, (SIDE, SIDE, 3)).copy()
    for spot in (b, 1 - 0.5 * b, a * 0.6):
        values[noise(rng, (2, 2)) > 1.35] = spot
    return _image(values)


def concrete(rng: np.random.Generator, a: Color, b: Color) -> Image:
    return _image(_paint(a, 0.07 * noise(rng, (12, 12)) + 0.04 * noise(rng, (2, 2))))


KINDS: dict[str, Callable[[np.random.Generator, Color, Color], Image]] = {
    "plain": plain,
    "wood": wood,
    "planks": planks,
    "herringbone": herringbone,
    "tiles": tiles,
    "checker": checker,
    "brick": brick,
    "stripes": stripes,
    "plaid": plaid,
    "dots": dots,
    "damask": damask,
    "cloth": cloth,
    "carpet": carpet,
    "marble": marble,
    "terrazzo": terrazzo,
    "concrete": concrete,
}

REPEAT: dict[str, float] = {
    "planks": 0.9,
    "herringbone": 0.7,
    "tiles": 1.3,
    "checker": 1.6,
    "brick": 0.9,
    "stripes": 0.6,
    "plaid": 0.6,
    "dots": 0.7,
    "damask": 0.7,
    "marble": 1.4,
    "terrazzo": 0.7,
    "concrete": 2.5,
    "wood": 0.8,
    "carpet": 1.2,
    "cloth": 0.6,
}
"""Metres that one repeat of a kind covers (1 where absent)."""


def _sky(rng: np.random.Generator, side: int, top: Color, bottom: Color) -> Floats:
    y = np.linspace(0, 1, side)[:, None]
    return np.asarray(_mix(top, bottom, np.repeat(y, side, axis=1)))


def _ridge(rng: np.random.Generator, side: int, level: float, rough: float) -> NDArray[np.bool_]:
    walk = ndimage.gaussian_filter1d(rng.standard_normal(side), side / 14, mode="reflect")
    crest = level + rough * walk / (np.abs(walk).max() + 1e-9)
    return np.asarray(np.linspace(0, 1, side)[:, None] > crest[None])


def outside(rng: np.random.Generator, dusk: bool) -> Image:
    """What a window shows: sky, houses or trees, grass."""
    side = SIDE
    top = np.array([0.35, 0.4, 0.62]) if dusk else np.array([0.62, 0.8, 1.0])
    low = np.array([0.98, 0.72, 0.5]) if dusk else np.array([0.95, 0.98, 1.0])
    view = _sky(rng, side, top, low)
    for _ in range(int(rng.integers(2, 5))):
        left, width = int(rng.integers(0, side - 20)), int(rng.integers(14, 40))
        roof = int(rng.integers(side * 4 // 10, side * 7 // 10))
        view[roof:, left : left + width] = rng.uniform(0.35, 0.75) * np.array([1.0, 0.94, 0.9])
        view[roof + 5 : -8 : 9, left + 3 : left + width - 3 : 6] *= 0.6
    green = np.array([0.25, 0.42, 0.18]) * rng.uniform(0.7, 1.3)
    view[_ridge(rng, side, rng.uniform(0.6, 0.8), 0.15)] = green
    view *= (1 + 0.05 * noise(rng, (1, 1)))[..., None]
    return _image(view)


def poster(rng: np.random.Generator, colors: list[Color]) -> Image:
    """A picture: a landscape, an abstract, a portrait-like blob or a photo-like gradient."""
    side = SIDE
    pick = [colors[int(i)] for i in rng.permutation(len(colors))]
    kind = int(rng.integers(4))
    if kind == 0:
        view = _sky(rng, side, pick[0], 0.4 * pick[0] + 0.6)
        for depth, level in enumerate((0.45, 0.62, 0.8)):
            view[_ridge(rng, side, level, 0.14)] = pick[(depth + 1) % len(pick)] * 0.9
    elif kind == 1:
        view = np.broadcast_to(0.3 * pick[0] + 0.7, (side, side, 3)).copy()
        for index in range(7):
            color = tuple(float(v) for v in pick[index % len(pick)])
            x, y, r = (int(v) for v in rng.integers((0, 0, 8), (side, side, 40)))
            if index % 2:
                cv2.circle(view, (x, y), r, color, -1)
            else:
                cv2.rectangle(view, (x, y), (x + r, y + 2 * r), color, -1)
    elif kind == 2:
        view = np.broadcast_to(pick[0], (side, side, 3)).copy()
        skin = np.array([0.85, 0.65, 0.5]) * rng.uniform(0.6, 1.1)
        cv2.ellipse(view, (64, 125), (46, 48), 0, 0, 360, tuple(map(float, pick[1])), -1)
        cv2.ellipse(view, (64, 56), (22, 30), 0, 0, 360, tuple(map(float, skin)), -1)
        cv2.ellipse(view, (64, 36), (25, 16), 0, 0, 360, tuple(map(float, pick[2] * 0.5)), -1)
    else:
        weight = (noise(rng, (12, 12)) > 0).astype(float) * 0.8
        view = _mix(_mix(pick[0], pick[1], weight), pick[2], (noise(rng, (7, 7)) > 1.0) * 0.9)
    margin = int(rng.integers(0, 14))
    if margin:
        framed = np.full_like(view, 0.93)
        framed[margin:-margin, margin:-margin] = view[margin:-margin, margin:-margin]
        view = framed
    return _image(view)


def screen(rng: np.random.Generator, lit: bool) -> Image:
    """A television: dark glass with a soft reflection, or a programme."""
    side = SIDE
    y, x = _coordinates()
    glow = np.clip(1 - np.hypot(x - rng.uniform(0.2, 0.8), y - rng.uniform(0.1, 0.5)) * 1.6, 0, 1)
    if not lit:
        return _image(_mix(np.array([0.03, 0.03, 0.04]), np.array([0.16, 0.17, 0.2]), glow))
    view = _sky(rng, side, rng.uniform(0.2, 0.8, 3), rng.uniform(0.3, 0.9, 3))
    view[_ridge(rng, side, 0.6, 0.2)] = rng.uniform(0.1, 0.6, 3)
    cv2.circle(view, (int(rng.integers(30, 98)), 60), 18, tuple(rng.uniform(0.3, 1.0, 3)), -1)
    view[108:118, 8:100] = rng.uniform(0.6, 1.0, 3)
    return _image(view)


def pages(rng: np.random.Generator, a: Color, b: Color) -> Image:
    """The spine and cover of a book: one colour with a title band."""
    view = np.broadcast_to(a, (SIDE, SIDE, 3)).copy()
    start = int(rng.integers(20, 70))
    view[start : start + int(rng.integers(6, 26))] = b
    return _image(view)
