"""Every error that a user can cause or mend.

* HvsaError
  x ConfigError       an option, setting or environment variable that cannot be used
  x MediaError        frames, labels or a video that cannot be read or do not belong together
  x CheckpointError   a weights file that is truncated, foreign, or made for something else
  x SessionError      a workspace of another run, or a step that its phase does not allow
  x AnnotationError   what a person drew cannot be understood
  x CapacityError     a run that takes more memory or disk than there is
  x ServerError       the annotation server said no, or said nothing

A message is one line that says what is wrong, where, and how to mend it. `ConfigError` exits with
code 2 (usage), the others with 1. Caller bugs are `ValueError`, as everywhere in Python.
"""


class HvsaError(Exception):
    """Base of every error whose message is meant for a person."""

    exit_code = 1


class ConfigError(HvsaError):
    """An option or setting that cannot be used."""

    exit_code = 2


class MediaError(HvsaError):
    """Frames, labels or a video that cannot be read or do not belong together."""


class CheckpointError(HvsaError):
    """A weights file that is truncated, foreign, or made for something else."""


class SessionError(HvsaError):
    """A workspace of another run, or a step that its phase does not allow."""


class AnnotationError(HvsaError):
    """What a person drew cannot be understood."""


class CapacityError(HvsaError):
    """A run that takes more memory or disk than there is."""


class ServerError(HvsaError):
    """The annotation server said no, or said nothing."""
