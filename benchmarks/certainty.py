"""What a certainty is worth: how many pixels of the samples that people answer are expected to be
right, and how many are.

    python -m benchmarks.certainty runs/outlook --start carried

`RUNS` holds finished runs at any depth, as `simulate` leaves them. Nothing is computed again: the
answers of each round are compared with the masks that people saw, by what the rounds before it
tell of their certainty. Prints Markdown.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from hvsa_cvat.session.calibration import CARRIED, right_by_level
from hvsa_cvat.session.outlook import MIDDLES, HeldOut, Table

STARTS: dict[str, Table] = {"carried": CARRIED, "network": MIDDLES}

_ROWS = (
    "the certainty itself",
    "learnt, before there are answers",
    "learnt, from answers of earlier rounds",
)


def share_right(answers: HeldOut) -> float:
    """Of the pixels of some answers, those that the masks had right."""
    counts = answers.counts()
    shown = np.arange(len(counts))
    return float(counts[shown, :, shown].sum() / counts.sum())


def expected_right(answers: HeldOut, right: Table) -> float:
    """The same as their certainty has it, where `right` says what that is worth."""
    pixels = answers.counts().sum(axis=(0, 2))
    return float(pixels @ right / pixels.sum())


def differences(rounds: list[HeldOut], start: Table) -> list[tuple[str, float]]:
    """For each round of one run, (name of a row, expected less true share); `rounds` are those
    from round 2 on."""
    found = []
    for number, answers in enumerate(rounds):
        true = share_right(answers)
        learnt = right_by_level(rounds[:number], start)
        found.append((_ROWS[0], expected_right(answers, MIDDLES) - true))
        found.append((_ROWS[2 if number else 1], expected_right(answers, learnt) - true))
    return found


def read_rounds(run: Path) -> list[HeldOut]:
    """The answers of a run that its masks had not seen, round by round."""
    paths = sorted((run / "rounds").glob("*/held_out.npz"), key=lambda path: int(path.parent.name))
    rounds = []
    for path in paths:
        with np.load(path) as kept:
            tables = [kept[name] for name in kept.files]
        classes = 1 + max((int(one[:, [1, 3]].max()) for one in tables if len(one)), default=0)
        answers = HeldOut(tables, classes)
        if len(answers):
            rounds.append(answers)
    return rounds


@click.command()
@click.argument("runs", type=click.Path(path_type=Path, exists=True))
@click.option("--start", type=click.Choice(list(STARTS)), default="network", show_default=True)
def main(runs: Path, start: str) -> None:
    found = [
        one
        for path in sorted(runs.rglob("metrics.json"))
        if (path.parent / "rounds").is_dir()
        for one in differences(read_rounds(path.parent), STARTS[start])
    ]
    click.echo(
        "| expected right by | rounds | mean difference | mean absolute difference | largest |\n"
        "| --- | ---: | ---: | ---: | ---: |"
    )
    for name in _ROWS:
        away = 100 * np.array([difference for row, difference in found if row == name])
        if len(away):
            click.echo(
                f"| {name} | {len(away)} | {away.mean():+.1f} | {abs(away).mean():.1f} | "
                f"{abs(away).max():.1f} |"
            )


if __name__ == "__main__":
    main()
