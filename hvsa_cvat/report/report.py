"""Writes report.html from the values of a run. The page needs no network and no other file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from hvsa_cvat import __version__
from hvsa_cvat.files import atomic_write
from hvsa_cvat.metrics import Scores
from hvsa_cvat.report import pictures as draw
from hvsa_cvat.types import IGNORE, AnswerKind, Image, LabelMap, LabelSet

NONE = "\N{EN DASH}"
"""Shown for a value that is undefined."""


@dataclass(frozen=True)
class OutlookReport:
    """The estimated quality of a session's masks, for videos without truth. Fractions."""

    expected_miou: float
    low: float
    high: float
    gain: float
    """The expected rise of the mIoU from another 1 % of the clicks."""
    advice: str


@dataclass(frozen=True)
class AgreementReport:
    """How the masks of the round before agreed with the answers of a round. Fractions.

    People are asked where the masks are most uncertain, so over the whole video they agree better.
    """

    pixels: int
    """Answered pixels."""
    pixel_accuracy: float | None
    miou: float | None


@dataclass(frozen=True)
class RoundReport:
    """One round. Round 0 is the network before the first answer."""

    number: int
    clicks: int
    """The clicks spent in all rounds up to this one."""
    clicks_percent: float | None
    """The same in % of the clicks of annotating every frame; None if that number is unknown."""
    pixels_percent: float | None
    """The pixels that people annotated in all rounds up to this one, in % of the video."""
    scores: Scores | None
    """The scores of the predictions after this round's fine-tuning; None without truth."""
    seconds: dict[str, float]
    """The duration of each phase."""
    chosen: NDArray[np.int64]
    """int64 (N,): the number of samples chosen in each frame in this round."""
    outlook: OutlookReport | None = None
    unseen: tuple[str, ...] = ()
    """The classes that are in no answer up to this round."""
    answered: Mapping[AnswerKind, tuple[int, int]] = field(default_factory=dict)
    """(samples, clicks) of this round by how they were answered."""
    agreement: AgreementReport | None = None
    finished: bool = True
    """Whether the masks of the round are made; only the last round may be without."""
    minutes: float | None = None
    """How long people have worked in all rounds up to this one; None if nobody knows."""


@dataclass(frozen=True)
class PeopleReport:
    """The time of people."""

    words: str
    figures: Mapping[str, Any]
    """The same in numbers, by name."""


@dataclass(frozen=True)
class FramePicture:
    """One frame to show. All arrays have the same size. Arrays that are None are not shown."""

    name: str
    image: Image
    truth: LabelMap | None
    before: LabelMap | None
    """The prediction before the first answer."""
    after: LabelMap | None
    """The prediction after the last round."""
    uncertainty: NDArray[np.float32] | None
    """float32 (H, W), at least 0, in any scale. Uncertain pixels are shown bright."""
    chosen: NDArray[np.int8]
    """int8 (H, W): k for pixels chosen in round k, 0 for pixels never chosen."""


