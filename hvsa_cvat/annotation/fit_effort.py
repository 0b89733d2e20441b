"""What the parts of answers take a team, fitted to the time of its own jobs.

Non-negative least squares with shrinkage towards the published figures. A job counts by the ratio
of its time to what the published figures expect of it, so that long jobs do not rule over short
ones. The time of a job is kept near what the fit says, so that one odd job does not turn the
figures over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from hvsa_cvat.annotation.effort import PUBLISHED, Effort, Work

FITTED_FROM = 5
"""Jobs with a known time from which figures are fitted; with fewer the published ones hold."""

_SHRINKAGE = 0.5
"""How many jobs in which a part is all the work outweigh its published figure as much as it
outweighs them."""

_REACH = 1.5
"""How far, as a factor, the time of a job may lie from what the fit says."""

_FIRST_REACH = 4.0
"""The same before the first fit, from the time of the middle job."""

_FITS = 6
"""After these the figures hardly change."""


@dataclass(frozen=True)
class TimedWork:
    """The work of one job and its time."""

    work: Work
    seconds: float


def fit_effort(jobs: Sequence[TimedWork]) -> Effort:
    """The figures of a team whose jobs took these times; `PUBLISHED` where they are too few."""
    known = [job for job in jobs if job.work.samples and job.seconds > 0]
    if len(known) < FITTED_FROM:
        return PUBLISHED
    published = np.array(PUBLISHED.seconds_of_parts)
    expected = np.array([job.work.parts for job in known]) * published
    ratios = np.array([job.seconds for job in known]) / expected.sum(axis=1)
    shares = expected / expected.sum(axis=1, keepdims=True)
    factors = _robust(shares, ratios)
    job, confirm, key, vertex, polygon = (factors * published).tolist()
    clicks = expected[:, 2:].sum(axis=0)
    mean = float(np.average(factors[2:], weights=clicks if clicks.any() else None))
    return Effort(confirm, PUBLISHED.click * mean, job, key, vertex, polygon, len(known))


def _robust(shares: NDArray[np.float64], ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (parts,): as `_shrunk`, with ratios that are kept near what the fit says."""
    middle = np.full(len(ratios), np.median(ratios))
    factors = _shrunk(shares, _kept_near(ratios, middle, _FIRST_REACH))
    for _ in range(_FITS):
        factors = _shrunk(shares, _kept_near(ratios, shares @ factors, _REACH))
    return factors


def _kept_near(
    ratios: NDArray[np.float64], expected: NDArray[np.float64], reach: float
) -> NDArray[np.float64]:
    return np.clip(ratios, expected / reach, expected * reach)


def _shrunk(shares: NDArray[np.float64], ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (parts,): the factor of each published figure; `shares` (jobs, parts) are those of
    the parts in what each job is expected to take."""
    weight = np.sqrt(_SHRINKAGE)
    parts = shares.shape[1]
    rows = np.vstack([shares, weight * np.eye(parts)])
    wanted = np.concatenate([ratios, np.full(parts, weight)])
    factors, _ = nnls(rows, wanted)
    return np.asarray(factors, np.float64)
