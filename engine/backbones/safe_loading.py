"""What `torch.save` or safetensors wrote, read without running anything in it.

`torch.load` restricted to tensors, and only where what a file says of its sizes can be true. Files of the
field also hold NumPy's numbers (an accuracy, the corner of a box); two stand-ins read those, so that a pickle
never reaches NumPy itself.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import Kind, UserError

MOST_HEADER = 16 * 1024**2  #: bytes of a safetensors header
DAMAGED = "it is cut short, damaged, or no checkpoint"
_CORES = ("numpy.core", "numpy._core")


@dataclass(frozen=True)
class Wording:
    """How messages speak of a file. kind: of the error; alone: how to save one that can be read."""

    kind: Kind
    noun: str
    alone: str
    again: str = "Copy or download it again, and compare its size."


def read(path: Path, wording: Wording) -> Any:
    """What a file holds: tensors in dictionaries, lists and tuples, plain numbers and text.

    A NumPy number comes as a Python number. Raises UserError: unreadable, damaged, or with more in it.
    """
    try:
        require_true_sizes(path, wording)
        if path.suffix == ".safetensors":
            return load_file(path)
        # Warnings are about kinds of files that are refused just after.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_stand_ins()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except PermissionError as error:
        message = f"{wording.noun} '{path}' cannot be read: permission denied"
        raise UserError(wording.kind, message, "Change its permissions.") from error
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error), wording) from error
    except Exception as error:  # whatever bytes that are no checkpoint happen to mean to a reader of pickles
        raise unreadable(path, wording) from error


def require_true_sizes(path: Path, wording: Wording) -> None:
    """Refuse records that would unpack to more than the file, as none do that `torch.save` writes."""
    with path.open("rb") as file:
        head = file.read(8)
    if path.suffix == ".safetensors" and int.from_bytes(head, "little") > MOST_HEADER:
        raise unreadable(path, wording, "its header is too large to be one")
    if head.startswith(b"PK\3\4"):
        with zipfile.ZipFile(path) as packed:
            records = packed.infolist()
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        if not stored or sum(record.file_size for record in records) > path.stat().st_size:
            reason = "its records are compressed (is it TorchScript?) or larger than the file"
            raise unreadable(path, wording, reason)


def is_plain(value: object) -> bool:
    """Whether a value is a tensor of real numbers, all there: not sparse, quantised, nested or meta."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_nested or value.is_meta or value.is_complex())
    )


def plain_dict(found: dict[Any, Any]) -> dict[Any, Any]:
    """The same without what a file may have put over an ordered dictionary's methods."""
    return dict(dict.items(found))


def unreadable(path: Path, wording: Wording, reason: str = DAMAGED) -> UserError:
    """The report that a file is none that can be read."""
    return UserError(wording.kind, f"{wording.noun} '{path}' cannot be read: {reason}", wording.again)


def _refusal(path: Path, reason: str, wording: Wording) -> UserError:
    """Tell a file with more than tensors in it from a damaged one."""
    found = re.search(r"GLOBAL ([\w.]+)", reason)
    with path.open("rb") as file:
        is_pickle = file.read(1) == pickle.PROTO
    if not found and not is_pickle:
        return unreadable(path, wording)
    culprit = f" ({found[1]})" if found else ""
    message = f"{wording.noun} '{path}' holds more than tensors{culprit}; reading it could run code"
    return UserError(wording.kind, f"{message}, so it is refused", wording.alone)


class _Dtype:
    """A plain numeric dtype; what a pickle says of it beyond kind and byte order is not listened to."""

    def __init__(self, kind: object, align: object = False, copy: object = False) -> None:
        if not isinstance(kind, str) or len(kind) > 4 or np.dtype(kind).kind not in "buif":
            raise pickle.UnpicklingError(f"dtype {kind!r:.40} is not allowed")
        self.plain = np.dtype(kind)

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.plain = self.plain.newbyteorder(state[1])


def _number(kind: object, content: object) -> Any:
    """One number out of its bytes."""
    if type(kind) is not _Dtype or not isinstance(content, bytes) or len(content) != kind.plain.itemsize:
        raise pickle.UnpicklingError("only plain numbers are allowed")
    return np.frombuffer(content, kind.plain)[0].item()


def _stand_ins() -> list[Any]:
    """What is read instead of NumPy's own rebuilding of a number."""
    return [(_Dtype, "numpy.dtype"), *((_number, f"{core}.multiarray.scalar") for core in _CORES)]
