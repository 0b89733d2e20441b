"""Every error that a user can cause or fix.

* HvsaError
  x ConfigError       an option, setting or environment variable cannot be used
  x MediaError        frames, labels or a video cannot be read, or do not belong together
  x CheckpointError   a file of weights is truncated, of another program, or for other classes
  * SessionError      a workspace belongs to another run, or its phase does not allow a step
    x ProcessLostError  one of the processes that train together has ended
  x AnnotationError   what a person drew cannot be understood
  x CapacityError     a run needs more memory or disk space than there is
  x ServerError       the annotation server refused a request, or did not answer

A message is one line that says what is wrong, where, and how to fix it. `ConfigError` exits with
code 2 (usage), the others exit with code 1. A caller's bug is a `ValueError`, as usual in Python.
"""


class HvsaError(Exception):
    """The base of every error whose message is for the user."""

    exit_code = 1


class ConfigError(HvsaError):
    """An option, setting or environment variable cannot be used."""

    exit_code = 2


class MediaError(HvsaError):
    """Frames, labels or a video cannot be read, or do not belong together."""


class CheckpointError(HvsaError):
    """A file of weights is truncated, of another program, or for other classes."""


class SessionError(HvsaError):
    """A workspace belongs to another run, or its phase does not allow a step."""


class ProcessLostError(SessionError):
    """One of the processes that train together has ended; the training goes on when repeated."""


class AnnotationError(HvsaError):
    """What a person drew cannot be understood."""


class CapacityError(HvsaError):
    """A run needs more memory or disk space than there is."""


class ServerError(HvsaError):
    """The annotation server refused a request, or did not answer."""
