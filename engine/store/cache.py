"""Cache of the artefacts that runs share: squeezed teachers and statistics of real data.

A key is the SHA-256 of everything that determines an artefact, never a file's name. An entry is one
safetensors file with its key and digest; a damaged one is renamed ``*.damaged``.
Folder: ``$CFM_CACHE``, else ``$XDG_CACHE_HOME/cfm-tui``, else ``~/.cache/cfm-tui``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import environment
from engine.errors import UserError
from engine.store import tensors
from engine.store.files import guarded, make_folders, require_writable, set_aside
from engine.store.json_file import from_json, to_json
from engine.store.lock import locked

if TYPE_CHECKING:
    from numpy.typing import NDArray

ELSEWHERE = "set CFM_CACHE to a writable folder with enough space"  #: the hint for an unwritable cache


def default_folder() -> Path:
    """Return the default folder of the cache."""
    return environment.user_folder("cache", "CFM_CACHE")


def key(**parts: Any) -> str:
    """Return the SHA-256 (64 hex digits) over named JSON-serialisable parts."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class DamagedEntry(Exception):
    """An entry was damaged and has been renamed; the message says to what."""


@dataclass(frozen=True)
class CacheEntry:
    """A cached artefact: named arrays, and JSON-serialisable information about them."""

    arrays: dict[str, NDArray[Any]]
    info: dict[str, Any]


class Cache:
    """A folder of entries, ``KIND/KEY.safetensors``."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def path(self, kind: str, key: str) -> Path:
        """Return the path of an entry, whether it exists or not."""
        return self.folder / kind / f"{key}.safetensors"

    def require_writable(self, kind: str, needed: int = 4096) -> None:
        """Raise UserError("disk") if entries of a kind, of `needed` bytes in all, cannot be written."""
        require_writable(self.folder / kind, ELSEWHERE, needed)

    def load(self, kind: str, key: str) -> CacheEntry | None:
        """Return an entry, or None if there is none.

        Raises DamagedEntry, after renaming the file, if the entry is damaged or stored under another's name.
        """
        path = self.path(kind, key)
        if not path.is_file():
            return None
        try:
            arrays, metadata = tensors.read(path)
            if metadata.get("entry") != f"{kind}/{key}":
                raise tensors.damaged_error(path, "it is another entry")
            return CacheEntry(arrays, from_json(metadata["info"]))
        except UserError as error:
            if error.kind != "data":
                raise
            aside = set_aside(path, ELSEWHERE)
            raise DamagedEntry(f"{error.message}; it was renamed to {aside.name}") from error

    def save(
        self, kind: str, key: str, arrays: Mapping[str, NDArray[Any]], info: dict[str, Any]
    ) -> CacheEntry:
        """Write an entry, unless another process has written it meanwhile; return the one that is cached.

        Processes that compute the same at once, perhaps with other rounding, thus go on with the same values.
        Raises UserError("disk").
        """
        path = self.path(kind, key)
        make_folders(path.parent, hint=ELSEWHERE)
        with guarded(path, hint=ELSEWHERE), locked(self.folder / "lock"):
            with suppress(DamagedEntry):
                if (entry := self.load(kind, key)) is not None:
                    return entry
            tensors.write(path, arrays, {"entry": f"{kind}/{key}", "info": to_json(info)}, ELSEWHERE)
        return CacheEntry(dict(arrays), info)
