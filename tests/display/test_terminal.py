"""What a terminal is taken to show, by what the environment says, and text for those with ASCII only."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cfm_tui.display.terminal import PixelSupport, Terminal, detect, environment, images, to_ascii

UTF8 = {"LANG": "en_GB.UTF-8"}


def colours(**environ: str) -> object:
    return detect({**UTF8, **environ}, "utf-8").colours


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm"}, 16),
        ({"TERM": "screen"}, 16),
        ({"TERM": "xterm-256color"}, 256),
        ({"TERM": "screen-256color"}, 256),
        ({"TERM": "tmux-256color", "COLORTERM": "truecolor"}, "true"),
        ({"TERM": "xterm-256color", "COLORTERM": "24bit"}, "true"),
        ({"TERM": "xterm-256color", "COLORTERM": "yes"}, 256),
        ({"TERM": "xterm-direct"}, "true"),
        ({"TERM": "xterm-kitty"}, "true"),
        ({"TERM": "screen-256color", "COLORTERM": "truecolor", "STY": "12.pts"}, 256),
        ({"TERM": "linux"}, 16),
        ({"TERM": "linux", "COLORTERM": "truecolor"}, 16),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, 0),
        ({"TERM": "vt220"}, 0),
        ({}, 0),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, 0),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": "0"}, 0),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, 256),
    ],
)
def test_colours(environ, expected) -> None:
    assert colours(**environ) == expected


@pytest.mark.parametrize(
    ("environ", "encoding", "unicode"),
    [
        ({"LANG": "en_GB.UTF-8"}, "utf-8", True),
        ({"LANG": "en_GB.utf8"}, None, True),
        ({"LANG": "C.UTF-8"}, "UTF-8", True),
        ({}, "utf-8", False),
        ({"LANG": "C"}, "utf-8", False),
        ({"LANG": "de_DE.ISO-8859-1"}, "utf-8", False),
        ({"LC_ALL": "C", "LANG": "en_GB.UTF-8"}, "utf-8", False),
        ({"LC_ALL": "", "LANG": "en_GB.UTF-8"}, "utf-8", True),
        ({"LC_CTYPE": "POSIX", "LANG": "en_GB.UTF-8"}, "utf-8", False),
        ({"LC_CTYPE": "en_GB.UTF-8", "LANG": "C"}, "utf-8", True),
        ({"LC_ALL": "C.UTF-8", "LC_CTYPE": "C", "LANG": "C"}, "utf-8", True),
        ({"LANG": "en_GB.UTF-8"}, "ascii", False),
        ({"LANG": "en_GB.UTF-8"}, "iso8859-1", False),
    ],
)
def test_the_locale_says_whether_there_is_more_than_ascii(environ, encoding, unicode) -> None:
    found = detect({"TERM": "xterm-256color", **environ}, encoding)
    assert found == Terminal(unicode=unicode, braille=unicode, blocks=unicode, colours=256)


def test_the_linux_console_has_blocks_and_no_braille() -> None:
    assert detect({"TERM": "linux", **UTF8}, "utf-8") == Terminal(True, False, True, 16)
    assert detect({"TERM": "linux"}, "utf-8") == Terminal(False, False, False, 16)


@pytest.mark.parametrize(
    ("environ", "unicode"),
    [
        ({}, False),
        ({"LANG": "C"}, False),
        ({"LC_CTYPE": "C"}, False),
        ({"LC_ALL": "C"}, False),
        ({"LANG": "C.UTF-8"}, True),
        ({"LC_CTYPE": "C.UTF-8"}, True),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads what the kernel keeps")
def test_pythons_own_change_of_the_locale_says_nothing_of_the_terminal(environ, unicode) -> None:
    code = (
        "import os; from cfm_tui.display.terminal import *;"
        "found = detect(environment(os.environ), None).unicode; print('unicode', found)"
    )
    environ = {**environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["unicode", str(unicode)]


def test_an_environment_without_record_is_as_it_is(tmp_path) -> None:
    environ = {"LC_CTYPE": "C.UTF-8", "TERM": "xterm"}
    assert environment(environ, tmp_path / "none") == environ
    (tmp_path / "empty").touch()
    assert environment(environ, tmp_path / "empty") == environ


def test_images_are_in_colour_where_there_are_blocks_and_256_colours() -> None:
    rich, poor = Terminal(True, True, True, 256), Terminal(True, False, True, 16)
    plain, grey = Terminal(False, False, False, 256), Terminal(True, True, True, 0)
    assert [images("auto", one) for one in (rich, poor, plain, grey)] == ["half", "ascii", "ascii", "ascii"]
    assert [images("half", one) for one in (rich, poor, plain, grey)] == ["half", "half", "ascii", "ascii"]
    assert {images("ascii", one) for one in (rich, poor, plain, grey)} == {"ascii"}
    assert {images("off", one) for one in (rich, poor, plain, grey)} == {"off"}


def test_images_are_in_pixels_where_the_terminal_says_so_and_shows_colours() -> None:
    said = Terminal(True, True, True, 256, PixelSupport("sixel"))
    silent, grey = replace(said, pixels=None), replace(said, colours=0)
    assert [images("auto", one) for one in (said, silent, grey)] == ["sixel", "half", "ascii"]
    assert [images("kitty", one) for one in (said, silent, grey)] == ["kitty", "kitty", "ascii"]
    assert [images("half", one) for one in (said, silent, grey)] == ["half", "half", "ascii"]
    assert images("off", said) == "off"


def test_known_characters_become_alike_ones() -> None:
    assert to_ascii("┌─┬─┐│ β → Ψ λ · … █ ▁▃▇ ⣿⠁") == "+-+-+| b > P l . . # -:# #."
    assert to_ascii("Épée, naïve, 数") == "Epee, naive, ??"
    assert to_ascii("83.9 ± 1.1  ↺ relabel") == "83.9+/-1.1  = relabel"
    assert to_ascii("plain [x] ~") == "plain [x] ~"


@given(st.text(st.characters(exclude_categories=("Cc", "Cs"))))
def test_ascii_takes_as_many_cells(text: str) -> None:
    plain = to_ascii(text)
    assert plain.isascii()
    assert len(plain) == cell_len(text)
