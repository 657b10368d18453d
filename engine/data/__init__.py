"""Labelled real images: found on disk, decoded once, served in batches.

`load` gives both splits of a set; `ImageSet` is what stages read.
"""

from engine.data.image_set import DataSet, ImageSet, denormalise, normalise
from engine.data.loading import load

__all__ = ["DataSet", "ImageSet", "denormalise", "load", "normalise"]
