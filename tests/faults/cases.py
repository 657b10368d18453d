"""Which of all cases of a fault are tried where not all are."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

import bar

T = TypeVar("T")


def how_many(few: int, full: int) -> int:
    """How many cases are tried: `few` by default, `full` at most."""
    return len(bar.cases(few, full))


def chosen(cases: Iterable[T], few: int, seed: int = 0) -> list[T]:
    """The cases that are tried, in their order: all of them, or some by chance, the last one included."""
    known = list(cases)
    count = how_many(few, len(known))
    places = sorted(random.Random(seed).sample(range(len(known) - 1), max(count - 1, 0)))
    return [known[place] for place in (*places, len(known) - 1)]
