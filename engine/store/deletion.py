"""A run taken off the disk, whole."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from engine.errors import UserError
from engine.store import files
from engine.store.files import remove, remove_tree
from engine.store.folders import MANIFEST, is_run
from engine.store.lock import Owner

HINT = "ask for the right to write there, or delete the folder by hand"


def delete(folder: Path) -> None:
    """Delete a run's folder, also where the disk is full; cut in between, it is no run any more.

    What deletions of a run of that name left that were cut is deleted, too.
    Raises UserError("usage") where it is no run, UserError("disk") where a process has it or it cannot be
    removed.
    """
    try:
        _delete(folder.resolve())
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError("disk", f"cannot delete {folder}: {reason}", HINT) from error


def _delete(folder: Path) -> None:
    if not is_run(folder):
        raise UserError("usage", f"{folder} holds no run", "`cfm runs` lists the runs")
    owner = Owner(folder, described=False)
    try:
        aside = _fresh(folder)
        files.rename(folder, aside, HINT)
    finally:
        owner.release()
    remove(aside / MANIFEST, HINT)
    for place in (aside, *_leftovers(folder)):
        remove_tree(place)


def _fresh(folder: Path) -> Path:
    """A name beside the run's that nothing has yet."""
    aside, number = folder.with_name(f".{folder.name}.deleted"), 2
    while os.path.lexists(aside):
        aside = folder.with_name(f".{folder.name}.deleted-{number}")
        number += 1
    return aside


def _leftovers(folder: Path) -> Iterator[Path]:
    """What deletions of runs of this name set aside; what is a run still may be at work."""
    ours = re.compile(rf"\.{re.escape(folder.name)}\.deleted(-\d+)?")
    return (entry for entry in folder.parent.iterdir() if ours.fullmatch(entry.name) and not is_run(entry))
