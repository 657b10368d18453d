"""The environment variables of the program, and the user's folders, which exist without a home, too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from engine.errors import UserError

#: Variables that are no settings of an experiment, and what they are.
VARIABLES: Mapping[str, str] = {
    "CFM_RUNS": "the folder of runs",
    "CFM_CACHE": "the folder of the cache",
    "CFM_DATA_ROOT": "the folder of data sets, as data.root",
    "CFM_TEACHER": "a teacher, as backbone.teacher",
    "CFM_PRESETS": "the folder of the user's presets and methods",
    "CFM_FAULTS": "how many faults the tests try",
    "CFM_TEST_CONFIGS": "how many wrong settings the tests generate",
}


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return the path with ``~`` expanded. Raises UserError("usage") if there is no such home folder."""
    text = os.path.expanduser(path)
    if text.startswith("~"):
        raise UserError("usage", f"{path} names the home folder of an unknown user", "give the full path")
    return Path(text)


def user_folder(kind: Literal["cache", "config", "data"], variable: str = "") -> Path:
    """Return the user's folder of a kind, which may not exist.

    It is the value of the environment variable, else ``cfm-tui`` in the XDG folder of that kind, else
    ``.cfm-tui/KIND`` in the working folder if the user has no home.
    """
    if given := os.environ.get(variable):
        return expand_home(given)
    from platformdirs.unix import Unix

    try:
        folder = getattr(Unix("cfm-tui"), f"user_{kind}_dir")
    except RuntimeError:  # older versions of platformdirs return the ``~``
        folder = "~"
    return Path(folder) if not folder.startswith("~") else Path(".cfm-tui", kind).absolute()
