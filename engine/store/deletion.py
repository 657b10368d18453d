"""A run taken off the disk, whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.errors import UserError
from engine.store.files import guarded, remove, rename
from engine.store.folders import MANIFEST, is_run
from engine.store.lock import Owner


def delete(folder: Path) -> None:
    """Delete a run's folder; cut in between, it is no run any more.

    Raises UserError("usage") where it is no run, UserError("disk") where a process has it or it cannot be
    removed.
    """
    folder = folder.resolve()
    if not is_run(folder):
        raise UserError("usage", f"{folder} holds no run", "`cfm runs` lists the runs")
    hint = "ask for the right to write there, or delete the folder by hand"
    owner = Owner(folder)
    try:
        aside = folder.with_name(f".{folder.name}.deleted")
        rename(folder, aside, hint)
    finally:
        owner.release()
    remove(aside / MANIFEST, hint)
    with guarded(aside, hint=hint):
        shutil.rmtree(aside)
