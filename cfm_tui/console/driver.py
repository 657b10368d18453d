"""The terminal, as the console uses it: counts what it sends, and notices that the terminal is gone.

Textual's own driver neither ends on the end of its input nor survives a terminal that takes no more.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Full
from typing import IO, Any

from textual.drivers.linux_driver import LinuxDriver

WAIT_SECONDS = 0.5
MOST_ASIDE = 2**20  #: bytes that are kept of what libraries print
TOLD_ASIDE = 2000  #: bytes of it that are told when the console ends
_screen: IO[str] | None = None  # where the console draws while the process's own output goes elsewhere


class TerminalDriver(LinuxDriver):
    """written: bytes sent so far."""

    written = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if _screen is not None:
            self._file = _screen  # type: ignore[assignment]

    def write(self, data: str) -> None:
        """Send, unless the thread that writes ended with the terminal: nobody would take it."""
        self.written += len(data.encode("utf-8", "replace"))
        writer = self._writer_thread
        while writer is not None and writer.is_alive():
            try:
                writer._queue.put(data, timeout=WAIT_SECONDS)
            except Full:  # the terminal takes nothing for now, or it was closed meanwhile
                continue
            return

    def _sigcont_application(self, *_: Any) -> None:
        """Only what was left by ctrl+z is entered again; a process that was merely stopped just goes on."""
        if self._must_signal_resume:
            super()._sigcont_application()

    def close(self) -> None:
        """Wait for what is still to be sent, unless it cannot be."""
        if self._writer_thread is not None and self._writer_thread.is_alive():
            super().close()

    def _get_terminal_size(self) -> tuple[int, int]:
        """Columns and lines of the terminal that is drawn on: standard output may be something else."""
        try:
            size = os.get_terminal_size((self._file or sys.stderr).fileno())
        except (OSError, ValueError):
            return super()._get_terminal_size()
        return size.columns or 80, size.lines or 24

    def gone(self) -> bool:
        """Whether the terminal was closed, or its input ended."""
        if self._writer_thread is not None and not self._writer_thread.is_alive():
            return True
        poll = select.poll()
        poll.register(self.fileno, 0)  # what is always told: that it was hung up, or is no file any more
        return any(told & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, told in poll.poll(0))

    def _run_input_thread(self) -> None:
        """An error while reading means that the terminal is gone, which `gone` tells."""
        with suppress(OSError):
            self.run_input_thread()


class Aside:
    """What libraries printed while the screen was drawn: a file that is kept small."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def trim(self) -> None:
        """Begin anew where there is too much of it."""
        if os.fstat(self._file.fileno()).st_size > MOST_ASIDE:
            os.ftruncate(self._file.fileno(), 0)

    def tail(self) -> str:
        """The end of it, as text."""
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), TOLD_ASIDE, max(size - TOLD_ASIDE, 0)).decode("utf-8", "replace")


@contextmanager
def own_output() -> Iterator[Aside]:
    """Keep what libraries print off the screen while the block runs: it is put aside."""
    global _screen
    with tempfile.TemporaryFile() as elsewhere:
        fcntl.fcntl(elsewhere, fcntl.F_SETFL, os.O_APPEND)  # so that it can be cut meanwhile
        kept = {number: os.dup(number) for number in (1, 2)}
        screen = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        sys.stdout.flush()
        sys.stderr.flush()
        for number in kept:
            os.dup2(elsewhere.fileno(), number)
        _screen = screen
        try:
            yield Aside(elsewhere)
        finally:
            _screen = None
            for number, former in kept.items():
                os.dup2(former, number)
                os.close(former)
            with suppress(OSError):  # the terminal is gone
                screen.close()
