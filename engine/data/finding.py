"""Locate a named data set on disk and recognise its layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from engine import config
from engine.data import cifar, folder, imagenet
from engine.data.catalogue import KNOWN
from engine.data.layout import DataSetSource, download_hint, refuse
from engine.data.places import chosen_root, iter_candidates

Layout = tuple[Callable[[Path], bool], Callable[[Path, bool], DataSetSource]]

_TREE: Layout = (folder.matches, folder.read)
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "cifar10": (*((version.matches, version.read) for version in cifar.CIFAR10), _TREE),
    "cifar100": (*((version.matches, version.read) for version in cifar.CIFAR100), _TREE),
    "tiny-imagenet": ((imagenet.matches, imagenet.read),),
    "imagenet": ((imagenet.matches, imagenet.read),),
    "folder": (_TREE,),
}


def locate(name: str, root: Path, by_name: bool = False) -> tuple[Path, Layout] | None:
    """Return the folder of the set `name` at or below `root`, and its layout; None if it is absent.

    by_name: accept a tree of class folders only in a folder with one of the names of this set; otherwise
    accept any such tree, also at `root` itself.
    """
    folder_names = {Path(folder).name for folder in KNOWN[name].folders}
    for path in iter_candidates(name, root):
        for layout in LAYOUTS[name]:
            is_tree = layout[0] in (folder.matches, imagenet.matches)
            if by_name and is_tree and path.resolve().name not in folder_names:
                continue
            if layout[0](path):
                return path, layout
    return None


def find(settings: config.Data, root: Path | None = None) -> DataSetSource:
    """Return the undecoded pictures of the set in the settings. Raises UserError("data") if it is absent."""
    name = settings.name
    if name == "folder" and root is None and not settings.root and "CFM_DATA_ROOT" not in os.environ:
        refuse("the data set `folder` needs a data root", KNOWN[name].note)
    root = chosen_root(settings, root)
    place = locate(name, root)
    if place is None:
        refuse(_describe_absence(name, root), download_hint(name, root))
    path, layout = place
    try:
        source = layout[1](path, settings.test == "test")
    except OSError as error:
        refuse(f"cannot read {error.filename or path}: {error.strerror}", "check its permissions")
    limit = KNOWN[name].classes
    if limit is not None and len(source.classes) > limit:
        refuse(
            f"{path} has {len(source.classes)} classes, but {name} has {limit}",
            f"give the folder of {name} as the data root, or set data.name=folder",
        )
    return source


def _describe_absence(name: str, root: Path) -> str:
    if not root.is_dir():
        return f"the data root {root} {'is not a folder' if root.exists() else 'does not exist'}"
    if not any(root.iterdir()):
        return f"the data root {root} is empty"
    if name == "folder":
        return f"{root} has no folder `train`"
    return f"no {name} in {root}, and none in {', '.join(KNOWN[name].folders)} below it, in a known layout"
