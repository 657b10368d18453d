"""Which of all cases of a fault are tried: CFM_FAULTS is a number for each fault, or `all`."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")
FAULTS = os.environ.get("CFM_FAULTS", "")
FULL = FAULTS == "all"


def how_many(few: int, full: int) -> int:
    """How many cases are tried: `full` of them where all are asked for, `few` unless told otherwise."""
    return full if FULL else int(FAULTS or few)


def chosen(cases: Iterable[T], few: int, seed: int = 0) -> list[T]:
    """The cases that are tried, in their order: all of them, or some by chance, the last one included."""
    known = list(cases)
    count = min(how_many(few, len(known)), len(known))
    places = sorted(random.Random(seed).sample(range(len(known) - 1), max(count - 1, 0)))
    return [known[place] for place in (*places, len(known) - 1)]
