"""Checkpoints of a run: the state from which a stage resumes; the newest two of each stage are kept.

A checkpoint is ``checkpoints/STAGE-NNNNNN.safetensors``, with a digest and with the stage's metadata as JSON
in its header. Numbers increase over all stages and never repeat within a run; ``last.json`` stores the
highest when files are removed. A damaged checkpoint is renamed ``*.damaged``, and the previous one is used.
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

_NAME = re.compile(r"([a-z]+)-([0-9]{6,})\.safetensors(\.damaged)?")
_LAST = "last.json"


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint. number: counted from 1 within the run. metadata: of the stage."""

    number: int
    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, Any]

    @classmethod
    def read(cls, path: Path, number: int) -> Saved:
        """Read a checkpoint. Raises UserError("data") if it is damaged or has another's name."""
        arrays, metadata = tensors.read(path)
        try:
            if metadata["name"] != path.stem:
                raise ValueError(f"it is {metadata['name']}")
            return cls(number, arrays, json_file.from_json(metadata["facts"]))
        except (KeyError, ValueError) as error:
            raise tensors.damaged_error(path, error) from error


class Checkpoints:
    """The checkpoints of a run, in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self, stage: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> tuple[int, int]:
        """Write a checkpoint durably, and remove all but the newest two of its stage.

        facts: JSON-serialisable. Returns the checkpoint's number and its size in bytes. Raises
        UserError("disk"); the earlier checkpoints are then kept.
        """
        files.make_folders(self.folder)
        number = self.last_number() + 1
        path = self.folder / f"{stage}-{number:06d}.safetensors"
        facts_json = json_file.to_json(facts)
        metadata = {"format": "cfm-checkpoint", "version": "1", "name": path.stem, "facts": facts_json}
        size = tensors.write(path, arrays, metadata)
        for _, old in self.paths(stage)[:-2]:
            files.remove(old, sync_name=False)
        return number, size

    def newest(self, stage: str) -> tuple[Saved | None, list[str]]:
        """Return the newest intact checkpoint of a stage, or None, and a message for each damaged one.

        Damaged ones are renamed. Raises UserError("disk") if the system refuses to read or rename one.
        """
        files.sweep(self.folder)
        _, message = self._read_last_number()
        messages = [message] if message else []
        for earlier, (number, path) in reversed(list(enumerate(self.paths(stage)))):
            try:
                return Saved.read(path, number), messages
            except UserError as error:
                if error.kind != "data":
                    raise
                aside = files.set_aside(path)
                consequence = "the previous one is used" if earlier else "there is no earlier one"
                messages.append(f"{error.message}; it was renamed to {aside.name}, and {consequence}")
        return None, messages

    def delete(self, stage: str) -> None:
        """Remove the checkpoints of a finished stage; their numbers are not reused."""
        numbered_paths = self.paths(stage)
        if numbered_paths:
            json_file.write_json(self.folder / _LAST, {"number": self.last_number()})
        for _, path in numbered_paths:
            files.remove(path, sync_name=False)
        if numbered_paths:
            files.sync_folder(self.folder)

    def paths(self, stage: str | None = None) -> list[tuple[int, Path]]:
        """Return number and path of the intact checkpoints of a stage (or of all), oldest first."""
        return [(number, path) for number, name, path in self._list_files() if stage in (None, name)]

    def last_number(self) -> int:
        """Return the highest checkpoint number used so far in this run, or 0."""
        numbers = [number for number, _, _ in self._list_files(include_damaged=True)]
        return max([self._read_last_number()[0], *numbers])

    def check(self) -> list[str]:
        """Return a message for each damaged file among the checkpoints; nothing is renamed."""
        messages = []
        for number, path in self.paths():
            try:
                Saved.read(path, number)
            except UserError as error:
                messages.append(error.message)
        if (self.folder / _LAST).is_file():
            try:
                json_file.read_json(self.folder / _LAST)
            except UserError as error:
                messages.append(error.message)
        return messages

    def _read_last_number(self) -> tuple[int, str]:
        """Return the number in ``last.json``, or 0, and a message if the file was damaged and renamed."""
        path = self.folder / _LAST
        if not path.is_file():
            return 0, ""
        try:
            return int(json_file.read_json(path)["number"]), ""
        except UserError as error:
            aside = files.set_aside(path)
            return 0, f"{error.message}; it was renamed to {aside.name}"

    def _list_files(self, include_damaged: bool = False) -> list[tuple[int, str, Path]]:
        """Return number, stage and path of the checkpoints, sorted by number."""
        entries = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match and (include_damaged or not match[3]):
                entries.append((int(match[2]), match[1], path))
        return sorted(entries)
