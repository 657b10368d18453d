"""JSON documents of a run, each with a digest of its content, so that damage is detected.

A document's last key is ``sha256``: the digest of the file's bytes before that key's comma.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.store.files import OUT, unreadable_error, write

_SEAL = b',\n  "sha256": "'
_END = b'"\n}\n'


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON; NaN and infinities become null."""
    separators = (",", ":") if indent is None else None
    return json.dumps(
        _replace_non_finite(value), indent=indent, separators=separators, ensure_ascii=False, allow_nan=False
    )


def from_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_non_finite(item) for item in value]
    return value


def write_json(path: Path, value: Mapping[str, Any], hint: str = OUT) -> None:
    """Write an object to `path` as indented JSON with its digest. Raises UserError("disk") with `hint`."""
    assert value
    assert "sha256" not in value
    body = to_json(value, indent=2).encode().removesuffix(b"\n}")
    write(path, body, _SEAL, hashlib.sha256(body).hexdigest().encode(), _END, hint=hint)


def read_json(path: Path) -> dict[str, Any]:
    """Return the verified object of a JSON file. Raises UserError("disk") if it is absent or damaged."""
    try:
        body, seal, rest = _read_bytes(path).rpartition(_SEAL)
        if not seal or rest != hashlib.sha256(body).hexdigest().encode() + _END:
            raise ValueError("its content does not match its checksum")
        value: dict[str, Any] = from_json(body + b"\n}")
    except FileNotFoundError:
        raise UserError(
            "disk", f"{path} does not exist", "is this a run folder? `cfm runs` lists them"
        ) from None
    except OSError as error:
        raise unreadable_error(path, error) from error
    except ValueError as error:
        raise UserError("disk", f"{path} is damaged: {error}", "restore it, or start a new run") from error
    return value


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return path.read_bytes()  # it was just replaced, by another host on a network file system
