"""The answers of several jobs as the answers to one request, and how they are told apart later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from hvsa_cvat.cvat.answers.read_job import JobAnswers
from hvsa_cvat.types import AnswerKind, Answers, Clicks, Sample


def merge(jobs: Sequence[JobAnswers]) -> Answers:
    """The annotations of all jobs in order of frames, and the clicks and kinds of all samples."""
    annotations = [one for job in jobs for one in job.annotations]
    clicks: dict[Sample, Clicks] = {}
    kinds: dict[Sample, AnswerKind] = {}
    for job in jobs:
        clicks |= job.clicks
        kinds |= job.kinds
    return Answers(tuple(sorted(annotations, key=lambda one: one.frame)), clicks, kinds)


def digest_of(answers: Answers) -> str:
    """Differs when any label map differs."""
    digest = hashlib.sha256()
    for one in answers.annotations:
        digest.update(repr((one.frame, one.segments)).encode())
        digest.update(np.ascontiguousarray(one.label_map).tobytes())
    return digest.hexdigest()
