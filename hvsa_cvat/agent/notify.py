"""Telling people what is new with the tasks, by e-mail, chat or whatever apprise knows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hvsa_cvat.agent.news import NO_TASK, NewsReader, agents_down
from hvsa_cvat.agent.outbox import Notice
from hvsa_cvat.agent.settings import NOTIFY_URLS, NotifySection, read_secret
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.plain_text import plural

_MOST_LINES = 40
"""Of one message."""
_TELL_SECONDS = 60.0


@dataclass(frozen=True)
class Service:
    """One place to which messages go."""

    name: str
    """Kind of the service; its address is a secret."""
    sender: Any
    """An `apprise.Apprise`."""

    def send(self, title: str, text: str) -> bool:
        """Whether the service took the message."""
        try:
            return bool(self.sender.notify(body=text, title=title, body_format="text"))
        except Exception:  # a plug-in of apprise may raise nearly anything
            return False


def open_services(environment: Mapping[str, str]) -> list[Service]:
    """The services that the environment names; none where it names none."""
    urls = (read_secret(NOTIFY_URLS, environment) or "").split()
    if not urls:
        return []
    try:
        import apprise
    except ImportError as error:
        raise ConfigError(
            "sending notifications needs apprise; install it by: pip install 'hvsa-cvat[notify]'"
        ) from error
    # what it logs may hold the addresses, which are secrets
    logger = logging.getLogger("apprise")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    services = []
    for place, url in enumerate(urls, 1):
        sender = apprise.Apprise()
        if not sender.add(url):
            raise ConfigError(
                f"{NOTIFY_URLS}: address {place} of {len(urls)} is none that apprise knows; write "
                "it as https://github.com/caronc/apprise shows, with blanks between addresses"
            )
        services.append(Service(str(sender[0].service_name or "service"), sender))
    return services


@dataclass(frozen=True)
class Notifier:
    """Tells what is new. Several processes may do so: each piece of news is sent by one of them."""

    services: Sequence[Service]
    options: NotifySection
    url: str
    """Address of the server."""
    log: Callable[[str], None]
    local: Callable[[float], datetime] = datetime.fromtimestamp
    """The time of day where people are, for seconds since 1970."""
    reader: NewsReader = field(default_factory=NewsReader)

    def tell(self, workspace: Workspace, now: float) -> int:
        """Note what is new, and send what may be sent now; returns how many lines were sent."""
        found = self.reader.read(workspace, self.url, self.options.stuck_hours, now)
        found += agents_down(workspace, self.options.down_minutes, now)
        try:
            workspace.outbox.add([one for kind, one in found if kind in self.options.events])
        except HvsaError:
            self.reader.forget()
            raise
        waiting = workspace.outbox.waiting()
        if not waiting or self.options.is_quiet(self.local(now)):
            return 0
        # what was noted just now is younger than `now`
        if max(0.0, now - waiting[0].time) >= 60 * self.options.digest_minutes:
            taken = workspace.outbox.take(waiting)
            if taken and self._send(taken):
                return len(taken)
            workspace.outbox.give_back(taken)
        return 0

    def _send(self, taken: Sequence[Notice]) -> bool:
        """Whether any service took the message. Where some did, nobody gets it twice."""
        tasks = len({one.task for one in taken} - {NO_TASK})
        title = f"hvsa-agent: news of {plural(tasks, 'task')}" if tasks else "hvsa-agent: news"
        lines = [one.line for one in taken[:_MOST_LINES]]
        if len(taken) > _MOST_LINES:
            lines.append(f"and {len(taken) - _MOST_LINES} more; see `hvsa-agent status`")
        text = "\n".join(lines)
        failed = [one.name for one in self.services if not one.send(title, text)]
        if failed:
            again = "; the next pass tries again" if len(failed) == len(self.services) else ""
            self.log(f"notifications: {', '.join(failed)} took no message{again}")
        return len(failed) < len(self.services)


@contextmanager
def telling(
    notifier: Notifier,
    workspace: Callable[[], Workspace | None],
    clock: Callable[[], float],
    every: float = _TELL_SECONDS,
) -> Iterator[None]:
    """Tell what is new every so many seconds, in a thread, while the block runs. `workspace` gives
    the one to read, and None while there is none; `clock` seconds since 1970."""
    ended = threading.Event()

    def go_on() -> None:
        told = ""
        while not ended.wait(every):
            try:
                if (found := workspace()) is not None:
                    notifier.tell(found, clock())
                told = ""
            except HvsaError as error:
                if str(error) != told:  # once, not every minute
                    notifier.log(f"notifications: {error}")
                told = str(error)

    thread = threading.Thread(target=go_on, name="notifications", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
