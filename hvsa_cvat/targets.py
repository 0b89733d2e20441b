"""The mIoU at which a session may end: `--target 92%`."""

from __future__ import annotations

import re

from hvsa_cvat.errors import ConfigError

TARGET_HELP = (
    "End the rounds once an audit says that the masks are that good: once the lower end of its "
    "interval for the mIoU reaches this, in %. Needs an audit (--audit 3). Default: all rounds ask."
)


def parse_target(text: str) -> float:
    """0.92 for `92%`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%?)\s*", text)
    if found is None:
        raise ConfigError(f"--target {text!r}: write a mIoU in %, for example 92%")
    percent = float(found[1])
    if not found[2] and percent < 1:
        raise ConfigError(
            f"--target {text!r}: a fraction, or percent? write {100 * percent:g}% or {percent:g}%"
        )
    if not 0 < percent < 100:
        raise ConfigError(f"--target {text!r}: must be above 0 % and below 100 %")
    return round(percent / 100, 9)


def no_audit(text: str) -> ConfigError:
    """The refusal of a target that nothing would measure."""
    return ConfigError(
        f"--target {text!r}: only an audit tells whether it is reached; add --audit 3, or name "
        "audit:3 among the granularities"
    )
