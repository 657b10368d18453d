"""Requests to a run's owner from other processes or hosts: small files in the folder ``control``.

A file is named ``TIME.COMMAND``, TIME being nanoseconds since 1970, and says who asks. Whoever may write
into the run's folder may ask.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from engine.errors import UserError
from engine.store.files import make_folder, remove
from engine.store.json_file import read_json, write_json
from engine.store.lock import timestamp

Command = Literal["pause", "continue", "stop", "checkpoint"]
COMMANDS: tuple[Command, ...] = get_args(Command)
FOLDER = "control"


class Request(NamedTuple):
    """What was asked, and by whom."""

    command: Command
    by: str


def request(folder: Path, command: Command) -> Path:
    """Ask the owner of the run in `folder`; the file that asks is gone once the owner has taken it.

    Raises UserError("disk").
    """
    assert command in COMMANDS
    make_folder(folder / FOLDER)
    path = folder / FOLDER / f"{time.time_ns()}.{command}"
    by = f"{_user()}@{socket.gethostname()}"
    write_json(path, {"by": by, "time": timestamp()}, hint="ask for the right to write there")
    return path


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return str(os.getuid())


class Inbox:
    """The owner's side. What was asked before it was opened was meant for an earlier owner: it is removed.

    notices: files that were not what their writer wrote, and were not obeyed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.notices: list[str] = []
        self._seen: set[str] = set()
        for _, path in self._waiting():
            self._seen.add(path.name)  # one that cannot be removed is not obeyed either
            with suppress(UserError):
                remove(path)

    def take(self) -> list[Request]:
        """What was asked since the last call, oldest first; each request is given once."""
        found = []
        for command, path in self._waiting():
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            try:
                found.append(Request(command, str(read_json(path).get("by"))))
            except UserError as error:
                self.notices.append(f"{error.message}; it was not obeyed")
            with suppress(UserError):  # one that cannot be removed is not obeyed again either
                remove(path)
        return found

    def _waiting(self) -> list[tuple[Command, Path]]:
        requests = []
        try:
            names = os.listdir(self.folder)
        except OSError:  # nobody has asked yet
            return []
        for name in names:
            moment, _, command = name.partition(".")
            if moment.isdecimal() and moment.isascii() and command in COMMANDS:
                requests.append((int(moment), command, self.folder / name))
        return [(command, path) for _, command, path in sorted(requests)]
