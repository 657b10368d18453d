"""The console preferences: `console.yaml` in the user's configuration folder, overridden by options.

The file may set ``theme``, ``images``, ``fps``, ``keys`` and ``queries``. Keys map action names (as shown by
`?`) to a key, or to several separated by commas. Queries map a name to a query of the list of runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from textual.theme import Theme

from cfm_tui.display.terminal import Colours, ImageMode
from engine.environment import user_folder
from engine.errors import UserError, suggest_name

_GROUNDS = ("foreground", "background")
_ROLES = ("primary", "secondary", "accent", "success", "warning", "error", *_GROUNDS, "surface", "panel")
_COLOURS = {  # in the order of the roles
    "cfm-dark": "#5fafd7 #af87d7 #d7af5f #5faf5f #d7af00 #d75f5f #d0d0d0 #121212 #1c1c1c #303030",
    "cfm-light": "#005f87 #5f00af #875f00 #005f00 #875f00 #af0000 #262626 #ffffff #eeeeee #d0d0d0",
    # Okabe and Ito's colours, which differ for every common kind of colour blindness
    "cfm-safe": "#56b4e9 #cc79a7 #e69f00 #009e73 #f0e442 #d55e00 #d0d0d0 #000000 #121212 #303030",
    "cfm-nord": "#88c0d0 #b48ead #ebcb8b #a3be8c #d08770 #e06c75 #e5e9f0 #2e3440 #3b4252 #434c5e",
    "cfm-gruvbox": "#83a598 #d3869b #fabd2f #b8bb26 #fe8019 #fb4934 #ebdbb2 #282828 #32302f #504945",
    # the terminal's own colours
    "cfm-16": "ansi_bright_cyan ansi_bright_magenta ansi_bright_yellow ansi_bright_green ansi_yellow"
    " ansi_bright_red ansi_default ansi_default ansi_default ansi_default",
    "cfm-mono": " ".join(["ansi_default"] * len(_ROLES)),
}
_PARTS = ("ansi", "input-selection", "screen-selection", "block-cursor", "input-cursor")
_ANSI_OPTIONS: dict[str, Any] = {
    "ansi": True,
    "boost": "ansi_default",
    "variables": {f"{part}-{ground}": "ansi_default" for part in _PARTS for ground in _GROUNDS}
    | dict.fromkeys(("border-blurred", "footer-key-foreground"), "ansi_default")
    | dict.fromkeys(
        (f"scrollbar{part}" for part in ("", "-hover", "-active", "-background", "-corner-color")),
        "ansi_default",
    )
    | dict.fromkeys(("scrollbar-background-hover", "scrollbar-background-active"), "ansi_default")
    | dict.fromkeys(("block-cursor-text-style", "input-cursor-text-style"), "reverse"),
}

#: Colour themes by name. `cfm-safe` suits colour-blind users, `cfm-16` and `cfm-mono` terminals with few
#: colours. No state is shown by colour alone.
THEMES = {
    name: Theme(
        name,
        dark=name != "cfm-light",
        **dict(zip(_ROLES, colours.split(), strict=True)),  # type: ignore[arg-type]
        **(_ANSI_OPTIONS if name in ("cfm-mono", "cfm-16") else {}),
    )
    for name, colours in _COLOURS.items()
}


def choose_theme(colours: Colours, background: tuple[int, int, int] | None) -> str:
    """Return the theme that suits a terminal. background: its colour, None if it is unknown."""
    if colours in (0, 16):
        return "cfm-16" if colours else "cfm-mono"
    if background is None:
        return "cfm-dark"
    red, green, blue = background
    return "cfm-light" if 0.299 * red + 0.587 * green + 0.114 * blue > 127 else "cfm-dark"


@dataclass(frozen=True)
class Preferences:
    """The preferences of the console.

    theme: a name; None for the one that suits the terminal. images: how thumbnails are drawn. fps: screen
    updates per second. keys: by action name. queries: of the list of runs, by their names.
    """

    theme: str | None = None
    images: ImageMode = "auto"
    fps: float = 2.0
    keys: dict[str, str] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def path() -> Path:
        """Return the path of the preferences file, in the user's configuration folder."""
        return user_folder("config") / "console.yaml"

    @staticmethod
    def read(file: Path, actions: Callable[[], Sequence[str]]) -> Preferences:
        """Load the preferences from a file; the defaults where it does not exist.

        actions: returns the known names; it is called only if the file sets keys.
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
        if loaded.theme is not None and loaded.theme not in THEMES:
            raise _unknown_name_error(file, "theme", loaded.theme, list(THEMES))
        if not isinstance(loaded.keys, dict):
            raise UserError("config", f"{file}: keys is not a mapping", "write `keys: {monitor.pause: p}`")
        for name, key in loaded.keys.items():
            if name not in (known := actions()):
                raise _unknown_name_error(file, "action", name, known)
            if not isinstance(key, str) or not key.strip():
                hint = "write a key such as p or ctrl+o"
                raise UserError("config", f"{file}: keys.{name} is {key!r}, not a key", hint)
        _require_queries(file, loaded.queries)
        return loaded.validate(str(file))

    def with_query(self, name: str, text: str) -> Preferences:
        """Return the preferences with a query, which replaces one of the same name."""
        return replace(self, queries={**self.queries, name: text})

    def validate(self, source: str) -> Preferences:
        """Return the preferences with a normalised image mode.

        source: named by errors. Raises UserError("config") for an invalid image mode or fps.
        """
        images: Any = "off" if str(self.images) == "False" else self.images  # how YAML reads `off`
        if images not in get_args(ImageMode):
            raise _unknown_name_error(source, "images", images, get_args(ImageMode))
        if isinstance(self.fps, bool) or not isinstance(self.fps, (int, float)) or not 0 < self.fps <= 30:
            raise UserError("config", f"{source}: fps is {self.fps!r}", "give a number up to 30, such as 0.5")
        return replace(self, images=images)


def _require_queries(file: Path, queries: object) -> None:
    """Raise UserError("config") unless `queries` maps names to valid queries."""
    if not isinstance(queries, dict):
        hint = "write `queries: {best: acc>50 state=finished}`"
        raise UserError("config", f"{file}: queries is not a mapping", hint)
    from cfm_tui.display import run_query

    for name, text in queries.items():
        if not isinstance(text, str):
            raise UserError(
                "config", f"{file}: queries.{name} is {text!r}, not a query", "write it in quotes"
            )
        try:
            run_query.parse(text)
        except UserError as error:
            raise UserError("config", f"{file}: queries.{name}: {error.message}", error.hint) from error


def write_queries(file: Path, queries: Mapping[str, str]) -> None:
    """Replace the queries in a preferences file, and keep its other lines, with their comments.

    Raises UserError("config") where the file has them in a form that cannot be replaced, UserError("disk").
    """
    from engine.config import yaml_io
    from engine.store import files

    kept: list[str] = []
    is_inside = False
    for line in file.read_text("utf-8").splitlines() if file.exists() else []:
        is_inside = line.startswith("queries:") or (is_inside and line[:1] in (" ", "\t"))
        kept += [] if is_inside else [line]
    entries = (f"  {json.dumps(name)}: {json.dumps(text)}" for name, text in queries.items())
    text = "\n".join([*kept, "queries:", *entries, ""])
    values = yaml_io.read(file) if file.exists() else {}
    try:
        is_as_meant = yaml_io.parse(text, str(file)) == {**values, "queries": dict(queries)}
    except UserError:
        is_as_meant = False
    if not is_as_meant:
        hint = "write each query on a line of its own below `queries:`"
        raise UserError("config", f"{file}: its queries cannot be replaced", hint)
    files.make_folders(file.parent, hint="make the folder writable")
    files.write(file, text.encode(), hint="make the file writable")


def _unknown_name_error(source: object, kind: str, name: Any, known: Sequence[str]) -> UserError:
    hint = suggest_name(str(name), known, f"use one of {', '.join(known)}")
    return UserError("config", f"{source}: unknown {kind} {name!r}", hint)
