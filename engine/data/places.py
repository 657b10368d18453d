"""Where data sets lie: the user's data folder, and a set inside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine import config
from engine.data.catalogue import KNOWN
from engine.data.layout import refuse


def expanded(path: str | Path) -> Path:
    """The path with the user's own folder for ``~``. Raises UserError("data") for one that cannot be."""
    text = os.path.expanduser(path)
    if text.startswith("~"):
        refuse(f"{path} is in the home folder of nobody known here", "write the whole path out")
    if any(len(os.fsencode(part)) > config.LONGEST for part in text.split(os.sep)):
        refuse(f"{text[:60]}… has a name that is too long for a file", "give another folder")
    return Path(text)


def data_root() -> Path:
    """The user's data folder: CFM_DATA_ROOT, else cfm-tui in XDG_DATA_HOME or ~/.local/share."""
    if own := os.environ.get("CFM_DATA_ROOT"):
        return expanded(own)
    base = os.environ.get("XDG_DATA_HOME")
    return (expanded(base) if base else Path.home() / ".local/share") / "cfm-tui"


def chosen_root(settings: config.Data, root: Path | None = None) -> Path:
    """The folder to look in: `root`, else what the settings say, else the user's data folder."""
    if root is None:
        root = Path(settings.root) if settings.root else data_root()
    return expanded(root)


def candidates(name: str, root: Path) -> Iterator[Path]:
    """Folders in which the set `name` may lie: `root` itself, then those below it by its known names."""
    yield root
    folders = KNOWN[name].folders
    for folder in folders:
        yield root / folder
        for inner in folders:
            yield root / folder / inner
