"""The standard streams, made safe to write to whatever they are: closed, full, or of a narrow encoding."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from contextlib import suppress

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


def prepare_standard_streams() -> None:
    """Replace closed standard streams by the null device, and characters that a stream cannot encode.

    Closed descriptors are opened in their order, so that no file of the run gets one of them. A character
    outside the encoding of stdout or stderr is written as a similar ASCII character, else as ``?``.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
            os.set_inheritable(descriptor, True)
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null_stream = open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, null_stream)
            setattr(sys, f"__{name}__", null_stream)
    codecs.register_error("similar", _replace_by_similar)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # of a stream whose descriptor became another file
                stream.reconfigure(errors="similar")


def _replace_by_similar(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    from cfm_tui.display.terminal import to_ascii  # imports rich, which few outputs need

    return to_ascii(error.object[error.start : error.end]), error.end


def escape_control_characters(text: str, *, coloured: bool = False) -> str:
    """Escape characters by which a name could control the terminal; tabs and line ends remain.

    coloured: keep the escape sequences of colours.
    """
    from engine.errors import escape_name  # commands start without the engine

    pieces = _COLOUR.split(text) if coloured else [text]  # each second piece is a colour
    pieces[::2] = (re.sub(r"[^\n\t]+", lambda part: escape_name(part[0]), piece) for piece in pieces[::2])
    return "".join(pieces)


def discard_output(*descriptors: int) -> None:
    """Redirect these descriptors to the null device: nobody can read them any more."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(null_device, descriptor)
    os.close(null_device)
