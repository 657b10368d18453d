"""Networks of teachers and students: building, loading weights, folding BatchNorm.

See `squeeze` and `validate` for their training, and `taps` for where features are read.
"""

from engine.backbones.build import NAMES, build
from engine.backbones.checkpoint import fingerprint, load_teacher
from engine.backbones.convnet import ConvNet
from engine.backbones.graph import batchnorm_names, conv_names, fold_batchnorm, layer_names, place_on
from engine.backbones.stack import Stack, stack

__all__ = [
    "NAMES",
    "ConvNet",
    "Stack",
    "batchnorm_names",
    "build",
    "conv_names",
    "fingerprint",
    "fold_batchnorm",
    "layer_names",
    "load_teacher",
    "place_on",
    "stack",
]
