"""When the next pass begins: after a wait, or earlier by a webhook; a signal ends the waiting."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from hvsa_cvat.errors import ConfigError

_JITTER = 0.2
"""Share of the interval by which waits differ, so that many agents do not ask at once."""

_BEAT = 60.0
"""While it waits, the agent gives a sign of life this often."""


class Heartbeat:
    """A file that is touched while the agent works or waits; health checks look at its age."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            file.touch()
        except OSError as error:
            raise ConfigError(
                f"--heartbeat {file}: {error.strerror}; name a file that can be written"
            ) from error

    def beat(self) -> None:
        """Touch the file; called at each step of progress."""
        with suppress(OSError):  # the file then grows old, and the health check fails as it should
            self._file.touch()


class Watch:
    """When the next pass is due. Signals and webhooks may call `wake` and `stop` at any time."""

    def __init__(
        self, interval: float, rng: random.Random, beat: Callable[[], None] = lambda: None
    ) -> None:
        """`interval` is in seconds; `beat` is called at each pass and every minute of waiting."""
        self._interval = interval
        self._rng = rng
        self._beat = beat
        self._woken = threading.Event()
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def wake(self) -> None:
        """Begin the next pass now, or at once after the one that runs."""
        self._woken.set()

    def stop(self) -> None:
        """Ask the agent to stop before its next step."""
        self._stopped.set()
        self._woken.set()

    def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than a second once the agent was asked to stop."""
        if self.stopped or self._stopped.wait(seconds):
            # what is polled meanwhile is not asked without a pause
            time.sleep(min(seconds, 1.0))

    def passes(self) -> Iterator[None]:
        """One item whenever a pass is due, until stopped."""
        while not self.stopped:
            self._woken.clear()
            self._beat()
            yield
            self._wait(self._interval * self._rng.uniform(1 - _JITTER, 1 + _JITTER))

    def _wait(self, seconds: float) -> None:
        while seconds > 0 and not self.stopped and not self._woken.wait(min(seconds, _BEAT)):
            seconds -= _BEAT
            self._beat()
