"""The paper's own numbers, as they are printed there: data in presets/paper, one file a table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from engine.config.presets import shipped

_NUMBER = re.compile(r"([0-9.]+)(?:±([0-9.]+))?")


@dataclass(frozen=True)
class PaperTable:
    """source: where the numbers stand. values: `key` of a column → row → the number as it is printed."""

    source: str
    values: dict[str, dict[str, str]]

    def number(self, column: str, row: str) -> dict[str, Any] | None:
        """A number in percent: mean, std where there is one, as it is printed, and source; None for none."""
        printed = self.values.get(column, {}).get(row)
        if printed is None:
            return None
        found = _NUMBER.fullmatch(printed)
        assert found is not None, (self.source, column, row, printed)
        mean, std = found.groups()
        value = {"mean": float(mean), "std": None if std is None else float(std)}
        return {**value, "printed": printed, "source": self.source}


def key(dataset: str, ipc: int, backbone: str, student: str) -> str:
    """How a column of a table is called in the paper's files."""
    return f"{dataset}-{ipc}-{backbone}" + ("" if student == backbone else f"-{student}")


def table(name: str) -> PaperTable:
    """The numbers of a table or figure."""
    values = shipped("paper", name)
    return PaperTable(values["source"], values["values"])
