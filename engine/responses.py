"""What a filter does to one eigenvalue: f(λ), as plain arithmetic.

Works on floats, on NumPy arrays and on whatever else calculates like them. Source: UniDD Table 1, Eq. 20.
Not here: what a filter does to a whole correlation matrix (see `filters`).
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from engine.config import FilterName

T = TypeVar("T")


def response(name: FilterName, eigenvalues: T, beta: float) -> T:
    """f(λ), elementwise: 1, λ, or 1/(λ + β); infinite where λ + β is zero.

    Of the diagonal filter, what it does to a Ψ that is diagonal already: λ. beta: used by the ridge alone.
    """
    values: Any = np.float64(eigenvalues) if isinstance(eigenvalues, int | float) else eigenvalues
    if name == "identity":
        found = values**0
    elif name == "ridge":
        with np.errstate(divide="ignore"):
            found = 1.0 / (values + beta)
    else:
        found = values
    return found  # type: ignore[no-any-return]
