"""What a list of runs says about each: its state, its main settings and its result.

Read from a run's small files; neither torch nor pydantic is imported for a run of this version.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.store import AT_WORK, StoredRun
from engine.store.reader import NewerRunError, state_by

RESULTS_VERSION = 2  #: of results that are read as they are; `engine.runs.results` converts older ones
_PLAIN_VALUE = re.compile(r"([\w.+-]+)(?: +#.*)?")  # one word, and a comment with its origin
_UNREADABLE = (
    UserError, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class RunSummary:
    """A run's entry in a list. What is unknown is None.

    state: see `StoredRun.state`; "damaged" also where a file has other content than a run's. done: completed
    fraction of the stage. created: UTC in ISO 8601; empty if unknown. accuracy, control, best: of the
    distilled images after the last epoch, of the random control, and of the best epoch, in percent, as
    `results.mean_std` returns them. difference: distilled − control in points, and its verdict. teacher: its
    accuracy in percent. latest: the latest measured accuracy. beta: of the latest batch. seconds: computing
    time of the finished repeats. seconds_left, stage_seconds_left: of an active run, and of its stage.
    settings: dotted key → YAML.
    """

    folder: Path
    name: str
    state: str
    created: str = ""
    stage: str | None = None
    done: float | None = None
    data: str | None = None
    ipc: int | None = None
    network: str | None = None
    method: str | None = None
    seed: int | None = None
    accuracy: dict[str, Any] | None = None
    control: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    difference: float | None = None
    verdict: str | None = None
    teacher: float | None = None
    latest: float | None = None
    beta: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    stage_seconds_left: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, run: StoredRun) -> RunSummary:
        """Read a run's summary; its state is "damaged" where a file is unreadable or its content invalid."""
        created, name = "", run.folder.absolute().name
        try:
            created, name = run.created(), run.name
            manifest, settings, status = run.manifest(), split_settings(run.config_yaml()), run.status()
            state = state_by(status)
            if not isinstance(state, str):
                raise TypeError(f"{state!r} is not a state")
            result = _read_result(run)
            result.setdefault("teacher", _read_number(manifest.get("teacher", {}), "accuracy"))
            return cls(
                run.folder,
                name,
                state,
                created,
                **_read_progress(status, state),
                **result,
                data=parse_text(settings.get("data.name")),
                ipc=_parse_integer(settings.get("ipc")),
                network=parse_text(settings.get("backbone.name")),
                method=parse_text(settings.get("objective.method")),
                seed=_parse_integer(settings.get("seed")),
                settings=settings,
            )
        except NewerRunError:
            return cls(run.folder, name, "newer", created)
        except _UNREADABLE:
            return cls(run.folder, name, "damaged", created)

    @property
    def is_active(self) -> bool:
        """Whether a process is computing the run."""
        return self.state in AT_WORK

    @property
    def age_seconds(self) -> float | None:
        """The seconds since the run was created."""
        return parse_age(self.created)

    def setting(self, key: str) -> Any:
        """Return the value of a setting by its dotted key; None if it is not recorded."""
        text = self.settings.get(key)
        if text is None:
            return None
        from engine.config import yaml_io

        return yaml_io.parse(text, f"{self.folder / 'config.yaml'}, {key}")

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``cfm runs --json``."""
        hidden = ("settings", "best", "latest", "beta")
        entry = {key: value for key, value in asdict(self).items() if key not in hidden}
        return {**entry, "folder": str(self.folder), "created": self.created or None}


def parse_age(created: str) -> float | None:
    """Return the seconds since a time in ISO 8601; None if it is not one."""
    try:
        return max(time.time() - datetime.fromisoformat(created).timestamp(), 0.0)
    except ValueError:
        return None


def split_settings(text: str) -> dict[str, str]:
    """Return the settings in a run's ``config.yaml``: dotted key → the YAML of its value.

    The program writes one setting on each line, indented by two blanks in each section; parsing them all
    would take a hundred times as long.
    """
    settings: dict[str, str] = {}
    section: list[str] = []
    for line in text.splitlines():
        name, colon, value = line.lstrip(" ").partition(":")
        if not colon:
            continue
        section = [*section[: (len(line) - len(line.lstrip(" "))) // 2], name]
        if value.strip():
            settings[".".join(section)] = value.strip()
    return settings


def parse_text(text: str | None) -> str | None:
    """Return a setting's YAML as text; None if it is absent."""
    if text is None:
        return None
    if plain := _PLAIN_VALUE.fullmatch(text):
        return plain[1]
    from engine.config import yaml_io

    return str(yaml_io.parse(text, "config.yaml"))


def _parse_integer(text: str | None) -> int | None:
    parsed = parse_text(text)
    return None if parsed is None else int(parsed)


def _read_progress(status: Mapping[str, Any], state: str) -> dict[str, Any]:
    """Return what a status says of the stage."""
    stage, total, done = (status.get(name) for name in ("stage", "total", "done"))
    progress: dict[str, Any] = {
        "stage": None if stage is None else str(stage),
        "latest": _read_number(status, "accuracy"),
        "beta": _read_number(status, "beta"),
        "seconds_left": _read_number(status, "seconds_left") if state in AT_WORK else None,
    }
    if not isinstance(total, int) or not isinstance(done, int) or total <= 0:
        return progress
    rate = _read_number(status, "rate") or 0.0
    has_pace = rate > 0 and state in AT_WORK
    left = max(total - done, 0) / rate if has_pace else None
    return {**progress, "done": done / total, "stage_seconds_left": left}


def _read_result(run: StoredRun) -> dict[str, Any]:
    """Return what a run's results say; empty before its first repeat is finished."""
    document = run.results()
    if document is None:
        return {}
    if document.get("schema_version") != RESULTS_VERSION:
        from engine.runs.results import read_results

        document = read_results(run) or {}
    summary = document["summary"]
    versus = summary["versus_control"] or {}
    timings = [timing for repeat in document["repeats"] for timing in repeat["timings"].values()]
    return {
        "accuracy": _read_mean_std(summary, "accuracy"),
        "control": _read_mean_std(summary, "control"),
        "best": _read_mean_std(summary, "accuracy_best"),
        "difference": _read_number(versus, "difference"),
        "verdict": versus.get("verdict"),
        "teacher": _read_number(summary["teacher"], "mean"),
        "seconds": sum(float(timing["seconds"]) for timing in timings if not timing["reused"]),
    }


def _read_mean_std(summary: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return an accuracy of a summary. Raises TypeError if it is not one."""
    accuracy = summary[name]
    if accuracy is None:
        return None
    if _read_number(accuracy, "mean") is None or not isinstance(accuracy["n"], int):
        raise TypeError(f"{name} has no mean or count")
    _read_number(accuracy, "std")
    return dict(accuracy)


def _read_number(values: Mapping[str, Any], name: str) -> float | None:
    """Return a stored number, None if it is absent. Raises TypeError for anything else."""
    number = values.get(name)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name} {number!r} is not a number")
    return float(number)
