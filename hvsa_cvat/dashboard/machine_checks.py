"""The half of `doctor` that asks no server, for the System page.

It loads PyTorch and the start network, so a process of its own does it: that takes seconds, and the
memory of the dashboard stays small.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass

from hvsa_cvat.agent.settings import SECRETS, LocalSettings
from hvsa_cvat.cvat.doctor import Finding

_FRESH = 600.0
"""Seconds for which findings hold."""
_LIMIT = 120.0
"""Seconds after which the process is ended."""


@dataclass(frozen=True)
class MachineFindings:
    findings: tuple[Finding, ...] = ()
    under_way: bool = False
    """Whether the first checks are not finished yet."""


class MachineChecks:
    """What `doctor` finds on this machine. Several threads may ask."""

    def __init__(
        self,
        settings: LocalSettings,
        clock: Callable[[], float],
        examine: Callable[[LocalSettings], tuple[Finding, ...]] | None = None,
    ) -> None:
        """`clock` gives seconds since any start. `examine` takes a while; without it, a process of
        its own does."""
        self._settings = settings
        self._clock = clock
        self._examine = examine or _in_a_process
        self._lock = threading.Lock()
        self._kept: tuple[float, tuple[Finding, ...]] | None = None
        self._thread: threading.Thread | None = None

    def __call__(self) -> MachineFindings:
        """The newest findings; those that are old are made anew meanwhile. None where there is no
        workspace: a check of the disk would make it."""
        if not self._settings.workspace.exists():
            return MachineFindings()
        with self._lock:
            old = self._kept is None or not 0 <= self._clock() - self._kept[0] < _FRESH
            if old and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="checks", daemon=True)
                self._thread.start()
            if self._kept is None:
                return MachineFindings(under_way=True)
            return MachineFindings(self._kept[1])

    def _run(self) -> None:
        found = self._examine(self._settings)
        with self._lock:
            self._kept = self._clock(), found


def _in_a_process(settings: LocalSettings) -> tuple[Finding, ...]:
    command = [sys.executable, "-m", __name__]
    environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
    try:
        done = subprocess.run(
            command,
            input=pickle.dumps(settings),
            capture_output=True,
            env=environment,
            timeout=_LIMIT,
            check=True,
        )
        return tuple(Finding(**one) for one in json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        text = f"could not be checked ({type(error).__name__})"
        return (Finding("this machine", "warning", text, "run `hvsa-agent doctor`"),)


def _main() -> None:
    """The process: settings in, findings out."""
    from hvsa_cvat.agent.doctor import examine_machine

    settings: LocalSettings = pickle.load(sys.stdin.buffer)
    json.dump([asdict(one) for one in examine_machine(settings)], sys.stdout)


if __name__ == "__main__":
    _main()
