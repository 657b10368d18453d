"""Locations of data sets: the user's data folder, and folders of a set inside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine import config
from engine.data.catalogue import KNOWN
from engine.data.layout import refuse


def expanded(path: str | Path) -> Path:
    """Return the path with ``~`` expanded. Raises UserError("data") for unknown users or too long names."""
    text = os.path.expanduser(path)
    if text.startswith("~"):
        refuse(f"{path} names the home folder of an unknown user", "give the full path")
    if any(len(os.fsencode(part)) > config.LONGEST for part in text.split(os.sep)):
        refuse(f"{text[:60]}… has a name that is too long for a file", "give another folder")
    return Path(text)


def data_root() -> Path:
    """Return the user's data folder: CFM_DATA_ROOT, else cfm-tui in XDG_DATA_HOME or ~/.local/share."""
    from platformdirs.unix import Unix

    return expanded(os.environ.get("CFM_DATA_ROOT") or Unix("cfm-tui").user_data_path)


def chosen_root(settings: config.Data, root: Path | None = None) -> Path:
    """Return the folder to search: `root`, else that of the settings, else the user's data folder."""
    if root is None:
        root = Path(settings.root) if settings.root else data_root()
    return expanded(root)


def iter_candidates(name: str, root: Path) -> Iterator[Path]:
    """Yield the folders that may contain the set `name`: `root`, then folders below it with known names."""
    yield root
    folders = KNOWN[name].folders
    for folder in folders:
        yield root / folder
        for inner in folders:
            yield root / folder / inner
