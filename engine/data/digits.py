"""scikit-learn's 1,797 handwritten digits: 8×8 grey pixels, enlarged; real images without a download.

Legend: N images, S side in pixels.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, CC BY 4.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

Array = np.ndarray[Any, Any]

CLASSES = tuple("0123456789")
TEST_SHARE = 0.2
LEVELS = 16  # largest value of a pixel


def load_arrays(size: int) -> tuple[Array, Array]:
    """Return all images sorted by class, enlarged bilinearly to uint8 (N, 1, S, S), and labels (N,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order_N = np.argsort(digits.target, kind="stable")
    x_N1HW = torch.from_numpy(digits.images[order_N]).unsqueeze(1) / LEVELS
    x_N1SS = functional.interpolate(x_N1HW, (size, size), mode="bilinear", align_corners=False)
    pixels = (x_N1SS * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels, digits.target[order_N].astype(np.int64)
