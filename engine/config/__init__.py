"""Settings: the typed tree, where its values come from, and what is said where one is wrong.

Expressions f(λ) belong here, as the tree validates them. Nothing here needs torch. Not here: what is done
with settings.
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
