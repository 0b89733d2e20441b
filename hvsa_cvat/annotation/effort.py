"""The time that people take to answer: what they do, and the seconds that each part takes.

The published figures hold until a team has finished jobs of its own (`annotation.fit_effort`);
docs/effort.md names where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvsa_cvat.types import Clicks, Size

PARTS = ("jobs", "samples", "keys", "vertices", "polygons")
"""The parts of `Work`, in the order of `Effort.seconds_of_parts`."""


@dataclass(frozen=True)
class Work:
    """What people did, in numbers of each part."""

    jobs: int = 0
    """Jobs that were opened and finished."""
    samples: int = 0
    """Samples that were looked at; the first choice of a class, or the confirmation, is in it."""
    keys: int = 0
    """Further classes that were chosen without drawing: masks that got another class."""
    vertices: int = 0
    polygons: int = 0
    """Outlines, each with the choice of its class, beyond what `samples` holds."""

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(self.parts, other.parts, strict=True)))

    @property
    def parts(self) -> tuple[int, ...]:
        """In the order of `PARTS`."""
        return self.jobs, self.samples, self.keys, self.vertices, self.polygons

    @property
    def further_clicks(self) -> int:
        """Clicks beyond the first of each sample."""
        return self.keys + self.vertices + self.polygons


def sample_work(clicks: Clicks) -> Work:
    """The work on one sample that took `clicks`.

    The first choice of a class belongs to the look at the sample, so a sample with one polygon has
    its vertices beside that.
    """
    further = max(clicks.classes - 1, 0)
    polygons = min(clicks.polygons, further)
    return Work(samples=1, keys=further - polygons, vertices=clicks.boundary, polygons=polygons)


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
    """Each further click, in the mean: a vertex, a polygon, or the class of a further part."""
    job: float = 5.0
    """To open a job, save it and finish it: what CVAT's page takes, and a click."""
    key: float = 1.75
    """To choose the class of a further part, without drawing."""
    vertex: float = 1.75
    polygon: float = 1.75
    """To begin and end an outline, and to choose its class."""
    fitted_to: int = 0
    """The team's own jobs that the figures are fitted to; 0: they are the published ones."""

    @property
    def name(self) -> str:
        """Where the figures come from, for people."""
        return f"fitted to {self.fitted_to} jobs" if self.fitted_to else "published figures"

    @property
    def seconds_of_parts(self) -> tuple[float, ...]:
        """In the order of `PARTS`."""
        return self.job, self.confirm, self.key, self.vertex, self.polygon

    def seconds(self, work: Work) -> float:
        """What work takes whose parts are known."""
        pairs = zip(work.parts, self.seconds_of_parts, strict=True)
        return sum(number * seconds for number, seconds in pairs)

    def minutes(self, samples: int, clicks: float) -> float:
        """For samples that take `clicks` together, of which the first of each confirms it."""
        return (self.confirm * samples + self.click * max(clicks - samples, 0)) / 60


PUBLISHED = Effort()

_PIXELS_A_CLICK = 50
_LEAST_LARGEST = 20


_PIXELS_A_DRAWN_CLICK = 100


def rough_seconds(frames: int, size: Size) -> float:
    """About what drawing every frame takes, where nothing is known of the video yet."""
    clicks = size[0] * size[1] / _PIXELS_A_DRAWN_CLICK
    return 60 * PUBLISHED.minutes(frames, frames * clicks)


def most_clicks(pixels: int) -> float:
    """What a sample of so many pixels takes at most.

    The outlines of masks that have learnt nothing are noise, and nobody draws that many corners. A
    frame of CamVid (480x360) has a click for 109 pixels, one of the rendered rooms for 90.
    """
    return _LEAST_LARGEST + pixels / _PIXELS_A_CLICK
