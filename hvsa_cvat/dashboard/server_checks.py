"""The half of `doctor` that asks the server, for the System page: when somebody presses its button.

One run at a time, in a thread of its own, with a limit; what it finds is kept in memory. The
requests are a dozen, and no agent waits for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from hvsa_cvat.agent.reports import one_line
from hvsa_cvat.agent.settings import AgentSettings
from hvsa_cvat.cvat.doctor import Finding, examine
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.errors import ConfigError, HvsaError

LIMIT = 30.0
"""Seconds after which a run is broken off."""
_TIMEOUTS = (5.0, 10.0)
"""Seconds to connect, and to wait for the next byte."""


@dataclass(frozen=True)
class Checked:
    """What a run has found."""

    begun: datetime
    findings: tuple[Finding, ...] = ()
    under_way: bool = True
    cut: bool = False
    """Whether it was broken off at its limit; the checks that are missing were not made."""


class ServerChecks:
    """The runs of one dashboard. Several threads may ask."""

    def __init__(
        self,
        settings: AgentSettings | None,
        clock: Callable[[], float],
        limit: float = LIMIT,
    ) -> None:
        """`settings` hold the login; None where this process has none, so that nothing can be
        asked. `clock` gives seconds since 1970."""
        self._settings = settings
        self._clock = clock
        self._limit = limit
        self._lock = threading.Lock()
        self._last: Checked | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def may_ask(self) -> bool:
        return self._settings is not None

    @property
    def last(self) -> Checked | None:
        """The newest run, as far as it is."""
        return self._last

    def begin(self) -> None:
        """Begin a run; `ConfigError` without a login, or while one is under way."""
        if self._settings is None:
            raise ConfigError(
                "this dashboard has no login; set CVAT_ACCESS_TOKEN where it runs, or use "
                "`hvsa-agent doctor`"
            )
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise ConfigError("the server is being asked already; load the System page anew")
            self._last = Checked(datetime.fromtimestamp(self._clock(), UTC))
            self._thread = threading.Thread(
                target=self._run, args=(self._settings,), name="server-checks", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """End the run that is under way."""
        self._closing = True
        if self._thread is not None:
            self._thread.join(timeout=self._limit)

    def _run(self, settings: AgentSettings) -> None:
        ends = time.monotonic() + self._limit

        def over() -> bool:
            return self._closing or time.monotonic() > ends

        try:
            client = CvatClient(
                settings.address,
                settings.credentials,
                timeouts=_TIMEOUTS,
                longest=self._limit,
                stopping=over,
            )
            with client:
                for finding in examine(client):
                    if over():
                        self._note(cut=True)
                        return
                    self._note(finding)
        except HvsaError as error:
            self._note(Finding("server", "failure", one_line(error), "run `hvsa-agent doctor`"))
        finally:
            self._note(ended=True)

    def _note(self, *findings: Finding, cut: bool = False, ended: bool = False) -> None:
        with self._lock:
            if (last := self._last) is not None:
                self._last = replace(
                    last,
                    findings=(*last.findings, *findings),
                    cut=last.cut or cut,
                    under_way=last.under_way and not ended,
                )
