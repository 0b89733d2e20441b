"""How much of a server's answer is taken, and how long it is waited for.

A server that is broken, or in other hands, may send without end. Each limit lies far above what
CVAT sends for the largest tasks that it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_JSON = 2**27
"""Bytes of an answer that is read as JSON, after it is inflated: 128 MiB, as 6,000 masks of 20 KB
in one child job take. Parsed, JSON of brackets alone takes 20 times its bytes."""

LARGEST_FILE = 2**31
"""Bytes of an answer that goes to a file, after it is inflated, unless the caller knows better."""

MOST_PAGES = 1000
"""Pages of a list, of 100 rows each."""

LONGEST_CALL = 1500.0
"""Seconds of one call with all its repetitions, from the first byte sent to the last one read.
A gigabyte at 0.7 MB/s takes as long. Health checks take an agent that was silent for 1800 s for
dead."""

LONGEST_STOPPING = 5.0
"""Seconds that an exchange may still take after the agent was asked to stop. Container runtimes
end a process 10 s after they have asked it."""


@dataclass(frozen=True)
class Patience:
    """How long a client waits, in seconds."""

    connect: float
    read: float
    """For the next byte; the server may work on a large write as long before it answers."""
    call: float = LONGEST_CALL
    stopping: float = LONGEST_STOPPING
