"""Read files of `torch.save` and safetensors without running code in them.

`torch.load` is restricted to tensors, and files that declare impossible sizes are rejected beforehand. Some
published files also contain NumPy numbers (an accuracy, the corner of a box). Two substitutes read those, so
that a pickle never calls NumPy itself.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import Kind, UserError


@dataclass(frozen=True)
class Wording:
    """Words for error messages about a file.

    kind: of the error. noun: what the file is. resave_hint: how to save one that can be read.
    """

    kind: Kind
    noun: str
    resave_hint: str

    def unreadable_error(
        self, path: Path, reason: str = "it is cut short, damaged, or not a checkpoint"
    ) -> UserError:
        """Return the error for a file that cannot be read."""
        hint = "Copy or download it again, and compare its size."
        return UserError(self.kind, f"{self.noun} '{path}' cannot be read: {reason}", hint)

    def unpickling_error(self, path: Path, reason: str) -> UserError:
        """Return the error for a file with more than tensors, or for a damaged one."""
        match = re.search(r"GLOBAL ([\w.]+)", reason)
        with path.open("rb") as file:
            is_pickle = file.read(1) == pickle.PROTO
        if not match and not is_pickle:
            return self.unreadable_error(path)
        name = f" ({match[1]})" if match else ""
        message = f"{self.noun} '{path}' holds more than tensors{name}; reading it could run code"
        return UserError(self.kind, f"{message}, so it is refused", self.resave_hint)


def read(path: Path, wording: Wording) -> Any:
    """Return the content of a file: tensors in dictionaries, lists and tuples, plain numbers and text.

    NumPy numbers become Python numbers. Raises UserError(wording.kind) if the file is unreadable, damaged,
    or contains anything else.
    """
    try:
        _require_true_sizes(path, wording)
        if path.suffix == ".safetensors":
            return load_file(path)
        # Warnings concern kinds of files that are rejected anyway.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except PermissionError as error:
        message = f"{wording.noun} '{path}' cannot be read: permission denied"
        raise UserError(wording.kind, message, "Change its permissions.") from error
    except pickle.UnpicklingError as error:
        raise wording.unpickling_error(path, str(error)) from error
    except Exception as error:  # readers of pickles raise all kinds of errors on arbitrary bytes
        raise wording.unreadable_error(path) from error


def _require_true_sizes(path: Path, wording: Wording) -> None:
    """Raise UserError if a file declares an impossible header or records larger than the file.

    `torch.save` writes uncompressed records, whose sizes sum to less than that of the file.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if path.suffix == ".safetensors" and int.from_bytes(head, "little") > 16 * 1024**2:
        raise wording.unreadable_error(path, "its header is too large for a safetensors file")
    if head.startswith(b"PK\3\4"):
        with zipfile.ZipFile(path) as packed:
            records = packed.infolist()
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        if not stored or sum(record.file_size for record in records) > path.stat().st_size:
            reason = "its records are compressed (is it TorchScript?) or larger than the file"
            raise wording.unreadable_error(path, reason)


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Return whether a value is a dense tensor of real numbers: not sparse, quantised, nested or meta."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_nested or value.is_meta or value.is_complex())
    )


def plain_dict(mapping: dict[Any, Any]) -> dict[Any, Any]:
    """Return a plain copy; a file may have overridden the methods of an ordered dictionary."""
    return dict(dict.items(mapping))


class _Dtype:
    """A plain numeric dtype; all that a pickle states beyond kind and byte order is ignored."""

    def __init__(self, kind: object, align: object = False, copy: object = False) -> None:
        if not isinstance(kind, str) or len(kind) > 4 or np.dtype(kind).kind not in "buif":
            raise pickle.UnpicklingError(f"dtype {kind!r:.40} is not allowed")
        self.plain = np.dtype(kind)

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.plain = self.plain.newbyteorder(state[1])


def _read_number(kind: object, content: object) -> Any:
    """Return one number from its bytes, in place of `numpy.core.multiarray.scalar`."""
    if type(kind) is not _Dtype or not isinstance(content, bytes) or len(content) != kind.plain.itemsize:
        raise pickle.UnpicklingError("only plain numbers are allowed")
    return np.frombuffer(content, kind.plain)[0].item()


#: substitutes for the functions by which NumPy restores a number
_SAFE_GLOBALS: list[Any] = [
    (_Dtype, "numpy.dtype"),
    *((_read_number, f"{core}.multiarray.scalar") for core in ("numpy.core", "numpy._core")),
]
