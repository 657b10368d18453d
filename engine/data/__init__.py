"""Labelled real images: located on disk, decoded once, served in batches.

`load` returns both splits of a data set; stages read `ImageSet`. The names below are imported on first
access, because they need torch and the modules that locate data sets do not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.data.image_set import DataSet, ImageSet, denormalise, normalise
    from engine.data.loading import load

__all__ = ["DataSet", "ImageSet", "denormalise", "load", "normalise"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    module = "loading" if name == "load" else "image_set"
    return getattr(import_module(f"{__name__}.{module}"), name)
