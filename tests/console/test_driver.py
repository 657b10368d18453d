"""What reaches the terminal: its allowances, its characters, and what libraries print."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from bare import ASCII, Bare, play
from textual import events

from cfm_tui.console import driver
from cfm_tui.console.driver import AsciiFilter, Governor, TerminalAnswers
from cfm_tui.console.preferences import choose_theme
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.display.charts import Line
from cfm_tui.display.terminal import PixelSupport


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = self.spent = 0.0
        monkeypatch.setattr(driver.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(driver.time, "thread_time", lambda: self.spent)


def test_bytes_stay_within_their_rate(monkeypatch):
    clock = Clock(monkeypatch)
    allowed, sent = Governor(), 0
    for _ in range(1200):  # ten minutes at two frames a second
        clock.now += 0.5
        if allowed.may_draw(sent, is_computing=False):
            sent += 20_000
    assert sent <= 600 * Governor.BYTES_PER_SECOND + 2 * Governor.BURST_BYTES
    assert sent >= 0.9 * 600 * Governor.BYTES_PER_SECOND


def test_drawing_takes_no_more_than_its_share_of_a_core(monkeypatch):
    clock = Clock(monkeypatch)
    allowed, frames = Governor(), 0
    for _ in range(1200):
        clock.now += 0.5
        if allowed.may_draw(0, is_computing=True):
            clock.spent += 0.05
            frames += 1
    assert clock.spent <= 600 * Governor.SHARE + 2 * Governor.BURST_SECONDS
    assert frames >= 0.9 * 600 * Governor.SHARE / 0.05


def test_nobody_is_spared_where_no_run_is_computed_here(monkeypatch):
    clock = Clock(monkeypatch)
    allowed = Governor()
    for _ in range(100):
        clock.now += 0.5
        clock.spent += 0.5
        assert allowed.may_draw(0, is_computing=False)


def test_a_busy_while_is_not_paid_for_with_a_long_silence(monkeypatch):
    clock = Clock(monkeypatch)
    allowed = Governor()
    clock.now, clock.spent = 1.0, 60.0
    assert not allowed.may_draw(10**9, is_computing=True)
    clock.now += 1 + Governor.BURST_SECONDS / Governor.SHARE
    assert allowed.may_draw(10**9, is_computing=True)


def test_what_libraries_print_is_kept_off_the_screen_and_told_at_the_end(capfd, monkeypatch):
    monkeypatch.setattr(driver.CapturedOutput, "MOST_BYTES", 5000)
    with driver.capture_output() as captured:
        os.write(1, b"lost\n" * 2000)
        captured.trim()
        os.write(2, b"a library warns\n")
        captured.trim()
        assert captured.read_tail() == "a library warns\n"
        os.write(1, b"x" * 3000)
        assert captured.read_tail() == "x" * driver.CapturedOutput.TAIL_BYTES
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "")


def curve(rows: int = 200, name: str = "CE") -> Line:
    x = np.arange(float(rows))
    return Line(name, x, 1 + np.exp(-x / 50))


def test_every_character_is_ascii_through_the_filter() -> None:
    app = Bare(Chart(), ASCII)
    app._filters.append(AsciiFilter())

    async def story(pilot) -> None:
        app.widget.styles.border = ("round", "white")
        app.widget.border_title = "Ψ beside Ψs"
        app.widget.plot([curve()], title="β")
        await pilot.pause()
        drawn = [strip.text for strip in app.screen._compositor.render_strips()]
        assert all(line.isascii() and len(line) == 60 for line in drawn)
        assert "P beside Ps" in drawn[0]

    play(app, story)


DARK = b"\x1b]11;rgb:1c/1c/1c\x07"
KITTY, DA1, SIXEL = b"\x1b_Gi=31;OK\x1b\\", b"\x1b[?62;22c", b"\x1b[?62;4;22c"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\x1b]11;rgb:ffff/8080/0000\x1b\\" + DA1, TerminalAnswers((255, 128, 0))),
        (DARK + b"\x1b[?1c", TerminalAnswers((28, 28, 28))),
        (b"\x1b[?1;2c", TerminalAnswers()),
        (b"", TerminalAnswers()),
        (b"\x1bP>|kitty(0.35.2)\x1b\\" + KITTY + DA1, TerminalAnswers(None, PixelSupport("kitty"))),
        (
            DARK + b"\x1bP>|ghostty 1.2.0\x1b\\" + KITTY + DA1,
            TerminalAnswers((28,) * 3, PixelSupport("kitty")),
        ),
        (b"\x1bP>|kitty(0.26.5)\x1b\\" + KITTY + DA1, TerminalAnswers()),  # without placeholders
        (b"\x1bP>|kitty(0.35.2)\x1b\\\x1b_Gi=31;ENOTSUPPORTED\x1b\\" + DA1, TerminalAnswers()),
        (b"\x1b[6;20;10t" + SIXEL, TerminalAnswers(None, PixelSupport("sixel", (10, 20)))),
        (b"\x1b[6;18;9t\x1b[?1;0;16S" + SIXEL, TerminalAnswers(None, PixelSupport("sixel", (9, 18), 16))),
        (b"\x1bP>|WezTerm 2026\x1b\\" + KITTY + SIXEL, TerminalAnswers(None, PixelSupport("sixel", (8, 16)))),
        (b"\x1b[6;20;10t" + DA1, TerminalAnswers()),
    ],
)
def test_the_terminal_is_asked_for_its_background_and_images(answer, told):
    script = (
        "import os; from cfm_tui.console import driver; print(repr(driver.query_terminal(os.environ, 1)))"
    )
    pid, handle = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", TMUX="", STY="", TERM_PROGRAM="")
        os.execv(sys.executable, [sys.executable, "-c", script])
    fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 640, 384))
    asked = b""
    while b"\x1b[c" not in asked:
        asked += os.read(handle, 1024)
    assert b"\x1b]11;?" in asked
    assert b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\" in asked
    os.write(handle, answer)
    said = b""
    with suppress(OSError):
        while part := os.read(handle, 1024):
            said += part
    os.waitpid(pid, 0)
    os.close(handle)
    told = replace(told, are_complete=bool(answer))
    assert said.decode().strip().splitlines()[-1] == repr(told)


def typed(parser, data):
    keys = (event for event in parser.feed(data) if isinstance(event, events.Key))
    return "".join(key.character or key.key for key in keys)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_late_answers_are_not_keys(size):
    answers = DARK + b"\x1b[6;20;10t\x1b[?1;0;256S\x1bP>|kitty(0.35.2)\x1b\\" + KITTY + SIXEL
    taken = []
    parser = driver.AnswerParser(taken.append)
    data = "ab" + answers.decode() + "cd\x1b[A"
    keys = ""
    for start in range(0, len(data), size):
        keys += typed(parser, data[start : start + size])
    assert keys == "abcdup"
    assert taken == [answers.decode()]


def test_answers_that_never_come_hold_nothing_back(monkeypatch):
    clock = Clock(monkeypatch)
    parser = driver.AnswerParser(lambda text: pytest.fail(text))
    assert typed(parser, "a\x1b") == "a"
    assert not list(parser.tick())
    assert parser._part
    clock.now += driver.AnswerParser.PART_SECONDS + 0.1
    list(parser.tick())  # a key follows when Textual's own parser has waited, too
    assert not parser._part
    assert typed(parser, "\x1b_x") == ""
    clock.now += driver.AnswerParser.SECONDS + 1
    typed(parser, "b")  # is passed on with what was held back
    assert not parser._part


@pytest.mark.parametrize(
    "environ", [{"TMUX": "/tmp/tmux"}, {"TERM": "screen"}, {"STY": "1.x"}, {"TERM_PROGRAM": "Apple_Terminal"}]
)
def test_terminals_that_would_show_a_request_are_not_sent_it(environ):
    assert b"_G" not in driver._build_requests(environ)
    assert driver._build_requests(environ).endswith(b"\x1b[c")


def test_the_theme_follows_colours_and_background():
    assert choose_theme(0, (255, 255, 255)) == "cfm-mono"
    assert choose_theme(16, None) == "cfm-16"
    assert choose_theme(256, None) == choose_theme("true", (28, 28, 28)) == "cfm-dark"
    assert choose_theme("true", (250, 250, 240)) == "cfm-light"
