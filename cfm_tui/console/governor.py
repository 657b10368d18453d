"""Limits on the console's processor time and terminal output.

Only unrequested redraws are delayed, never the response to a key press.
"""

from __future__ import annotations

import time

SHARE = 0.02  #: of a core, while a run is computed in this process
BYTES_PER_SECOND = 8_000  #: to the terminal
BURST_BYTES = 24_000  #: allowance after an idle time: a whole page may be drawn at once
BURST_SECONDS = 0.2  #: allowance of processor time, likewise


class Governor:
    """Two token buckets: one of processor time, and one of bytes.

    A debt is limited to the size of a bucket, so that a busy minute does not freeze the screen for minutes.
    """

    def __init__(self) -> None:
        self._now, self._spent, self._written = time.monotonic(), time.thread_time(), 0
        self._seconds, self._bytes = BURST_SECONDS, float(BURST_BYTES)

    def may_draw(self, written: int, is_computing: bool) -> bool:
        """Return whether an unrequested redraw is within the limits.

        written: bytes sent to the terminal so far. is_computing: a run is computed in this process.
        """
        now, spent = time.monotonic(), time.thread_time()
        elapsed = now - self._now
        used = spent - self._spent if is_computing else 0.0
        sent = written - self._written
        self._now, self._spent, self._written = now, spent, written
        self._seconds = _refill(self._seconds - used, SHARE * elapsed, BURST_SECONDS)
        self._bytes = _refill(self._bytes - sent, BYTES_PER_SECOND * elapsed, BURST_BYTES)
        return self._bytes > 0 and (not is_computing or self._seconds > 0)


def _refill(level: float, added: float, capacity: float) -> float:
    """Return the new level of a bucket, between -capacity and capacity."""
    return min(max(level, -capacity) + added, capacity)
