"""The numbers that the paper reports, stored in presets/paper with one file per table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from engine.config.presets import load_shipped

_NUMBER = re.compile(r"([0-9.]+)(?:±([0-9.]+))?")


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper. source: its place in the paper. values: column `key` → row → printed number."""

    source: str
    values: dict[str, dict[str, str]]

    def number(self, column: str, row: str) -> dict[str, Any] | None:
        """Return a number in percent: mean, std or None, printed form and source; None if not reported."""
        printed = self.values.get(column, {}).get(row)
        if printed is None:
            return None
        match = _NUMBER.fullmatch(printed)
        assert match is not None, (self.source, column, row, printed)
        mean, std = match.groups()
        value = {"mean": float(mean), "std": None if std is None else float(std)}
        return {**value, "printed": printed, "source": self.source}


def key(dataset: str, ipc: int, backbone: str, student: str) -> str:
    """Return the key of a column in the files of the paper's tables."""
    return f"{dataset}-{ipc}-{backbone}" + ("" if student == backbone else f"-{student}")


def table(name: str) -> PaperTable:
    """Load the numbers of a table or figure of the paper."""
    values = load_shipped("paper", name)
    return PaperTable(values["source"], values["values"])
