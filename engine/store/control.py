"""Requests to a run's owner from other processes or hosts: small files in the folder ``control``.

A file is named ``TIME.COMMAND``, where TIME is in nanoseconds since 1970, and contains who made the request.
Anyone who may write to the run's folder may make one.
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
from engine.store.files import make_folders, remove
from engine.store.folders import RunFile
from engine.store.json_file import read_json, write_json
from engine.store.lock import timestamp

Command = Literal["pause", "continue", "stop", "checkpoint"]
COMMANDS: tuple[Command, ...] = get_args(Command)


class Request(NamedTuple):
    """A command, and who requested it."""

    command: Command
    by: str


def request(folder: Path, command: Command) -> Path:
    """Send a command to the owner of the run in `folder`, who removes the returned file on receiving it.

    Raises UserError("disk").
    """
    assert command in COMMANDS
    make_folders(folder / RunFile.CONTROL)
    path = folder / RunFile.CONTROL / f"{time.time_ns()}.{command}"
    by = f"{_user_name()}@{socket.gethostname()}"
    write_json(path, {"by": by, "time": timestamp()}, hint="get write permission for that folder")
    return path


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return str(os.getuid())


class Inbox:
    """The requests that a run's owner receives.

    Older requests were meant for an earlier owner and are removed. notices: messages for requests that were
    damaged and therefore ignored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / RunFile.CONTROL
        self.notices: list[str] = []
        self._seen: set[str] = set()
        for _, path in self._list_requests():
            self._seen.add(path.name)  # also ignored if it cannot be removed
            with suppress(UserError):
                remove(path)

    def take(self) -> list[Request]:
        """Return the requests since the last call, oldest first; each request is returned once."""
        requests = []
        for command, path in self._list_requests():
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            try:
                requests.append(Request(command, str(read_json(path).get("by"))))
            except UserError as error:
                self.notices.append(f"{error.message}; it was ignored")
            with suppress(UserError):  # it is in `_seen`, so it is not returned again
                remove(path)
        return requests

    def _list_requests(self) -> list[tuple[Command, Path]]:
        requests = []
        try:
            names = os.listdir(self.folder)
        except OSError:  # there was no request yet
            return []
        for name in names:
            time_ns, _, command = name.partition(".")
            if time_ns.isdecimal() and time_ns.isascii() and command in COMMANDS:
                requests.append((int(time_ns), command, self.folder / name))
        return [(command, path) for _, command, path in sorted(requests)]
