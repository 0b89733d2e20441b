"""The pictures of the cards: what annotators get to see under the masks."""

from __future__ import annotations

import math

import cv2
import numpy as np

from hvsa_cvat.cvat.cards import enlarge
from hvsa_cvat.cvat.state import Card
from hvsa_cvat.types import Image, Mask

_SATURATION = 0.15
"""What is left of the colours under masks: the page paints them at a low opacity, and over a
colourful picture a wrong one would not be seen."""
_MARGIN_BRIGHTNESS = 0.5
_DARK = 60.0
"""A sample whose mean brightness (0 to 255) is lower is brightened,"""
_BRIGHTENED = 110.0
"""about to this mean,"""
_LEAST_GAMMA = 0.4
"""or as far as this exponent goes: beyond it there is nothing but noise."""
_LINE = 2
"""Thickness of the white line around a sample, in pixels of the card."""


def paint_card(image: Image, card: Card, wanted: Mask, *, masked: bool) -> Image:
    """The picture of a card; uint8 (height * factor, width * factor, 3).

    `image` is its whole frame, `wanted` the pixels of the card that are asked for, bool
    (height, width). `masked`: whether masks will lie over them.
    """
    crop = _brightened(np.ascontiguousarray(image[card.window]), wanted)
    inside = _desaturated(crop) if masked else crop
    if wanted.all():
        return _enlarged(inside, card)
    margin = np.round(crop * _MARGIN_BRIGHTNESS).astype(np.uint8)
    picture = _enlarged(np.where(wanted[..., np.newaxis], inside, margin), card)
    region = enlarge(wanted, card.factor).astype(np.uint8)
    around = cv2.dilate(region, np.ones((2 * _LINE + 1, 2 * _LINE + 1), np.uint8)) > region
    picture[around] = 255
    return picture


def _brightened(crop: Image, wanted: Mask) -> Image:
    mean = float(crop[wanted].mean())
    if mean >= _DARK:
        return crop
    # by an exponent, because a factor would lose what is bright in it
    gamma = max(math.log(_BRIGHTENED / 255) / math.log(max(mean, 1.0) / 255), _LEAST_GAMMA)
    shades = np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return shades[crop]


def _desaturated(image: Image) -> Image:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., np.newaxis].astype(np.float32)
    return np.round(grey + _SATURATION * (image - grey)).astype(np.uint8)


def _enlarged(image: Image, card: Card) -> Image:
    if card.factor == 1:
        return image
    height, width = card.size
    # smooth: squares would be taken for edges
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