@dataclass(frozen=True)
class RunReport:
    """Everything that the page shows."""

    title: str
    settings: dict[str, str]
    labels: LabelSet
    colours: NDArray[np.uint8]
    """uint8 (C, 3) RGB: the colour of each class; see `class_colours`."""
    rounds: tuple[RoundReport, ...]
    """In ascending order of their numbers."""
    pictures: tuple[FramePicture, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences below the headline."""
    people: PeopleReport | None = None

    @property
    def finished(self) -> tuple[RoundReport, ...]:
        """The rounds whose masks are made."""
        return tuple(r for r in self.rounds if r.finished)


@dataclass(frozen=True)
class _Panel:
    """A picture with its caption."""

    caption: str
    alt: str
    uri: str


@dataclass(frozen=True)
class _ClassRow:
    """The scores of one class in each round, as fractions."""

    name: str
    colour: str
    iou: tuple[float | None, ...]
    change: float | None
    boundary_iou: float | None


@dataclass(frozen=True)
class _View:
    """The values that the template reads."""

    run: RunReport
    version: str
    headline: str
    last: RoundReport | None
    first_scored: RoundReport | None
    last_scored: RoundReport | None
    curves: tuple[_Panel, ...]
    expected: _Panel | None
    """The estimated quality over the clicks, of a run without truth."""
    classes: tuple[_ClassRow, ...]
    timelines: tuple[tuple[RoundReport, _Panel], ...]
    busiest: int
    phases: tuple[str, ...]
    strips: tuple[tuple[str, tuple[_Panel, ...]], ...]
    legend: tuple[tuple[str, str], ...]
    kinds: tuple[AnswerKind, ...]
    """The kinds of answers to tell apart; empty where everything was drawn."""


def write_report(run: RunReport, path: Path) -> None:
    """Write the page to `path`. A page that exists is replaced as a whole."""
    page = report_page(run)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def report_page(run: RunReport) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        points=points,
        seconds=_seconds,
        duration=duration,
        count=count,
        css=css,
    )
    environment.globals.update(NONE=NONE, round_colour=draw.round_colour)
    return environment.get_template("template.html.j2").render(view=_view(run))


def _view(run: RunReport) -> _View:
    scored = [r for r in run.rounds if r.scores is not None]
    asked = [r for r in run.rounds if r.chosen.any()]
    busiest = max((int(r.chosen.max()) for r in asked), default=0)
    highest = max((_highest(p.uncertainty) for p in run.pictures), default=0.0)
    return _View(
        run=run,
        version=__version__,
        headline=headline(run),
        last=run.rounds[-1] if run.rounds else None,
        first_scored=scored[0] if scored else None,
        last_scored=scored[-1] if scored else None,
        curves=tuple(_curves(scored)),
        expected=_expected_curve(run),
        classes=tuple(_class_rows(run, scored)),
        timelines=tuple((r, _timeline(r, busiest)) for r in asked),
        busiest=busiest,
        phases=tuple(dict.fromkeys(phase for r in run.rounds for phase in r.seconds)),
        strips=tuple((p.name, tuple(_panels(p, run, highest))) for p in run.pictures),
        legend=tuple(zip(run.labels, map(css, run.colours), strict=True)),
        kinds=_kinds(run),
    )


def _kinds(run: RunReport) -> tuple[AnswerKind, ...]:
    drawn_alone = all(set(r.answered) <= {AnswerKind.DRAWN} for r in run.rounds)
    return () if drawn_alone else tuple(AnswerKind)


def headline(run: RunReport) -> str:
    """One sentence: the mean IoU that was reached or is expected, and the clicks that were
    spent."""
    if not run.finished:
        return "No round is finished yet."
    last = run.finished[-1]
    spent = count(last.clicks, "click")
    if last.clicks_percent is not None:
        spent += f", {last.clicks_percent:.1f} % of what annotating every frame would cost"
    start = f"After {count(last.number, 'round')} and {spent}, "
    if last.number == 0:
        start = "Before the first answer, "
    if last.scores is None or last.scores.miou is None:
        return start + _without_truth(last)
    sentence = f"{start}the masks of all frames reach a mean IoU of {100 * last.scores.miou:.1f} %."
    first = run.rounds[0]
    if first is not last and first.scores is not None and first.scores.miou is not None:
        began = "before the first answer" if first.number == 0 else f"after round {first.number}"
        sentence += f" It was {100 * first.scores.miou:.1f} % {began}."
    return sentence


def _without_truth(last: RoundReport) -> str:
    seen = last.outlook
    if seen is None:
        return "every frame has a mask. Without truth no score is defined."
    expected = f"{percent(seen.expected_miou)} %"
    return (
        f"the masks of all frames are expected to reach a mean IoU of {expected}, most likely "
        f"between {percent(seen.low)} and {percent(seen.high)} %."
    )


def _expected_curve(run: RunReport) -> _Panel | None:
    """None where scores against truth are known, or nothing is expected yet."""
    known = [(r, r.outlook) for r in run.finished if r.outlook is not None]
    if not known or any(r.scores for r in run.rounds):
        return None
    in_percent = all(r.clicks_percent is not None for r, _ in known)
    x_label = "clicks, % of annotating every frame" if in_percent else "clicks"
    x = [
        r.clicks if r.clicks_percent is None or not in_percent else r.clicks_percent
        for r, _ in known
    ]
    line = [(at, 100 * o.expected_miou) for at, (_, o) in zip(x, known, strict=True)]
    band = [(100 * o.low, 100 * o.high) for _, o in known]
    steps = ", ".join(
        f"{y:.1f} % ({low:.1f} to {high:.1f}) at {x:.3g}"
        for (x, y), (low, high) in zip(line, band, strict=True)
    )
    limits = [end for ends in band for end in ends]
    title = "Expected mIoU"
    uri = draw.curve(line, title, x_label, _range(limits), band)
    return _Panel(title, f"{title} over {x_label}: {steps}", uri)


def _curves(scored: list[RoundReport]) -> Iterable[_Panel]:
    in_percent = all(r.clicks_percent is not None for r in scored)
    x_label = "clicks, % of annotating every frame" if in_percent else "clicks"
    lines = []
    for title, name in (
        ("mIoU", "miou"),
        ("Boundary IoU", "boundary_iou"),
        ("Temporal consistency", "temporal_consistency"),
    ):
        line = [
            (r.clicks if r.clicks_percent is None or not in_percent else r.clicks_percent, 100 * y)
            for r in scored
            if (y := getattr(r.scores, name)) is not None
        ]
        if line:
            lines.append((title, line))
    # All three curves have the same range, so that they can be compared.
    y_range = _range([y for _, line in lines for _, y in line])
    for title, line in lines:
        steps = ", ".join(f"{y:.1f} % at {x:g}" for x, y in line)
        uri = draw.curve(line, title, x_label, y_range)
        yield _Panel(title, f"{title} over {x_label}: {steps}", uri)


def _range(values: list[float]) -> draw.Range:
    """The range of the y axis: multiples of 10 %, with room for the numbers above the points."""
    low = max(0.0, 10 * math.floor((min(values, default=0) - 3) / 10))
    high = min(100.0, 10 * math.ceil((max(values, default=100) + 3) / 10))
    return low, high + 0.08 * (high - low)


def _class_rows(run: RunReport, scored: list[RoundReport]) -> Iterable[_ClassRow]:
    scores = [r.scores for r in scored if r.scores is not None]
    if not scores:
        return
    for name, colour in zip(run.labels, run.colours, strict=True):
        iou = tuple(s.iou[name] for s in scores)
        first, last = iou[0], iou[-1]
        change = None if first is None or last is None or len(iou) == 1 else last - first
        yield _ClassRow(name, css(colour), iou, change, scores[-1].boundary_iou_classes[name])


def _timeline(round_report: RoundReport, busiest: int) -> _Panel:
    number, chosen = round_report.number, round_report.chosen
    frames = count(int((chosen > 0).sum()), "frame")
    what = f"{count(int(chosen.sum()), 'sample')} in {frames}"
    uri = draw.timeline(chosen, draw.round_colour(number), busiest)
    return _Panel(what, f"Round {number}: {what} of {len(chosen)}", uri)


def _panels(picture: FramePicture, run: RunReport, highest: float) -> Iterable[_Panel]:
    """The panels of one frame. `highest` is the largest uncertainty in all frames."""
    image = draw.shrink_image(picture.image)
    chosen = draw.shrink_map(picture.chosen)
    truth = None if picture.truth is None else draw.shrink_map(picture.truth)
    after = None if picture.after is None else draw.shrink_map(picture.after)

    def panel(caption: str, array: Image) -> _Panel:
        return _Panel(caption, f"Frame {picture.name}: {caption}", draw.data_uri(array))

    rounds = [str(k) for k in np.unique(picture.chosen[picture.chosen > 0])]
    asked = f"asked for in round {', '.join(rounds)}" if rounds else "not asked for"
    yield panel(f"Image, {asked}", draw.outline(image, chosen))
    if picture.before is not None:
        before = draw.shrink_map(picture.before)
        yield panel("Prediction at the start", draw.overlay(image, before, run.colours))
    if after is not None:
        yield panel("Prediction at the end", draw.overlay(image, after, run.colours))
    if picture.uncertainty is not None:
        uncertainty = draw.shrink_map(picture.uncertainty)
        yield panel("Uncertainty (bright: uncertain)", draw.heat(uncertainty, highest))
    if truth is not None:
        yield panel("Truth", draw.overlay(image, truth, run.colours))
    if truth is not None and after is not None:
        known = int((truth != IGNORE).sum())
        wrong = 100 * int(draw.wrong_pixels(truth, after).sum()) / max(1, known)
        caption = f"Wrong at the end: {wrong:.1f} % of the pixels"
        yield panel(caption, draw.mistakes(image, truth, after))


def _highest(uncertainty: NDArray[np.float32] | None) -> float:
    return 0.0 if uncertainty is None else float(uncertainty.max())


def percent(fraction: float | None) -> str:
    return NONE if fraction is None else f"{100 * fraction:.1f}"


def points(change: float | None) -> str:
    """A difference of two fractions, in percentage points with a sign."""
    return NONE if change is None else f"{100 * change:+.1f}".replace("-", "\N{MINUS SIGN}")


def _seconds(rounds: Iterable[RoundReport], phase: str | None = None) -> float | None:
    """The time of one phase, or of all phases, in some rounds; None if none was measured."""
    measured = [
        seconds
        for r in rounds
        for name, seconds in r.seconds.items()
        if phase is None or name == phase
    ]
    return sum(measured) if measured else None


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def count(number: int, noun: str = "") -> str:
    """`12,345`, or with a noun `1 click`, `2 clicks`."""
    plural = "" if number == 1 or not noun else "s"
    return f"{number:,} {noun}{plural}".rstrip()


def css(colour: NDArray[np.uint8]) -> str:
    red, green, blue = (int(value) for value in colour)
    return f"#{red:02x}{green:02x}{blue:02x}"
