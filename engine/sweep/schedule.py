"""The order in which the points of a sweep may start, so that no two compute the same artefact at once.

Teachers and real statistics are shared through the cache. Of the points that need the same one, the first
runs alone until it is cached.
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


def list_shared_artefacts(config: Config) -> dict[str, list[str]]:
    """Return stage → one text per cached artefact of an experiment; equal texts mean the same artefact.

    The texts are coarser than the keys of the cache, because weights and images may not be known yet.
    """
    networks = [each.backbone for each in artefacts.single_backbone_configs(config)]
    data = config.data.model_dump(mode="json")
    training = [config.seed, config.squeeze.model_dump(mode="json")]
    seed = config.statistics.used_seed(config.seed)
    goal = [config.objective.taps, config.objective.patch, config.statistics.model_dump(mode="json"), seed]
    teachers = [
        [each.model_dump(mode="json"), data, *([] if each.teacher else training)] for each in networks
    ]
    squeezed = [
        json.dumps(teacher) for teacher, each in zip(teachers, networks, strict=True) if not each.teacher
    ]
    measured = [json.dumps([*teacher, *goal]) for teacher in teachers if config.optimises]
    return {"squeeze": squeezed, "statistics": measured}


class Schedule:
    """The states of the points of a sweep while it runs.

    begun: names of points that were started in an earlier session; they are resumed first.
    """

    def __init__(self, points: Sequence[Point], begun: Iterable[str] = ()) -> None:
        first = set(begun)
        self.points = {point.name: point for point in points}
        self.states: dict[str, State] = dict.fromkeys(self.points, "waiting")
        self._artefacts = {point.name: list_shared_artefacts(point.config) for point in points}
        self._order = sorted(self.points, key=lambda name: name not in first)
        self._cached: set[str] = set()

    def next(self) -> str | None:
        """Return the point to start now; None if none waits, or all wait for artefacts of running points."""
        running = self.named("running")
        in_progress = {text for name in running for text in self._flatten_artefacts(name)} - self._cached
        for name in self._order:
            if self.states[name] == "waiting" and in_progress.isdisjoint(self._flatten_artefacts(name)):
                return name
        return None

    def _flatten_artefacts(self, name: str) -> list[str]:
        return [text for texts in self._artefacts[name].values() for text in texts]

    def named(self, *states: State) -> list[str]:
        """Return the points in one of these states, in the order of the sweep."""
        return [name for name, state in self.states.items() if state in states]

    def reached(self, name: str, stage: str) -> None:
        """Record that a running point is in a stage, so the artefacts of its earlier stages are cached."""
        for producer, texts in self._artefacts[name].items():
            if STAGES.index(stage) > STAGES.index(producer):
                self._cached.update(texts)
