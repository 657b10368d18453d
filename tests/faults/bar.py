"""How many cases of a fault are tried: a few, a given number, or all of them (CFM_FAULTS=all)."""

from __future__ import annotations

import os

ASKED = os.environ.get("CFM_FAULTS", "")
FULL = ASKED == "all"


def cases(few: int, full: int) -> range:
    """Numbers of the seeded cases to try: `few` by default, never more than `full`."""
    if FULL:
        return range(full)
    return range(min(int(ASKED), full) if ASKED else few)
