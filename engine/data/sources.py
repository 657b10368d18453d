"""Locate a named data set: the user's data folder, folders of a set inside it, and the layout there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from engine import config, environment
from engine.data import cifar
from engine.data.catalogue import KNOWN
from engine.data.image_folders import (
    SPLITS,
    describe_wrong_level,
    read_folder,
    read_imagenet,
)
from engine.data.pictures import DataSetSource, decode_name
from engine.errors import quote_command, raise_data_error


def expand_path(path: str | Path) -> Path:
    """Return the path with ``~`` expanded.

    Raises UserError("data") for unknown users, too long names, and names that are not UTF-8, which no
    document could contain.
    """
    text = os.path.expanduser(path)
    if decode_name(text) != text:
        raise_data_error(f"the path {decode_name(text)} is not UTF-8", "rename its folders")
    if text.startswith("~"):
        raise_data_error(f"{path} names the home folder of an unknown user", "give the full path")
    if any(len(os.fsencode(part)) > config.MAX_NAME_BYTES for part in text.split(os.sep)):
        raise_data_error(f"{text[:60]}… has a name that is too long for a file", "give another folder")
    return Path(text)


def data_root() -> Path:
    """Return the user's data folder: CFM_DATA_ROOT, else cfm-tui in XDG_DATA_HOME or ~/.local/share."""
    return expand_path(os.environ.get("CFM_DATA_ROOT") or environment.user_folder("data"))


def choose_root(settings: config.Data, root: Path | None = None) -> Path:
    """Return the folder to search: `root`, else that of the settings, else the user's data folder."""
    return expand_path(root or settings.root or data_root())


def locate(
    name: str, root: Path, by_name: bool = False
) -> tuple[Path, Callable[[Path, bool], DataSetSource]] | None:
    """Return the folder of the set `name` at or below `root`, and its reader; None if it is absent.

    by_name: accept a tree of class folders only in a folder with one of the names of this set; otherwise
    accept any such tree, also at `root` itself. The reader takes the folder and whether the test split is
    wanted.
    """
    folders = KNOWN[name].folders
    folder_names = {Path(folder).name for folder in folders}
    read_tree = read_imagenet if name in ("tiny-imagenet", "imagenet") else read_folder
    outer_paths = [root / folder for folder in folders]
    for path in [root, *(path for outer in outer_paths for path in (outer, *(outer / f for f in folders)))]:
        for version in cifar.VERSIONS.get(name, ()):
            if (path / version.train[0]).is_file():
                return path, version.read
        if (path / "train").is_dir() and not (by_name and path.resolve().name not in folder_names):
            return path, read_tree
    return None


def find_source(settings: config.Data, root: Path | None = None) -> DataSetSource:
    """Return the undecoded pictures of the set in the settings. Raises UserError("data") if it is absent."""
    name = settings.name
    known = KNOWN[name]
    if name == "folder" and root is None and not settings.root and "CFM_DATA_ROOT" not in os.environ:
        raise_data_error("the data set `folder` needs a data root", known.note)
    root = choose_root(settings, root)
    try:
        path, read = locate(name, root) or _raise_absence(name, root)
        source = read(path, settings.test == "test")
    except OSError as error:
        raise_data_error(f"cannot read {error.filename or path}: {error.strerror}", "check its permissions")
    if known.classes is not None and len(source.classes) > known.classes:
        message = f"{path} has {len(source.classes)} classes, but {name} has {known.classes}"
        raise_data_error(message, f"give the folder of {name} as the data root, or set data.name=folder")
    return source


def _raise_absence(name: str, root: Path) -> NoReturn:
    """Raise UserError("data") that says why the set is not in `root`, and what to do."""
    known = KNOWN[name]
    hint = known.note.format(root=root)
    if known.archive is not None:
        command = quote_command("data get", name, root=root)
        hint = f"{command} fetches it, or give its folder as the data root"
    if not root.is_dir():
        message = f"the data root {root} {'is not a folder' if root.exists() else 'does not exist'}"
    elif not any(root.iterdir()):
        message = f"the data root {root} is empty"
    else:
        message = f"{root} has no folder `train`"
        if name != "folder":
            folders = ", ".join(known.folders)
            message = f"no {name} in {root}, and none in {folders} below it, in a known layout"
        if name == "folder" or root.resolve().name in SPLITS:
            message, hint = describe_wrong_level(root) or (message, hint)
    raise_data_error(message, hint)
