"""What a user prefers of the console: `console.yaml` in the user's configuration folder, and flags.

The file may hold ``theme``, ``images``, ``fps`` and ``keys``, the last a mapping of an action's name (as
`?` shows it) to a key, or several with commas.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from engine.errors import UserError

ImageMode = Literal["auto", "ascii", "half", "off"]
IMAGE_MODES: tuple[ImageMode, ...] = get_args(ImageMode)
FPS = 2.0  #: how often, at most, the screen follows a run in a second
FASTEST = 30.0


@dataclass(frozen=True)
class Preferences:
    """theme: a name; None for the one that fits the terminal. keys: by an action's name."""

    theme: str | None = None
    images: ImageMode = "auto"
    fps: float = FPS
    keys: dict[str, str] = field(default_factory=dict)


def config_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's configuration folder: cfm-tui in XDG_CONFIG_HOME or ~/.config."""
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "cfm-tui"


def path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the preferences lie."""
    return config_folder(environ) / "console.yaml"


def read(file: Path, themes: Sequence[str], actions: Callable[[], Sequence[str]]) -> Preferences:
    """The preferences in a file; the defaults where there is none.

    themes, actions: the names that are known, the latter asked for where the file has keys.
    Raises UserError("config") naming what is wrong.
    """
    if not file.exists():
        return Preferences()
    from engine.config import yaml_io

    values = yaml_io.read(file)
    settings = list(Preferences.__dataclass_fields__)
    for name in values:
        if name not in settings:
            raise _unknown(file, "setting", name, settings)
    found = Preferences(**values)
    if found.theme is not None and found.theme not in themes:
        raise _unknown(file, "theme", found.theme, themes)
    if not isinstance(found.keys, dict):
        raise UserError("config", f"{file}: keys is no mapping", "write `keys: {monitor.pause: p}`")
    for name, key in found.keys.items():
        if name not in (known := actions()):
            raise _unknown(file, "action", name, known)
        if not isinstance(key, str) or not key.strip():
            raise UserError(
                "config", f"{file}: keys.{name} is {key!r}, no key", "write a key such as p or ctrl+o"
            )
    return checked(found, str(file))


def checked(found: Preferences, where: str) -> Preferences:
    """The same, its rate and image mode looked at. Raises UserError("config")."""
    if str(found.images) == "False":  # YAML's word for off
        found = replace(found, images="off")
    if found.images not in IMAGE_MODES:
        raise _unknown(where, "images", found.images, IMAGE_MODES)
    if isinstance(found.fps, bool) or not isinstance(found.fps, (int, float)) or not 0 < found.fps <= FASTEST:
        raise UserError(
            "config", f"{where}: fps is {found.fps!r}", f"give a number up to {FASTEST:g}, such as 0.5"
        )
    return found


def _unknown(where: object, what: str, name: Any, known: Sequence[str]) -> UserError:
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
    return UserError("config", f"{where}: unknown {what} {name!r}", hint)
