"""Which point of a sweep may start next: none that would make again what a running one makes just now.

Teachers and real statistics are shared through the cache. Of the points that need the same ones, the first
runs alone until they are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Literal

from engine.config import Config
from engine.events import STAGES
from engine.runs import artefacts
from engine.sweep.points import Point

State = Literal["waiting", "running", "done", "failed", "stopped"]
ORDER: dict[str, int] = {stage: number for number, stage in enumerate(STAGES)}


def needs(config: Config) -> dict[str, list[str]]:
    """What an experiment shares with others, by the stage that makes it: two with equal text need the same.

    Coarser than the cache's own keys where it is not known yet which weights and images there are.
    """
    networks = [each.backbone for each in artefacts.single_backbone_configs(config)]
    data, made = config.data.model_dump(mode="json"), [config.seed, config.squeeze.model_dump(mode="json")]
    order = config.statistics.order_seed(config.seed)
    goal = [config.objective.taps, config.objective.patch, config.statistics.model_dump(mode="json"), order]
    forms = [[each.model_dump(mode="json"), data, *([] if each.teacher else made)] for each in networks]
    squeezed = [json.dumps(form) for form, each in zip(forms, networks, strict=True) if not each.teacher]
    measured = [json.dumps([*form, *goal]) for form in forms if config.optimises]
    return {"squeeze": squeezed, "statistics": measured}


class Schedule:
    """The points of a sweep while it runs.

    begun: names of points that were begun before; they come first, so that what was cut is what goes on.
    """

    def __init__(self, points: Sequence[Point], begun: Iterable[str] = ()) -> None:
        first = set(begun)
        self.points = {point.name: point for point in points}
        self.states: dict[str, State] = dict.fromkeys(self.points, "waiting")
        self._made_by = {point.name: needs(point.config) for point in points}
        self._order = sorted(self.points, key=lambda name: name not in first)
        self._made: set[str] = set()

    def next(self) -> str | None:
        """The point that should start now; None where all that wait need what is being made, or none wait."""
        making = {text for name in self.named("running") for text in self._needs(name)} - self._made
        for name in self._order:
            if self.states[name] == "waiting" and making.isdisjoint(self._needs(name)):
                return name
        return None

    def _needs(self, name: str) -> list[str]:
        return [text for texts in self._made_by[name].values() for text in texts]

    def named(self, *states: State) -> list[str]:
        """The points in one of these states, in the order of the sweep."""
        return [name for name, state in self.states.items() if state in states]

    def reached(self, name: str, stage: str) -> None:
        """A running point is in a stage: what earlier ones make is there."""
        for maker, texts in self._made_by[name].items():
            if ORDER[stage] > ORDER[maker]:
                self._made.update(texts)
