"""The time that people take to answer, by published figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Seconds of what people do.

    To confirm is what it takes to say whether a box fits an object (Papadopoulos et al., *We don't
    need no bounding-boxes*, CVPR 2016: 1.6 s). A further click is one on the extent of an object
    (Papadopoulos et al., *Extreme clicking*, ICCV 2017: 7 s for four).
    """

    confirm: float = 1.6
    """To look at a sample and to choose one class, or confirm what is shown."""
    click: float = 1.75
    """Each further click: a vertex, or the class of a further part."""

    def minutes(self, samples: int, clicks: float) -> float:
        """For samples that take `clicks` together, of which the first of each confirms it."""
        return (self.confirm * samples + self.click * max(clicks - samples, 0)) / 60


PUBLISHED = Effort()

_PIXELS_A_CLICK = 50
_LEAST_LARGEST = 20


def most_clicks(pixels: int) -> float:
    """What a sample of so many pixels takes at most.

    The outlines of masks that have learnt nothing are noise, and nobody draws that many corners. A
    frame of CamVid (480x360) has a click for 109 pixels, one of the rendered rooms for 90.
    """
    return _LEAST_LARGEST + pixels / _PIXELS_A_CLICK
