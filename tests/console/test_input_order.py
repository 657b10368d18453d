"""Bursts of keys: what is typed is what a field holds, and no key of a field is a command of the page."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest
from commandline import REPOSITORY
from consoles import burst, console, drive, until
from forms import Recorded, focused, opened, played, tell
from textual.events import Paste

from cfm_tui.console.screens.configure import ConfigurePage
from cfm_tui.console.screens.dialogs import Pick, Question
from cfm_tui.console.screens.runs import RunsPage

LETTERS = "0123456789.-e=tlpwcvdsjkgGqnrfy?/"
KEYS = ("backspace", "delete", "left", "right", "up", "down", "home", "end", "enter", "escape")
CODES = {"backspace": "\x7f", "delete": "\x1b[3~", "down": "\x1b[B", "home": "\x1b[H", "enter": "\r"}


async def settled(pilot):
    """Wait until the application has taken all keys, and no longer: each must have had its effect."""
    taken = asyncio.Event()
    pilot.app.call_later(taken.set)
    await taken.wait()


class Model:
    """What a form with these fields must do: a text, a cursor, and whether everything is selected."""

    def __init__(self, names, choices):
        self.names, self.choices = names, choices
        self.texts = dict.fromkeys(names, "")
        self.at, self.text = 0, None
        self.cursor, self.selected, self.menu = 0, False, None

    def press(self, key):
        if self.menu is not None:
            self._press_in_list(key)
        elif self.text is None:
            self._press_outside(key)
        elif key in ("up", "down", "enter"):
            self.texts[self.names[self.at]], self.text = self.text, None
            self._move({"up": -1, "down": 1, "enter": 0}[key])
        elif key == "escape":
            self.text = None
        else:
            self._edit(key)

    def _move(self, step):
        self.at = (self.at + step) % len(self.names)

    def _press_outside(self, key):
        name = self.names[self.at]
        options = self.choices.get(name)
        if key in ("up", "down"):
            self._move(1 if key == "down" else -1)
        elif key == "enter" and options:
            self.menu = options.index(self.texts[name])
        elif key == "enter":
            self.text = self.texts[name]
            self.cursor, self.selected = len(self.text), bool(self.text)
        elif key in ("left", "right") and options:
            index = options.index(self.texts[name]) + (1 if key == "right" else -1)
            self.texts[name] = options[index % len(options)]

    def _press_in_list(self, key):
        options = self.choices[self.names[self.at]]
        if key in ("up", "down"):
            self.menu = (self.menu + (1 if key == "down" else -1)) % len(options)
        elif key in ("home", "end"):
            self.menu = 0 if key == "home" else len(options) - 1
        elif key == "enter":
            self.texts[self.names[self.at]] = options[self.menu]
            self.menu = None
        elif key == "escape":
            self.menu = None

    def _edit(self, key):
        before, after = self.text[: self.cursor], self.text[self.cursor :]
        if self.selected and key in ("left", "home"):
            before, after = "", self.text
        elif self.selected and key in ("right", "end"):
            before, after = self.text, ""
        elif self.selected:
            before, after = key if len(key) == 1 else "", ""
        elif key == "backspace":
            before = before[:-1]
        elif key == "delete":
            after = after[1:]
        elif key == "left":
            before, after = before[:-1], before[-1:] + after
        elif key == "right":
            before, after = before + after[:1], after[1:]
        elif key == "home":
            before, after = "", before + after
        elif key == "end":
            before, after = before + after, ""
        else:
            before += key
        self.text, self.cursor, self.selected = before + after, len(before), False


def test_random_bursts_are_stored_as_typed(place, monkeypatch):
    """Each sequence is posted at once; fields and a model of them must agree after it."""
    monkeypatch.setattr(ConfigurePage, "tick", lambda page: None)

    async def script(pilot, page):
        tell(page)
        app, draws = pilot.app, random.Random(0)
        names = ("protocol", "recover.lr", "recover.iterations", "validate.students", "line 0")
        fields = [page.find_entry(name) for name in names]
        for entry in fields:
            entry._suggestions = ()
        choices = {each.name: list(each.choices) for each in fields if each.choices}
        model = Model([each.name for each in fields], choices)
        monkeypatch.setattr(page, "list_stops", lambda: fields)
        monkeypatch.setattr(page, "show", lambda: None)  # keeps what was typed, whether it is valid or not
        monkeypatch.setattr(page.form, "check", lambda: page.form.checked)
        commands = []
        for name in ("launch", "preset", "write", "copy", "estimate", "download", "layer", "panel", "fill"):
            monkeypatch.setattr(page, f"action_{name}", lambda *_, name=name: commands.append(name))
        for name in ("help", "runs", "configure", "export", "traceback", "quit"):
            monkeypatch.setattr(app, f"action_{name}", lambda *_, name=name: commands.append(name))
        for number in range(500):
            model.at = draws.randrange(len(fields))
            page.go(fields[model.at])
            for entry in fields:
                model.texts[entry.name] = entry.value
            if fields[model.at].choices:
                keys = draws.choices(("left", "right", "enter", "up", "down"), k=draws.randint(1, 30))
            else:
                keys = ["enter"]
                keys += draws.choices([*LETTERS, *KEYS[:4], *KEYS[6:8]], k=draws.randint(0, 28))
                keys.append(draws.choice(KEYS[4:6] + KEYS[8:]))
            burst(app, *keys)
            for key in keys:
                model.press(key)
            await settled(pilot)
            end = "escape" if model.menu is not None else "enter" if model.text is not None else ""
            if end:
                model.press(end)
                burst(app, end)
                await settled(pilot)
            assert {each.name: each.value for each in fields} == model.texts, (number, " ".join(keys))
            assert focused(page) is fields[model.at], (number, keys)
            assert app.screen is page, (number, keys)
            assert commands == [], (number, keys)

    played(opened(place, kind=Recorded), script)


@pytest.mark.parametrize("length", [1, 2, 5, 12, 30])
def test_a_burst_replaces_a_number(place, length):
    text = ("0.05" + "0" * 30)[:length]

    async def script(pilot, page):
        page.go(page.find_entry("recover.lr"))
        burst(pilot.app, "enter", *text, "enter")
        await settled(pilot)
        assert page.find_entry("recover.lr").value == text
        assert focused(page).name == "recover.lr"

    played(opened(place), script)


def test_four_downs_move_four_fields(place):
    async def script(pilot, page):
        stops = page.list_stops()
        page.go(stops[0])
        burst(pilot.app, "down", "down", "down", "down")
        await settled(pilot)
        assert focused(page) is stops[4]
        burst(pilot.app, "4", "down", "down", "enter", "7", "enter", "up", "enter", "3", "tab", "tab")
        await settled(pilot)
        assert page.form.texts == {"ipc": "3", "recover.iterations": "7"}

    played(opened(place), script)


def test_keys_wait_for_the_page_that_an_earlier_key_opens(place):
    async def script(pilot):
        assert isinstance(pilot.app.screen, RunsPage)
        burst(
            pilot.app, "n", "4", "down", "enter", "7", "enter", "p", "escape", "w", *"mine", "backspace", "e"
        )
        await settled(pilot)
        assert isinstance(pilot.app.screen, Question)
        await until(pilot, "mine")
        await pilot.press("escape")
        assert pilot.app.screen.form.texts == {"ipc": "7"}

    drive(console(place / "runs"), script)


def test_a_paste_keeps_its_place_among_keys(place):
    async def script(pilot, page):
        page.go(page.find_entry("backbone.teacher"))
        burst(pilot.app, "enter", "a")
        pilot.app.post_message(Paste("l\x1bpw/q\nx"))
        burst(pilot.app, "z", "left", "b", "enter")
        await settled(pilot)
        assert page.form.texts == {"backbone.teacher": "alpw/qbz"}
        assert pilot.app.screen is page

    played(opened(place), script)


def test_an_open_list_takes_the_keys(place):
    async def script(pilot, page):
        page.go(page.find_entry("objective.schedule.kind"))
        burst(pilot.app, "enter", "j")
        await settled(pilot)
        assert isinstance(pilot.app.screen, Pick)
        burst(pilot.app, "enter", "down", "enter")
        await settled(pilot)
        assert page.form.config.objective.schedule.kind == "linear"
        assert isinstance(pilot.app.screen, Pick) or focused(page).editing

    played(opened(place), script)


class Session:
    """The console in a pseudo-terminal of its own."""

    def __init__(self, folder):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)}
        code = "from cfm_tui.cli import console; console()"
        words = [sys.executable, "-c", code, "--preset", "smoke"]
        self.process = subprocess.Popen(
            words, cwd=folder, env=environ, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.master, self.output = master, b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            self.output += data

    def send(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, text, seconds=60):
        """Wait until a text was drawn."""
        for _ in range(int(seconds / 0.05)):
            drawn = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", self.output).decode(errors="replace")
            if text in drawn:
                return
            time.sleep(0.05)
        raise AssertionError(f"never drawn: {text}\n{drawn[-3000:]}")

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        os.close(self.master)


@pytest.fixture
def session(place):
    opened_session = Session(place)
    yield opened_session
    opened_session.close()


def test_a_terminal_that_sends_everything_at_once(session):
    """The bytes of a slow connection: keys, editing keys as escape sequences, a paste, in one write."""
    session.wait_for("data set")
    replace = CODES["enter"] + "9lqt" + CODES["backspace"] * 3 + CODES["home"] + CODES["delete"]
    number = CODES["down"] * 3 + replace + "0.05" + CODES["enter"]
    teacher = "2" + CODES["down"] * 4 + CODES["enter"] + "/tlpq/\x1b[200~wn?\x1b[201~x" + CODES["enter"]
    session.send("4" + number + teacher + "5")
    session.wait_for("recover.lr=0.05")
    session.wait_for("backbone.teacher=/tlpq/wn?x")


def test_a_burst_fills_a_line_that_it_has_just_brought_up(place):
    async def script(pilot, page):
        page.go(page.find_entry("line 0"))
        burst(pilot.app, "enter", *"ipc=2", "down", "enter", *"seed=4", "backspace", "3", "enter")
        await settled(pilot)
        assert page.form.lines == ["ipc=2", "seed=3"]
        assert focused(page).name == "line 1"
        await pilot.pause()
        assert page.form.config.seed == 3

    played(opened(place), script)
