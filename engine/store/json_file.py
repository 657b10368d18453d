"""JSON documents of a run: sealed, so that an altered byte is noticed.

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
from engine.store.files import OUT, unreadable, write

_SEAL = b',\n  "sha256": "'
_END = b'"\n}\n'


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON; numbers that JSON cannot hold (NaN, infinities) become null."""
    separators = (",", ":") if indent is None else None
    return json.dumps(
        _finite(value), indent=indent, separators=separators, ensure_ascii=False, allow_nan=False
    )


def from_json(text: str | bytes) -> Any:
    """What `to_json` was given. Raises ValueError, also for what nests too deeply to be ours."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def write_json(path: Path, value: Mapping[str, Any], hint: str = OUT) -> None:
    """Replace the file `path` by an object as sealed, indented JSON. Raises UserError("disk") with `hint`."""
    assert value
    assert "sha256" not in value
    body = to_json(value, indent=2).encode().removesuffix(b"\n}")
    write(path, body, _SEAL, hashlib.sha256(body).hexdigest().encode(), _END, hint=hint)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a sealed JSON file, without its digest. Raises UserError("disk"): absent or damaged."""
    try:
        body, seal, rest = _content(path).rpartition(_SEAL)
        if not seal or rest != hashlib.sha256(body).hexdigest().encode() + _END:
            raise ValueError("its content is not what was written")
        value: dict[str, Any] = from_json(body + b"\n}")
    except FileNotFoundError:
        raise UserError(
            "disk", f"{path} does not exist", "is this a run folder? `cfm runs` lists them"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise UserError("disk", f"{path} is damaged: {error}", "restore it, or start the run anew") from error
    return value


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return path.read_bytes()  # replaced meanwhile, on a disk of another host
