"""A stand-in for a terminal: it runs the console, answers its requests, and keeps what it sends."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path

from commandline import REPOSITORY

BACKGROUND = b"\x1b]11;rgb:1c/1c/1c\x1b\\"
KITTY = BACKGROUND + b"\x1bP>|kitty(0.35.2)\x1b\\\x1b_Gi=31;OK\x1b\\\x1b[?62;c"
SIXEL = BACKGROUND + b"\x1b[6;16;8t\x1b[?1;0;256S\x1b[?62;4;22c"
SILENT = b""


class StandIn:
    """The console in a pseudo-terminal of 80×24 cells.

    words: what `cfm` is called with. answers: to the console's requests, `late` seconds after them. sent:
    what it has sent so far.
    """

    def __init__(self, words: list[str], folder: Path, answers: bytes, late: float = 0.0) -> None:
        self.sent = bytearray()
        self._answers, self._late = answers, late
        self.pid, self._handle = pty.fork()
        if self.pid == 0:
            for name in ("NO_COLOR", "TMUX", "STY", "TERM_PROGRAM", "COLORTERM"):
                os.environ.pop(name, None)
            os.environ.update(TERM="xterm-256color", LC_ALL="C.UTF-8", PYTHONPATH=str(REPOSITORY))
            os.environ.update(XDG_CONFIG_HOME=str(folder / "config"))
            os.chdir(folder)
            os.execv(sys.executable, [sys.executable, "-P", "-m", "cfm_tui", *words])
        fcntl.ioctl(self._handle, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        is_asked = False
        with suppress(OSError):
            while part := os.read(self._handle, 65536):
                self.sent += part
                if not is_asked and b"\x1b[c" in self.sent:
                    is_asked = True
                    threading.Timer(self._late, os.write, (self._handle, self._answers)).start()

    def press(self, keys: str) -> None:
        os.write(self._handle, keys.encode())

    @property
    def text(self) -> str:
        return self.sent.decode("utf-8", "replace")

    def until(self, holds, seconds: float = 60.0) -> None:
        """Wait until `holds()`, or until a text was sent."""
        deadline = time.monotonic() + seconds
        while not (holds() if callable(holds) else holds in self.text):
            assert time.monotonic() < deadline, self.text[-3000:]
            time.sleep(0.02)

    def close(self) -> None:
        """Wait until the console has ended; end it if it does not."""
        deadline = time.monotonic() + 20
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                break
            time.sleep(0.05)
        self._reader.join(5)
        os.close(self._handle)
