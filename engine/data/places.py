"""Where data sets lie: the user's data folder, and a set inside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine import config
from engine.data.catalogue import KNOWN


def data_root() -> Path:
    """The user's data folder: CFM_DATA_ROOT, else cfm-tui in XDG_DATA_HOME or ~/.local/share."""
    if own := os.environ.get("CFM_DATA_ROOT"):
        return Path(os.path.expanduser(own))
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(os.path.expanduser(base)) if base else Path.home() / ".local/share") / "cfm-tui"


def chosen_root(settings: config.Data, root: Path | None = None) -> Path:
    """The folder to look in: `root`, else what the settings say, else the user's data folder."""
    if root is None:
        root = Path(settings.root) if settings.root else data_root()
    return Path(os.path.expanduser(root))


def candidates(name: str, root: Path) -> Iterator[Path]:
    """Folders in which the set `name` may lie: `root` itself, then those below it by its known names."""
    yield root
    folders = KNOWN[name].folders
    for folder in folders:
        yield root / folder
        for inner in folders:
            yield root / folder / inner
