"""Parts that run one after another in the seconds there are, and the file of their figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvsa_cvat.files import atomic_write

Figures = dict[str, Any]
Clock = Callable[[], float]
Tell = Callable[[str], None]


class Skipped(Exception):
    """A part that is not run, and why in one line."""


@dataclass(frozen=True)
class Work:
    """One part of the benchmark."""

    name: str
    seconds: float
    """What it takes on an H100, by guess; it is not begun where less is left."""
    run: Callable[[], Figures]


@dataclass
class Ledger:
    """The figures of a run; `path` holds all of them after each entry, whole."""

    path: Path
    seconds: float
    """What the whole run may take."""
    clock: Clock = time.monotonic
    content: Figures = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun = self.clock()

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (self.clock() - self._begun)

    def write(self, key: str, value: Any) -> None:
        self.content[key] = value
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=1))


def run_all(
    works: Sequence[Work],
    ledger: Ledger,
    tell: Tell,
    around: Callable[[], Callable[[], Figures]] = lambda: dict,
) -> None:
    """Run the parts in their order. What `around` returns is called when a part has ended, for
    figures of its memory. One that fails is noted, and the next one runs."""
    parts: dict[str, Figures] = {}
    for work in works:
        if ledger.left < work.seconds:
            why = f"{ledger.left:.0f} s left, about {work.seconds:.0f} s needed"
            parts[work.name] = {"state": "skipped", "why": why}
        else:
            measured, begun = around(), ledger.clock()
            parts[work.name] = _outcome(work.run)
            parts[work.name] |= {"seconds": round(ledger.clock() - begun, 2), **measured()}
        ledger.write("parts", parts)
        tell(told(work.name, parts[work.name]))


def _outcome(run: Callable[[], Figures]) -> Figures:
    try:
        return {"state": "done", "figures": run()}
    except Skipped as why:
        return {"state": "skipped", "why": str(why)}
    except Exception as error:  # whatever it is, the next part may run
        line = " ".join(str(error).split())[:300]
        return {"state": "failed", "why": f"{type(error).__name__}: {line}"}


def told(name: str, entry: Mapping[str, Any]) -> str:
    """A part in a line, its figures below."""
    lines = [f"{name}: {entry['state']} {entry.get('why', '')}".rstrip()]
    if "seconds" in entry:
        lines[0] += f" ({entry['seconds']:.1f} s)"
    lines += [f"    {key}: {_short(value)}" for key, value in entry.get("figures", {}).items()]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(one)}" for key, one in value.items())
    return str(value)
