"""Settings: the typed configuration tree, the layers that its values come from, and its error messages.

Expressions f(λ) belong here because the tree validates them. No module of this package imports torch.
Not here: the code that uses settings.
"""

from engine.config.fields import (
    MAX_NAME_BYTES,
    BackboneName,
    Centre,
    FilterName,
    Node,
    Positive,
    Precision,
    TapName,
    Threads,
)
from engine.config.objective import BetaSchedule, Objective, Term
from engine.config.schema import (
    Backbone,
    Config,
    Data,
    Given,
    Optimiser,
    Perturbation,
    Recover,
    Validate,
    Views,
)

__all__ = [
    "MAX_NAME_BYTES",
    "Backbone",
    "BackboneName",
    "BetaSchedule",
    "Centre",
    "Config",
    "Data",
    "FilterName",
    "Given",
    "Node",
    "Objective",
    "Optimiser",
    "Perturbation",
    "Positive",
    "Precision",
    "Recover",
    "TapName",
    "Term",
    "Threads",
    "Validate",
    "Views",
]
