"""What sets the two distributions apart: palettes, textures, proportions, lighting, sensor."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from hvsa_cvat.types import Image
from tools.rooms.textures import KINDS, REPEAT, Color

Range = tuple[float, float]
Hues = tuple[tuple[Range, Range, Range], ...]
"""Alternatives of (hue, saturation, value) ranges, each 0..1."""


@dataclass(frozen=True)
class Finish:
    """How one kind of surface may look."""

    kinds: tuple[str, ...]
    """Keys of `textures.KINDS`."""
    hues: Hues


@dataclass(frozen=True)
class Lighting:
    """Ranges of a room's light; intensities are relative to a white wall."""

    ambient: Range
    lamp: Range
    daylight: Range
    sun: Range
    warmth: Range
    """Colour of the lamps: -1 cold, 0 white, 1 warm."""
    exposure: Range
    """Target of the mean brightness, 0..1 before gamma."""
    softness: Range
    """Radius of the lamps in metres; small ones cast hard shadows."""


@dataclass(frozen=True)
class Sensor:
    """What the camera does to the picture."""

    noise: Range
    """Deviation in grey levels of 255."""
    blur: Range
    """Gaussian sigma in pixels at 320 columns."""
    flicker: float
    """Largest change of exposure within a clip, in stops."""
    vignette: float
    """Darkening of the corners, 0..1."""


@dataclass(frozen=True)
class Style:
    """One distribution of rooms."""

    name: str
    walls: Finish
    ceilings: Finish
    floors: Finish
    woods: Finish
    fabrics: Finish
    accents: Finish
    modern: float
    """Probability of the second build of every piece of furniture."""
    stretch: Range
    """Factor on the proportions of furniture."""
    screen_on: float
    dusk: float
    lighting: Lighting
    sensor: Sensor


PRETRAIN = Style(
    name="pretrain",
    walls=Finish(
        ("plain", "plain", "stripes", "concrete"),
        (
            ((0.05, 0.17), (0.03, 0.3), (0.7, 0.97)),
            ((0.45, 0.65), (0.03, 0.3), (0.6, 0.95)),
            ((0.0, 1.0), (0.1, 0.4), (0.5, 0.9)),
        ),
    ),
    ceilings=Finish(("plain",), (((0.0, 1.0), (0.0, 0.08), (0.8, 0.98)),)),
    floors=Finish(
        ("planks", "planks", "carpet", "tiles"),
        (
            ((0.05, 0.1), (0.35, 0.65), (0.3, 0.75)),
            ((0.0, 1.0), (0.02, 0.2), (0.4, 0.75)),
        ),
    ),
    woods=Finish(
        ("wood", "wood", "plain"),
        (((0.04, 0.1), (0.4, 0.75), (0.3, 0.75)), ((0.0, 1.0), (0.0, 0.2), (0.6, 0.95))),
    ),
    fabrics=Finish(
        ("cloth", "plain", "stripes"),
        (
            ((0.5, 0.7), (0.2, 0.7), (0.3, 0.75)),
            ((0.0, 1.0), (0.0, 0.25), (0.3, 0.85)),
            ((0.0, 1.0), (0.2, 0.6), (0.3, 0.75)),
        ),
    ),
    accents=Finish(("plain",), (((0.0, 1.0), (0.3, 0.9), (0.4, 0.95)),)),
    modern=0.4,
    stretch=(0.9, 1.1),
    screen_on=0.4,
    dusk=0.15,
    lighting=Lighting(
        (0.4, 0.7), (0.5, 0.9), (0.1, 0.4), (0.0, 0.0), (-0.3, 0.4), (0.28, 0.42), (0.15, 0.3)
    ),
    sensor=Sensor((0.5, 2.5), (0.0, 0.4), 0.1, 0.1),
)

TEST = Style(
    name="test",
    walls=Finish(
        ("damask", "brick", "planks", "tiles"),
        (
            ((0.02, 0.12), (0.4, 0.7), (0.3, 0.65)),
            ((0.3, 0.55), (0.3, 0.6), (0.25, 0.55)),
            ((0.9, 1.05), (0.35, 0.6), (0.3, 0.55)),
        ),
    ),
    ceilings=Finish(("planks", "concrete"), (((0.04, 0.12), (0.25, 0.55), (0.35, 0.65)),)),
    floors=Finish(
        ("herringbone", "checker", "terrazzo", "marble"),
        (((0.0, 1.0), (0.02, 0.3), (0.5, 0.9)), ((0.3, 0.5), (0.2, 0.5), (0.3, 0.6))),
    ),
    woods=Finish(
        ("marble", "plain", "plain", "wood"),
        (((0.01, 0.06), (0.6, 0.9), (0.15, 0.35)), ((0.0, 1.0), (0.3, 0.7), (0.25, 0.7))),
    ),
    fabrics=Finish(
        ("plaid", "dots", "damask", "checker"),
        (((0.9, 1.1), (0.4, 0.8), (0.3, 0.7)), ((0.1, 0.4), (0.35, 0.7), (0.35, 0.7))),
    ),
    accents=Finish(("plain", "dots", "marble"), (((0.0, 1.0), (0.3, 0.9), (0.3, 0.95)),)),
    modern=0.85,
    stretch=(0.8, 1.3),
    screen_on=0.5,
    dusk=0.4,
    lighting=Lighting(
        (0.15, 0.27), (0.6, 1.0), (0.3, 0.8), (1.0, 3.0), (-0.9, 1.2), (0.15, 0.25), (0.03, 0.08)
    ),
    sensor=Sensor((3.0, 5.5), (0.5, 0.9), 0.6, 0.3),
)

STYLES = {style.name: style for style in (PRETRAIN, TEST)}


@dataclass(frozen=True, eq=False)
class Material:
    """A texture and how it lies on a surface."""

    texture: Image
    repeat: float = 0.0
    """Metres that the texture covers; 0: the mesh's coordinates are already 0..1."""
    glow: float = 0.0
    """Light of its own, 1 is a bright lamp."""


def draw(rng: np.random.Generator, span: Range) -> float:
    """A uniform number of a range."""
    return float(rng.uniform(*span))


def draw_color(rng: np.random.Generator, hues: Hues) -> Color:
    """A colour of one of the alternatives."""
    hue, saturation, value = hues[int(rng.integers(len(hues)))]
    return np.array(
        colorsys.hsv_to_rgb(draw(rng, hue) % 1.0, draw(rng, saturation), draw(rng, value))
    )


def draw_material(rng: np.random.Generator, finish: Finish) -> Material:
    """A surface of a finish: one of its kinds in two of its colours."""
    kind = finish.kinds[int(rng.integers(len(finish.kinds)))]
    a, b = draw_color(rng, finish.hues), draw_color(rng, finish.hues)
    if kind in ("stripes", "damask"):
        b = np.clip(a * rng.uniform(0.7, 0.88) + rng.uniform(0.0, 0.1), 0, 1)
    return Material(KINDS[kind](rng, a, b), REPEAT.get(kind, 1.0) * float(rng.uniform(0.8, 1.25)))


def solid(
    rng: np.random.Generator, color: tuple[float, float, float], glow: float = 0.0
) -> Material:
    """A nearly even surface."""
    base = np.array(color)
    return Material(KINDS["plain"](rng, base, base), 1.0, glow)
