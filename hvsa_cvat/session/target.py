"""Whether the masks of a session are as good as they have to be, by its audits."""

from __future__ import annotations

from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.records import Audit


def newest_audit(files: RoundFiles) -> Audit | None:
    """What the newest audit up to the round of `files` says; None before the first."""
    for number in range(files.number, 0, -1):
        outlook = files.of_round(number).outlook()
        if outlook is not None and outlook.audit is not None:
            return outlook.audit
    return None


def reaches(audit: Audit | None, target: float | None) -> bool:
    """Whether an audit says that the target is reached: the lower end of its interval passes it.

    The masks after the audit have learnt from it, so they are mostly better than it says.
    """
    return audit is not None and target is not None and audit.miou.low >= target
