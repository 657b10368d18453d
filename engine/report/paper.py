"""The accuracies that the paper reports, in its Tables 2 to 5."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from engine.config.presets import load_shipped

COMPARISONS = ("table2", "table3", "table4")  #: the tables that compare methods


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper. source: its place in the paper. values: column → row → printed number."""

    source: str
    values: dict[str, dict[str, str]]

    @classmethod
    @cache
    def load(cls, name: str) -> PaperTable:
        """Load a file of presets/paper: the numbers of a table or figure of the paper."""
        values = load_shipped("paper", name)
        return cls(values["source"], values["values"])

    def number(self, column: str, row: str) -> dict[str, Any] | None:
        """Return a number in percent: mean, std or None, printed form and source; None if not reported."""
        printed = self.values.get(column, {}).get(row)
        if printed is None:
            return None
        match = re.fullmatch(r"([0-9.]+)(?:±([0-9.]+))?", printed)
        assert match is not None, (self.source, column, row, printed)
        mean, std = match.groups()
        value = {"mean": float(mean), "std": None if std is None else float(std)}
        return {**value, "printed": printed, "source": self.source}


def find_paper_number(
    dataset: str, ipc: int | str, backbone: str, student: str, row: str, tables: Sequence[str] = COMPARISONS
) -> dict[str, Any] | None:
    """Return the paper's number for a method and setting, as `PaperTable.number` does."""
    key = f"{dataset}-{ipc}-{backbone}" + ("" if student == backbone else f"-{student}")
    numbers = (PaperTable.load(name).number(key, row) for name in tables)
    return next((number for number in numbers if number is not None), None)
