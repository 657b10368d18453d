"""What the console sends to its terminal: a driver, filters of the output, and limits on it.

Textual's driver neither stops at the end of its input nor survives a terminal that accepts no more output.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import Full
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.control import Control
from rich.segment import Segment
from textual._compositor import ChopsUpdate  # no public name; Textual is pinned
from textual._xterm_parser import XTermParser
from textual.color import Color
from textual.drivers import linux_driver
from textual.drivers.linux_driver import LinuxDriver
from textual.filter import LineFilter
from textual.message import Message

from cfm_tui.display.terminal import PixelSupport, to_ascii

_screen: IO[str] | None = None  # where the console draws while stdout and stderr are captured


class TerminalDriver(LinuxDriver):
    """A driver for Linux terminals.

    written: bytes sent so far. translate: applied to all that is sent; None for nothing.
    """

    written = 0
    translate: Callable[[str], str] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if _screen is not None:
            self._file = _screen  # type: ignore[assignment]

    def write(self, data: str) -> None:
        """Send data, unless the writer thread ended because the terminal was closed."""
        if self.translate is not None:
            data = self.translate(data)
        self.written += len(data.encode("utf-8", "replace"))
        writer = self._writer_thread
        while writer is not None and writer.is_alive():
            try:
                writer._queue.put(data, timeout=0.5)
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

    def is_closed(self) -> bool:
        """Return whether the terminal was closed, or its input ended."""
        if self._writer_thread is not None and not self._writer_thread.is_alive():
            return True
        poll = select.poll()
        poll.register(self.fileno, 0)  # hang-ups and invalid files are always reported
        closed = select.POLLHUP | select.POLLERR | select.POLLNVAL
        return any(events & closed for _, events in poll.poll(0))

    def _run_input_thread(self) -> None:
        """Suppress read errors: they mean that the terminal was closed, which `is_closed` detects."""
        if getattr(self._app, "awaits_answers", False):
            parser = partial(AnswerParser, self._take_answers)
            # there is no public way to use another parser; Textual is pinned
            setattr(linux_driver, "XTermParser", parser)  # noqa: B010
        try:
            with suppress(OSError):
                self.run_input_thread()
        finally:
            setattr(linux_driver, "XTermParser", XTermParser)  # noqa: B010

    def _take_answers(self, text: str) -> None:
        app: Any = self._app
        app.use_late_answers(_parse_answers(text, _read_cell_size(self.fileno)))


class AnswerParser(XTermParser):
    """A parser of input that keeps the terminal's late answers from being taken for keys.

    on_answers: is called with the answers when the last one came.
    """

    SECONDS = 10.0  #: how late answers may be
    ANSWER = re.compile(
        r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[P_][^\x1b]*\x1b\\|\x1b\[\?[\d;]*[cS]|\x1b\[6;\d+;\d+t"
    )
    PART = re.compile(r"\x1b(?:[\]P_][^\x07\x1b]*\x1b?|\[(?:\?[\d;]*|6[\d;]*)?)?\Z")
    PART_SECONDS = 0.5  #: how long what may be the start of an answer is held back

    def __init__(self, on_answers: Callable[[str], None], debug: bool = False) -> None:
        super().__init__(debug)
        self._on_answers = on_answers
        self._answers = self._part = ""
        self._held_at = 0.0
        self._deadline = time.monotonic() + self.SECONDS

    def feed(self, data: str) -> Iterable[Message]:
        """Parse the input without answers; no input means its end."""
        now = time.monotonic()
        if not data or (now > self._deadline and not self._part):
            return super().feed(data)
        data, self._part = self._part + data, ""
        self._answers += "".join(self.ANSWER.findall(data))
        data = self.ANSWER.sub("", data)
        if re.search(_LAST_ANSWER, self._answers):
            self._on_answers(self._answers)
            self._answers, self._deadline = "", 0.0
        elif now <= self._deadline and (part := self.PART.search(data)):
            data, self._part, self._held_at = data[: part.start()], part[0], now
        return super().feed(data) if data else ()

    def tick(self) -> Iterable[Message]:
        """Parse what was held back and is no answer."""
        yield from super().tick()
        if self._part and time.monotonic() - self._held_at > self.PART_SECONDS:
            data, self._part = self._part, ""
            yield from super().feed(data)


@dataclass(frozen=True)
class TerminalAnswers:
    """What the terminal says of itself.

    background: red, green and blue up to 255; None if unknown. pixels: how it shows images in pixels; None if
    it does not, or not in the way that the console needs. are_complete: whether the last answer came.
    """

    background: tuple[int, int, int] | None = None
    pixels: PixelSupport | None = None
    are_complete: bool = True


_LAST_ANSWER = r"\x1b\[\?[\d;]*c"


def query_terminal(environ: Mapping[str, str], seconds: float = 0.2) -> TerminalAnswers:
    """Ask the terminal for its background colour (OSC 11) and for how it shows images.

    All requests are sent at once. One that every terminal answers is the last (DA1), so that a terminal
    without the others costs no time. seconds: the longest wait. Must be called before the application reads
    from the terminal.
    """
    try:
        handle = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return TerminalAnswers()
    try:
        saved = termios.tcgetattr(handle)
        tty.setcbreak(handle, termios.TCSANOW)
        try:
            os.write(handle, _build_requests(environ))
            answer, deadline = b"", time.monotonic() + seconds
            while not re.search(_LAST_ANSWER.encode(), answer):
                if not select.select([handle], [], [], max(deadline - time.monotonic(), 0))[0]:
                    break
                answer += os.read(handle, 1024)
            cell = _read_cell_size(handle)
        finally:
            termios.tcsetattr(handle, termios.TCSAFLUSH, saved)  # drops what arrives late
    except (OSError, termios.error):
        return TerminalAnswers()
    finally:
        os.close(handle)
    return _parse_answers(answer.decode("ascii", "replace"), cell)


def _read_cell_size(handle: int) -> tuple[int, int]:
    """Return width and height of a cell in pixels, by the window's size; 0 if unknown."""
    rows, columns, width, height = struct.unpack("4H", fcntl.ioctl(handle, termios.TIOCGWINSZ, bytes(8)))
    return (width // columns, height // rows) if rows and columns else (0, 0)


def _build_requests(environ: Mapping[str, str]) -> bytes:
    """Return the requests for background, cell size, colours of sixel, name, kitty's graphics and attributes.

    tmux and screen take kitty's request for a title, and Apple's Terminal prints it.
    """
    is_multiplexed = bool(environ.get("TMUX") or environ.get("STY"))
    is_multiplexed |= environ.get("TERM", "").startswith(("screen", "tmux"))
    is_safe = not is_multiplexed and environ.get("TERM_PROGRAM") != "Apple_Terminal"
    kitty = b"\x1b[>q\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\" if is_safe else b""
    return b"\x1b]11;?\x1b\\\x1b[16t\x1b[?1;1;0S" + kitty + b"\x1b[c"


def _parse_answers(text: str, cell: tuple[int, int]) -> TerminalAnswers:
    """Return what the answers say. cell: see `_read_cell_size`."""
    background = None
    if colour := re.search(r"\]11;rgba?:([0-9a-f]+)/([0-9a-f]+)/([0-9a-f]+)", text, re.IGNORECASE):
        red, green, blue = (round(255 * int(part, 16) / (16 ** len(part) - 1)) for part in colour.groups())
        background = red, green, blue
    return TerminalAnswers(background, _find_pixel_support(text, cell), bool(re.search(_LAST_ANSWER, text)))


def _find_pixel_support(text: str, cell: tuple[int, int]) -> PixelSupport | None:
    # others answer kitty's request, but do not know its Unicode placeholders
    name = re.search(r"\x1bP>\|(kitty|ghostty)[( ](\d+)\.(\d+)", text)
    has_placeholders = name and (name[1] == "ghostty" or (int(name[2]), int(name[3])) >= (0, 28))
    if has_placeholders and re.search(r"\x1b_Gi=31;OK", text):
        return PixelSupport("kitty")
    if size := re.search(r"\x1b\[6;(\d+);(\d+)t", text):
        cell = int(size[2]), int(size[1])
    attributes = re.search(r"\x1b\[\?([\d;]*)c", text)
    if not all(cell) or attributes is None or "4" not in attributes[1].split(";"):
        return None
    colours = re.search(r"\x1b\[\?1;0;(\d+)S", text)
    return PixelSupport("sixel", cell, min(int(colours[1]), 256) if colours else 256)


class CapturedOutput:
    """What libraries printed while the console was open, in a file of limited size."""

    MOST_BYTES = 2**20  #: size at which the output is discarded
    TAIL_BYTES = 2000  #: printed when the console ends

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def trim(self) -> None:
        """Discard the output when it exceeds `MOST_BYTES`."""
        if os.fstat(self._file.fileno()).st_size > self.MOST_BYTES:
            os.ftruncate(self._file.fileno(), 0)

    def read_tail(self) -> str:
        """Return the last `TAIL_BYTES` as text."""
        size, most = os.fstat(self._file.fileno()).st_size, self.TAIL_BYTES
        return os.pread(self._file.fileno(), most, max(size - most, 0)).decode("utf-8", "replace")


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


class Governor:
    """Limits on the console's processor time and terminal output: two token buckets.

    Only unrequested redraws are delayed, never the response to a key press. A debt is limited to the size of
    a bucket, so that a busy minute does not freeze the screen for minutes.
    """

    SHARE = 0.02  #: of a core, while a run is computed in this process
    BURST_SECONDS = 0.2  #: allowance of processor time after an idle time
    BYTES_PER_SECOND = 8_000  #: to the terminal
    BURST_BYTES = 24_000  #: allowance likewise: a whole page may be drawn at once

    def __init__(self) -> None:
        self._now, self._spent, self._written = time.monotonic(), time.thread_time(), 0
        self._seconds, self._bytes = self.BURST_SECONDS, float(self.BURST_BYTES)

    def may_draw(self, written: int, is_computing: bool) -> bool:
        """Return whether an unrequested redraw is within the limits.

        written: bytes sent to the terminal so far. is_computing: a run is computed in this process.
        """

        def refill(level: float, added: float, capacity: float) -> float:
            return min(max(level, -capacity) + added, capacity)

        now, spent = time.monotonic(), time.thread_time()
        elapsed = now - self._now
        used = spent - self._spent if is_computing else 0.0
        sent = written - self._written
        self._now, self._spent, self._written = now, spent, written
        self._seconds = refill(self._seconds - used, self.SHARE * elapsed, self.BURST_SECONDS)
        self._bytes = refill(self._bytes - sent, self.BYTES_PER_SECOND * elapsed, self.BURST_BYTES)
        return self._bytes > 0 and (not is_computing or self._seconds > 0)


class AsciiFilter(LineFilter):
    """Replaces every character by ASCII of the same width, for terminals without Unicode."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the segments in ASCII."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]


class _Spans(ChopsUpdate):
    """An update that sends only the changed cells of a line; Textual also sends those left of them."""

    def render_segments(self, console: Console) -> str:
        """Return each span, after a cursor move to its first changed cell."""
        parts: list[str] = []
        for y, first, last in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= last or end <= first:
                    continue
                span = strip.crop(max(first - x, 0), min(end, last) - x)
                parts += [Control.move_to(max(first, x), y).segment.text, span.render(console)]
        return "".join(parts)


def keep_only_changes(update: RenderableType | None) -> RenderableType | None:
    """Convert a partial update of Textual to spans of changed cells; return anything else unchanged."""
    return _Spans(update.chops, update.spans, update.chop_ends) if isinstance(update, ChopsUpdate) else update
