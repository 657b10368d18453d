"""Deletion of a run's folder."""

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

HINT = "get write permission for that folder, or delete it by hand"


def delete(folder: Path) -> None:
    """Delete a run's folder, even if the disk is full; after an interrupted deletion it is no longer a run.

    Also removes leftovers of interrupted deletions of runs with the same name.
    Raises UserError("usage") if it is not a run, UserError("disk") if a process owns it or it cannot be
    removed.
    """
    try:
        _delete(folder.resolve())
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError("disk", f"cannot delete {folder}: {reason}", HINT) from error


def _delete(folder: Path) -> None:
    if not is_run(folder):
        raise UserError("usage", f"{folder} is not a run's folder", "`cfm runs` lists the runs")
    owner = Owner(folder, described=False)
    try:
        aside = _unused_name(folder)
        files.rename(folder, aside, HINT)
    finally:
        owner.release()
    remove(aside / MANIFEST, HINT)
    for leftover in (aside, *_leftovers(folder)):
        remove_tree(leftover)


def _unused_name(folder: Path) -> Path:
    """Return an unused path beside the run's folder."""
    aside, number = folder.with_name(f".{folder.name}.deleted"), 2
    while os.path.lexists(aside):
        aside = folder.with_name(f".{folder.name}.deleted-{number}")
        number += 1
    return aside


def _leftovers(folder: Path) -> Iterator[Path]:
    """Yield the folders of interrupted deletions of this run name; one that is still a run may be in use."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.deleted(-\d+)?")
    return (entry for entry in folder.parent.iterdir() if pattern.fullmatch(entry.name) and not is_run(entry))
