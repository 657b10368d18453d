"""Holds what the console costs below a share of a core and a rate of bytes, whatever there is to draw.

Only drawing that nobody asked for is held back: what follows a key is never.
"""

from __future__ import annotations

import time

SHARE = 0.02  #: of a core, while a run is computed in this process
BYTES_PER_SECOND = 8_000  #: to the terminal
BURST_BYTES = 24_000  #: a whole page may be drawn at once after a quiet while
BURST_SECONDS = 0.2  #: of a core, likewise


class Governor:
    """Two allowances that fill up with time: of processor time, and of bytes.

    What was spent beyond an allowance is waited for, but not beyond `BURST`, so that a busy minute is not
    paid for with minutes of a frozen screen.
    """

    def __init__(self) -> None:
        self._now, self._spent, self._written = time.monotonic(), time.thread_time(), 0
        self._seconds, self._bytes = BURST_SECONDS, float(BURST_BYTES)

    def may_draw(self, written: int, sharing: bool) -> bool:
        """Whether there is allowance for drawing unasked.

        written: bytes sent to the terminal so far. sharing: a run is computed in this process.
        """
        now, spent = time.monotonic(), time.thread_time()
        elapsed = now - self._now
        used = spent - self._spent if sharing else 0.0
        sent = written - self._written
        self._now, self._spent, self._written = now, spent, written
        self._seconds = _filled(self._seconds - used, SHARE * elapsed, BURST_SECONDS)
        self._bytes = _filled(self._bytes - sent, BYTES_PER_SECOND * elapsed, BURST_BYTES)
        return self._bytes > 0 and (not sharing or self._seconds > 0)


def _filled(left: float, more: float, most: float) -> float:
    return min(max(left, -most) + more, most)
