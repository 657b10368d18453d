"""Textual's terminal driver, extended to count the bytes sent and to detect a closed terminal.

Textual's driver neither stops at the end of its input nor survives a terminal that accepts no more output.
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
MOST_CAPTURED_BYTES = 2**20  #: size at which the captured output is discarded
TAIL_BYTES = 2000  #: of the captured output, printed when the console ends
_screen: IO[str] | None = None  # where the console draws while stdout and stderr are captured


class TerminalDriver(LinuxDriver):
    """A driver for Linux terminals.

    written: bytes sent so far.
    """

    written = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if _screen is not None:
            self._file = _screen  # type: ignore[assignment]

    def write(self, data: str) -> None:
        """Send data, unless the writer thread ended because the terminal was closed."""
        self.written += len(data.encode("utf-8", "replace"))
        writer = self._writer_thread
        while writer is not None and writer.is_alive():
            try:
                writer._queue.put(data, timeout=WAIT_SECONDS)
            except Full:  # the terminal blocks, or was closed meanwhile
                continue
            return

    def _sigcont_application(self, *_: Any) -> None:
        """Re-enter application mode only after ctrl+z; a process that was merely stopped just continues."""
        if self._must_signal_resume:
            super()._sigcont_application()

    def close(self) -> None:
        """Wait until pending output is sent, unless the writer thread has ended."""
        if self._writer_thread is not None and self._writer_thread.is_alive():
            super().close()

    def _get_terminal_size(self) -> tuple[int, int]:
        """Return columns and lines of the terminal that is drawn on; stdout may be redirected."""
        try:
            size = os.get_terminal_size((self._file or sys.stderr).fileno())
        except (OSError, ValueError):
            return super()._get_terminal_size()
        return size.columns or 80, size.lines or 24

    def gone(self) -> bool:
        """Return whether the terminal was closed, or its input ended."""
        if self._writer_thread is not None and not self._writer_thread.is_alive():
            return True
        poll = select.poll()
        poll.register(self.fileno, 0)  # hang-ups and invalid files are always reported
        closed = select.POLLHUP | select.POLLERR | select.POLLNVAL
        return any(events & closed for _, events in poll.poll(0))

    def _run_input_thread(self) -> None:
        """Suppress read errors: they mean that the terminal was closed, which `gone` detects."""
        with suppress(OSError):
            self.run_input_thread()


class CapturedOutput:
    """What libraries printed while the console was open, in a file of limited size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def trim(self) -> None:
        """Discard the output when it exceeds `MOST_CAPTURED_BYTES`."""
        if os.fstat(self._file.fileno()).st_size > MOST_CAPTURED_BYTES:
            os.ftruncate(self._file.fileno(), 0)

    def tail(self) -> str:
        """Return the last `TAIL_BYTES` as text."""
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), TAIL_BYTES, max(size - TAIL_BYTES, 0)).decode("utf-8", "replace")


@contextmanager
def capture_output() -> Iterator[CapturedOutput]:
    """Capture stdout and stderr while the block runs, so that libraries do not print over the screen."""
    global _screen
    with tempfile.TemporaryFile() as file:
        fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)  # so that it can be truncated meanwhile
        saved = {number: os.dup(number) for number in (1, 2)}
        screen = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        sys.stdout.flush()
        sys.stderr.flush()
        for number in saved:
            os.dup2(file.fileno(), number)
        _screen = screen
        try:
            yield CapturedOutput(file)
        finally:
            _screen = None
            for number, original in saved.items():
                os.dup2(original, number)
                os.close(original)
            with suppress(OSError):  # the terminal was closed
                screen.close()
