"""Checkpoints of a run: what the stage at work needs to go on, the newest two of each stage.

``checkpoints/STAGE-NNNNNN.safetensors``, sealed, with the facts as JSON in its metadata. Numbers count on
over all stages and never repeat within a run; ``last.json`` remembers the highest when files are gone.
One that is damaged is renamed ``*.damaged``, and the one before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.store import files, json_file, tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT = 2  #: how many of a stage stay
_NAME = re.compile(r"([a-z]+)-([0-9]{6,})\.safetensors(\.damaged)?")
_LAST = "last.json"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds. number: counted from 1 within the run."""

    number: int
    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any]


def write(
    folder: Path, stage: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
) -> tuple[int, int]:
    """Write a checkpoint durably, and remove all but the newest two of its stage.

    facts: JSON-serialisable. Returns its number and its bytes. Raises UserError("disk"): the earlier
    ones stay then.
    """
    files.make_folder(folder)
    number = last_number(folder) + 1
    path = folder / f"{stage}-{number:06d}.safetensors"
    told = {"format": "cfm-checkpoint", "version": "1", "name": path.stem, "facts": json_file.to_json(facts)}
    size = tensors.write(path, arrays, told)
    for _, old in paths(folder, stage)[:-KEPT]:
        files.remove(old, sync_name=False)
    return number, size


def newest(folder: Path, stage: str) -> tuple[Saved | None, list[str]]:
    """The newest whole checkpoint of a stage (None: there is none), and a message for each damaged one.

    Damaged ones are set aside. Raises UserError("disk") where the system refuses to read or rename one.
    """
    files.sweep(folder)
    messages = [told for _, told in [_remembered(folder)] if told]
    known = paths(folder, stage)
    for before, (number, path) in reversed(list(enumerate(known))):
        try:
            return read(path, number), messages
        except UserError as error:
            if error.kind != "data":
                raise
            aside = files.set_aside(path)
            then = "the one before it is taken" if before else "there is none before it"
            messages.append(f"{error.message}; it was set aside as {aside.name}, and {then}")
    return None, messages


def read(path: Path, number: int) -> Saved:
    """One checkpoint. Raises UserError("data") where it is damaged or another's."""
    arrays, told = tensors.read(path)
    try:
        if told["name"] != path.stem:
            raise ValueError(f"it is {told['name']}")
        return Saved(number, arrays, json_file.from_json(told["facts"]))
    except (KeyError, ValueError) as error:
        raise tensors.damaged(path, error) from error


def forget(folder: Path, stage: str) -> None:
    """Remove a stage's checkpoints, as when it is finished; numbers count on. Raises UserError("disk")."""
    known = paths(folder, stage)
    if known:
        json_file.write_json(folder / _LAST, {"number": last_number(folder)})
    for _, path in known:
        files.remove(path, sync_name=False)
    if known:
        files.sync_folder(folder)


def paths(folder: Path, stage: str | None = None) -> list[tuple[int, Path]]:
    """Number and path of the checkpoints of a stage (or of all), oldest first; damaged ones left out."""
    return [(number, path) for number, name, path in _found(folder) if stage in (None, name)]


def last_number(folder: Path) -> int:
    """The highest number given so far in this run, 0 for none."""
    numbers = [number for number, _, _ in _found(folder, damaged=True)]
    return max([_remembered(folder)[0], *numbers])


def check(folder: Path) -> list[str]:
    """What is damaged among the checkpoints, a message each; nothing is set aside."""
    found = []
    for number, path in paths(folder):
        try:
            read(path, number)
        except UserError as error:
            found.append(error.message)
    if (folder / _LAST).is_file():
        try:
            json_file.read_json(folder / _LAST)
        except UserError as error:
            found.append(error.message)
    return found


def _remembered(folder: Path) -> tuple[int, str]:
    """The number that ``last.json`` tells, 0 for none, and a message where it was damaged and set aside."""
    path = folder / _LAST
    if not path.is_file():
        return 0, ""
    try:
        return int(json_file.read_json(path)["number"]), ""
    except UserError as error:
        aside = files.set_aside(path)
        return 0, f"{error.message}; it was set aside as {aside.name}"


def _found(folder: Path, damaged: bool = False) -> list[tuple[int, str, Path]]:
    """Number, stage and path of the checkpoints, by number; with the damaged ones if asked for."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and (damaged or not match[3]):
            found.append((int(match[2]), match[1], path))
    return sorted(found)
