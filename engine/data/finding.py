"""Which folder holds a named set, and in which layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from engine import config
from engine.data import cifar, folder, imagenet
from engine.data.catalogue import KNOWN
from engine.data.layout import Found, hint, refuse
from engine.data.places import candidates, chosen_root

Layout = tuple[Callable[[Path], bool], Callable[[Path, bool], Found]]

_TREE: Layout = (folder.matches, folder.read)
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "cifar10": (*((version.matches, version.read) for version in cifar.CIFAR10), _TREE),
    "cifar100": (*((version.matches, version.read) for version in cifar.CIFAR100), _TREE),
    "tiny-imagenet": ((imagenet.matches, imagenet.read),),
    "imagenet": ((imagenet.matches, imagenet.read),),
    "folder": (_TREE,),
}


def locate(name: str, root: Path, by_name: bool = False) -> tuple[Path, Layout] | None:
    """Where the set `name` lies below `root`, and its layout; None if it is not there.

    by_name: a tree of class folders counts only in a folder with a name of this set; without, `root`
    itself may be any such tree.
    """
    named = {Path(folder).name for folder in KNOWN[name].folders}
    for path in candidates(name, root):
        for layout in LAYOUTS[name]:
            is_tree = layout[0] in (folder.matches, imagenet.matches)
            if by_name and is_tree and path.resolve().name not in named:
                continue
            if layout[0](path):
                return path, layout
    return None


def find(settings: config.Data, root: Path | None = None) -> Found:
    """The pictures of the set that the settings name. Raises UserError("data") if it is not there."""
    name = settings.name
    if name == "folder" and root is None and not settings.root and "CFM_DATA_ROOT" not in os.environ:
        refuse("the data set `folder` needs a data root", KNOWN[name].note)
    root = chosen_root(settings, root)
    place = locate(name, root)
    if place is None:
        refuse(_absent(name, root), hint(name, root))
    path, layout = place
    try:
        found = layout[1](path, settings.test == "test")
    except OSError as error:
        refuse(f"cannot read {error.filename or path}: {error.strerror}", "check its permissions")
    limit = KNOWN[name].classes
    if limit is not None and len(found.classes) > limit:
        refuse(
            f"{path} has {len(found.classes)} classes, but {name} has {limit}",
            f"give the folder of {name} as the data root, or set data.name=folder",
        )
    return found


def _absent(name: str, root: Path) -> str:
    if not root.is_dir():
        return f"the data root {root} {'is not a folder' if root.exists() else 'does not exist'}"
    if not any(root.iterdir()):
        return f"the data root {root} is empty"
    if name == "folder":
        return f"{root} has no folder `train`"
    return f"no {name} in {root}, and none in {', '.join(KNOWN[name].folders)} below it, in a known layout"
