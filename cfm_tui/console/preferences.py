"""The console preferences: `console.yaml` in the user's configuration folder, overridden by options.

The file may set ``theme``, ``images``, ``fps`` and ``keys``. The last maps action names (as shown by `?`) to
a key, or to several separated by commas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from platformdirs.unix import Unix

from engine.errors import UserError, suggest_name

ImageMode = Literal["auto", "ascii", "half", "off"]
IMAGE_MODES: tuple[ImageMode, ...] = get_args(ImageMode)
FPS = 2.0  #: default screen updates per second
MAX_FPS = 30.0


@dataclass(frozen=True)
class Preferences:
    """The preferences of the console.

    theme: a name; None for the one that suits the terminal. images: how thumbnails are drawn. fps: screen
    updates per second. keys: by action name.
    """

    theme: str | None = None
    images: ImageMode = "auto"
    fps: float = FPS
    keys: dict[str, str] = field(default_factory=dict)


def path() -> Path:
    """Return the path of the preferences file, in the user's configuration folder."""
    return Unix("cfm-tui").user_config_path / "console.yaml"


def read(file: Path, themes: Sequence[str], actions: Callable[[], Sequence[str]]) -> Preferences:
    """Load the preferences from a file; the defaults where it does not exist.

    themes: the known names. actions: returns the known names; it is called only if the file sets keys.
    Raises UserError("config") naming the invalid preference.
    """
    if not file.exists():
        return Preferences()
    from engine.config import yaml_io

    values = yaml_io.read(file)
    settings = list(Preferences.__dataclass_fields__)
    for name in values:
        if name not in settings:
            raise _unknown_name_error(file, "setting", name, settings)
    loaded = Preferences(**values)
    if loaded.theme is not None and loaded.theme not in themes:
        raise _unknown_name_error(file, "theme", loaded.theme, themes)
    if not isinstance(loaded.keys, dict):
        raise UserError("config", f"{file}: keys is not a mapping", "write `keys: {monitor.pause: p}`")
    for name, key in loaded.keys.items():
        if name not in (known := actions()):
            raise _unknown_name_error(file, "action", name, known)
        if not isinstance(key, str) or not key.strip():
            raise UserError(
                "config", f"{file}: keys.{name} is {key!r}, not a key", "write a key such as p or ctrl+o"
            )
    return validate(loaded, str(file))


def validate(preferences: Preferences, source: str) -> Preferences:
    """Return the preferences with a normalised image mode.

    source: named by errors. Raises UserError("config") for an invalid image mode or fps.
    """
    if str(preferences.images) == "False":  # how YAML reads `off`
        preferences = replace(preferences, images="off")
    if preferences.images not in IMAGE_MODES:
        raise _unknown_name_error(source, "images", preferences.images, IMAGE_MODES)
    fps = preferences.fps
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= MAX_FPS:
        raise UserError(
            "config", f"{source}: fps is {fps!r}", f"give a number up to {MAX_FPS:g}, such as 0.5"
        )
    return preferences


def _unknown_name_error(source: object, kind: str, name: Any, known: Sequence[str]) -> UserError:
    hint = suggest_name(str(name), known, f"use one of {', '.join(known)}")
    return UserError("config", f"{source}: unknown {kind} {name!r}", hint)
