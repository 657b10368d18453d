"""Artefacts that runs share: squeezed teachers and real statistics, found by what determines them.

A key is the SHA-256 of everything that an artefact follows from, never a file's name. An entry is one
sealed safetensors file that knows its key; one whose content does not fit is set aside.
Folder: ``$CFM_CACHE``, else ``$XDG_CACHE_HOME/cfm-tui``, else ``~/.cache/cfm-tui``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.store import tensors
from engine.store.files import make_folder, set_aside
from engine.store.json_file import from_json, to_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

ELSEWHERE = "set CFM_CACHE to a folder that can be written and has room"  #: how to keep the cache elsewhere


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the cache lies unless told otherwise."""
    if environ.get("CFM_CACHE"):
        return Path(environ["CFM_CACHE"]).expanduser()
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cfm-tui"


def key(**parts: Any) -> str:
    """SHA-256 over named JSON-serialisable parts, as 64 hex digits."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class DamagedEntry(Exception):
    """An entry's content is not what was written; it was set aside. The message says where."""


@dataclass(frozen=True)
class Entry:
    """A cached artefact: named arrays, and facts about them."""

    arrays: dict[str, NDArray[Any]]
    info: dict[str, Any]


class Cache:
    """A folder of entries, ``KIND/KEY.safetensors``."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def path(self, kind: str, key: str) -> Path:
        """Where an entry lies, whether it exists or not."""
        return self.folder / kind / f"{key}.safetensors"

    def load(self, kind: str, key: str) -> Entry | None:
        """An entry, or None where there is none.

        Raises DamagedEntry, after setting the file aside, where its content does not fit.
        """
        path = self.path(kind, key)
        if not path.is_file():
            return None
        try:
            arrays, facts = tensors.read(path)
            if facts.get("entry") != f"{kind}/{key}":
                raise tensors.damaged(path, "it is another entry")
            return Entry(arrays, from_json(facts["info"]))
        except UserError as error:
            if error.kind != "data":
                raise
            aside = set_aside(path, ELSEWHERE)
            raise DamagedEntry(f"{error.message}; it was set aside as {aside.name}") from error

    def save(self, kind: str, key: str, arrays: Mapping[str, NDArray[Any]], info: dict[str, Any]) -> None:
        """Write an entry, replacing one of the same key. Raises UserError("disk")."""
        path = self.path(kind, key)
        make_folder(path.parent, ELSEWHERE)
        tensors.write(path, arrays, {"entry": f"{kind}/{key}", "info": to_json(info)}, ELSEWHERE)
