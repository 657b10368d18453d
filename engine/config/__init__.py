"""Settings: the typed configuration tree, the layers that its values come from, and its error messages.

Expressions f(λ) belong here because the tree validates them. No module of this package imports torch.
Not here: the code that uses settings.
"""

from engine.config.fields import (
    LONGEST,
    BackboneName,
    Decay,
    FilterName,
    Fraction,
    Node,
    PathText,
    Pixels,
    Positive,
    Precision,
    Scale,
    SignalName,
    TapName,
)
from engine.config.objective import BetaSchedule, Objective, Term
from engine.config.schema import (
    Backbone,
    Config,
    Data,
    Density,
    Given,
    Optimiser,
    Perturbation,
    Recover,
    Relabel,
    Select,
    Squeeze,
    Statistics,
    Validate,
    Views,
)

__all__ = [
    "LONGEST",
    "Backbone",
    "BackboneName",
    "BetaSchedule",
    "Config",
    "Data",
    "Decay",
    "Density",
    "FilterName",
    "Fraction",
    "Given",
    "Node",
    "Objective",
    "Optimiser",
    "PathText",
    "Perturbation",
    "Pixels",
    "Positive",
    "Precision",
    "Recover",
    "Relabel",
    "Scale",
    "Select",
    "SignalName",
    "Squeeze",
    "Statistics",
    "TapName",
    "Term",
    "Validate",
    "Views",
]
