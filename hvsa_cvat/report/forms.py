"""The forms in which the report of a run is written: a page, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hvsa_cvat import __version__
from hvsa_cvat.files import atomic_write
from hvsa_cvat.report.report import (
    NONE,
    RoundReport,
    RunReport,
    count,
    duration,
    headline,
    percent,
    points,
    report_page,
)

_SCORES = (
    "miou",
    "pixel_accuracy",
    "boundary_iou",
    "temporal_consistency",
    "temporal_consistency_plain",
)


_NO_ROUND = RoundReport(0, 0, None, None, None, {}, np.zeros(0, np.int64))


def as_json(run: RunReport) -> str:
    """Everything but the pictures. Qualities are fractions, None where they are undefined."""
    content = {
        "hvsa_cvat": __version__,
        "title": run.title,
        "headline": headline(run),
        "notes": list(run.notes),
        "people": None if run.people is None else dict(run.people.figures),
        "settings": run.settings,
        "classes": list(run.labels),
        "rounds": [_round(r) for r in run.rounds],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _round(r: RoundReport) -> dict[str, Any]:
    return {
        "round": r.number,
        "finished": r.finished,
        "samples": int(r.chosen.sum()),
        "frames": int((r.chosen > 0).sum()),
        "clicks": r.clicks,
        "clicks_percent": r.clicks_percent,
        "pixels_percent": r.pixels_percent,
        "minutes": r.minutes,
        "scores": None if r.scores is None else r.scores.model_dump(),
        "agreement": None if r.agreement is None else vars(r.agreement),
        "outlook": None if r.outlook is None else vars(r.outlook),
        "unseen": list(r.unseen),
        "answered": {kind: list(pair) for kind, pair in r.answered.items()},
        "seconds": r.seconds,
    }


def as_csv(run: RunReport) -> str:
    """A row for each round. Qualities are fractions, empty where they are undefined."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_flat(_NO_ROUND)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(r) for r in run.rounds)
    return text.getvalue()


def _flat(r: RoundReport) -> dict[str, Any]:
    return {
        "round": r.number,
        "finished": "yes" if r.finished else "no",
        "samples": int(r.chosen.sum()),
        "frames": int((r.chosen > 0).sum()),
        "clicks": r.clicks,
        "clicks_percent": r.clicks_percent,
        "pixels_percent": r.pixels_percent,
        "minutes": r.minutes,
        **{name: getattr(r.scores, name, None) for name in _SCORES},
        "answered_pixels": getattr(r.agreement, "pixels", None),
        "miou_on_answers": getattr(r.agreement, "miou", None),
        "pixel_accuracy_on_answers": getattr(r.agreement, "pixel_accuracy", None),
        "expected_miou": getattr(r.outlook, "expected_miou", None),
        "expected_low": getattr(r.outlook, "low", None),
        "expected_high": getattr(r.outlook, "high", None),
        "gain_of_one_percent": getattr(r.outlook, "gain", None),
        "advice": getattr(r.outlook, "advice", None),
        "unseen": _harmless(", ".join(r.unseen)),
        "seconds": sum(r.seconds.values()),
    }


def _harmless(text: str) -> str:
    """Names of classes are other people's; a spreadsheet would compute one that begins with `=`."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def as_markdown(run: RunReport) -> str:
    """Headline, notes, and a table of the rounds."""
    lines = [f"# {_plain(run.title)}", "", headline(run), ""]
    notes = (*run.notes, *(() if run.people is None else (f"People: {run.people.words}.",)))
    lines += [line for note in notes for line in (_plain(note), "")]
    rows = [_cells(r) for r in run.rounds]
    if rows:
        names = list(rows[0])
        lines += [_line(names), _line(["---:"] * len(names))]
        lines += [_line(list(row.values())) for row in rows] + [""]
    lines += [f"- {name}: {_plain(value)}" for name, value in run.settings.items()]
    return "\n".join([*lines, "", f"hvsa-cvat {__version__}", ""])


def _cells(r: RoundReport) -> dict[str, str]:
    seen, agreed = r.outlook, r.agreement
    scored = {} if r.scores is None else {"mIoU %": percent(r.scores.miou)}
    return {
        "round": str(r.number),
        "samples": count(int(r.chosen.sum())),
        "clicks so far": count(r.clicks),
        "% of full annotation": NONE if r.clicks_percent is None else f"{r.clicks_percent:.2f}",
        "minutes of people": NONE if r.minutes is None else f"{r.minutes:.1f}",
        **scored,
        "mIoU on new answers %": percent(None if agreed is None else agreed.miou),
        "expected mIoU %": percent(None if seen is None else seen.expected_miou),
        "mostly within %": NONE if seen is None else f"{percent(seen.low)} to {percent(seen.high)}",
        "1 % more clicks, points": points(None if seen is None else seen.gain),
        "advice": NONE if seen is None else seen.advice,
        "time": duration(sum(r.seconds.values()) if r.seconds else None),
    }


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text of other people, on one line, in which no character is a mark of Markdown."""
    marked = "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+|!~" else c for c in text)
    return " ".join(marked.split())


FORMS: Mapping[str, Callable[[RunReport], str]] = {
    "html": report_page,
    "md": as_markdown,
    "csv": as_csv,
    "json": as_json,
}
"""What turns a report into the text of a file, by the ending of the file."""


def write_form(run: RunReport, form: str, path: Path) -> None:
    """Write the report to `path`. A file that exists is replaced as a whole."""
    text = FORMS[form](run)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
