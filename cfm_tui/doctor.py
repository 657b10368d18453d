"""What this machine offers a run, and what stands in its way; each part looked at on its own.

Not here: how it is told (see `cli.doctor`). The engine's heavy parts are imported where they are tried.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from cfm_tui.display.progress import format_bytes

PACKAGES = (
    "torch", "torchvision", "numpy", "pydantic", "pyyaml", "typer", "rich", "textual", "plotext", "pillow",
    "safetensors", "scikit-learn", "filelock",
)  # fmt: skip
REINSTALL = "Install again in a fresh virtual environment: pip install ."
LITTLE = 2 * 1024**3  #: bytes of free disk below which larger data sets may not fit
TOO_LITTLE = 100 * 1024**2  #: bytes of free disk below which no run fits
CONSOLE = (80, 24)  #: columns and lines that the console needs
NVIDIA = Path("/proc/driver/nvidia")  #: there when an NVIDIA driver is loaded (Linux)


@dataclass(frozen=True)
class Problem:
    """Something to mend. level: ``error`` makes runs impossible, ``warning`` does not."""

    level: Literal["error", "warning"]
    message: str
    hint: str


def examine() -> dict[str, Any]:
    """Everything, as one JSON-serialisable document; ``ok`` is whether runs are possible."""
    problems: list[Problem] = []
    document: dict[str, Any] = {
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "packages": _packages(problems),
    }
    usable = not problems and _imports(problems)  # else the engine cannot be asked
    document["devices"] = _devices(problems) if usable else []
    document["folders"] = _folders(problems) if usable else {}
    document["data_sets"] = _data_sets(problems, document["folders"].get("data"))
    document["terminal"] = _terminal(problems)
    document["problems"] = [asdict(problem) for problem in problems]
    return {"ok": all(problem.level != "error" for problem in problems), **document}


def _packages(problems: list[Problem]) -> dict[str, str | None]:
    from engine.version import product_version

    found: dict[str, str | None] = {"cfm-tui": product_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
            problems.append(Problem("error", f"{name} is not installed", REINSTALL))
    return found


def _imports(problems: list[Problem]) -> bool:
    """Whether torch and torchvision load, together."""
    for name in ("torch", "torchvision"):
        try:
            with warnings.catch_warnings(action="ignore"):
                importlib.import_module(name)
        except Exception as error:  # a broken build fails in ways of its own
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            hint = "Install torch and torchvision together, so that they fit: pip install torch torchvision"
            problems.append(Problem("error", f"{name} does not load: {reason}", hint))
            return False
    return True


def _devices(problems: list[Problem]) -> list[dict[str, Any]]:
    import torch

    from engine import device

    threads, cpus = torch.get_num_threads(), device.cpus()
    if threads > cpus:
        message = f"torch uses {threads} threads on {cpus} processors"
        problems.append(Problem("warning", message, f"Set OMP_NUM_THREADS={cpus}."))
    devices: list[dict[str, Any]] = [
        {"name": "cpu", "model": platform.processor() or platform.machine(), "threads": threads, "cpus": cpus}
    ]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cuda = torch.cuda.is_available()
    for number in range(torch.cuda.device_count() if cuda else 0):
        facts = torch.cuda.get_device_properties(number)
        devices.append({"name": f"cuda:{number}", "model": facts.name, "memory_bytes": facts.total_memory})
    if not cuda and NVIDIA.exists():
        reason = str(said[0].message).splitlines()[0] if said else f"torch {torch.__version__}"
        hint = "Update the driver, or install a torch for its CUDA version: https://pytorch.org/get-started"
        problems.append(Problem("warning", f"torch cannot use the NVIDIA GPU: {reason}", hint))
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "model": platform.processor()})
    return devices


def _folders(problems: list[Problem]) -> dict[str, dict[str, Any]]:
    from engine.store import runs_folder
    from engine.store.cache import default_folder

    places = [("runs", runs_folder(), "CFM_RUNS"), ("cache", default_folder(), "CFM_CACHE")]
    if (data := _data_folder(problems)) is not None:
        places.append(("data", data, "CFM_DATA_ROOT"))
    return {name: _folder(name, path, variable, problems) for name, path, variable in places}


def _data_folder(problems: list[Problem]) -> Path | None:
    """The data root of a run without flags; None if the environment's settings are refused."""
    from engine import device
    from engine.config import settings
    from engine.data.places import chosen_root
    from engine.errors import UserError

    try:
        config = settings.resolve(environ=os.environ).config
        device.choose(config.device)
    except UserError as error:
        problems.append(Problem("error", error.message, error.hint))
        return None
    return chosen_root(config.data)


def _folder(name: str, path: Path, variable: str, problems: list[Problem]) -> dict[str, Any]:
    path = path.expanduser().absolute()
    ancestor = next(place for place in (path, *path.parents) if os.path.exists(place))
    reason = _why_not_writable(ancestor)
    free = shutil.disk_usage(ancestor).free
    serious: Literal["error", "warning"] = "warning" if name == "data" else "error"
    elsewhere = f"Set {variable} to another folder"
    if reason:
        message = f"the {name} folder {path} cannot be written: {reason}"
        problems.append(Problem(serious, message, f"{elsewhere}, or change this one."))
    elif free < LITTLE:
        message = f"{format_bytes(free)} are free at the {name} folder {path}"
        level = serious if free < TOO_LITTLE else "warning"
        problems.append(Problem(level, message, f"Make room, or {elsewhere[0].lower()}{elsewhere[1:]}."))
    return {"path": str(path), "exists": os.path.isdir(path), "writable": not reason, "free_bytes": free}


def _why_not_writable(folder: Path) -> str:
    """Why no file can be made in a folder; empty if one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"{folder}: {error.strerror}"


def _terminal(problems: list[Problem]) -> dict[str, Any]:
    size = _size()
    found = {
        "term": os.environ.get("TERM"),
        "interactive": sys.stdout.isatty(),
        "colours": _colours(),
        "encoding": sys.stdout.encoding,
        "utf8": (sys.stdout.encoding or "").lower().replace("-", "") == "utf8",
        "columns": size[0] if size else None,
        "lines": size[1] if size else None,
        "tmux": "TMUX" in os.environ,
        "ssh": "SSH_CONNECTION" in os.environ,
    }
    if found["interactive"]:
        problems += _terminal_problems(found)
    return found


def _colours() -> str:
    """What the environment says of colours: none, 16, 256 or true."""
    from rich.console import Console

    console = Console(force_terminal=True)
    names = {"truecolor": "true", "256": "256", "standard": "16", "windows": "16"}
    return "none" if console.no_color else names.get(console.color_system or "", "none")


def _size() -> tuple[int, int] | None:
    """Columns and lines of the terminal, if one is there and tells."""
    for descriptor in (1, 2):
        with suppress(OSError):
            columns, lines = os.get_terminal_size(descriptor)
            if columns and lines:
                return columns, lines
    return None


def _terminal_problems(found: dict[str, Any]) -> list[Problem]:
    problems = []
    if found["term"] in (None, "", "dumb", "unknown"):
        hint = "Set TERM to what the terminal is, e.g. xterm-256color."
        problems.append(Problem("warning", f"TERM is {found['term'] or 'not set'}: only plain text", hint))
    elif found["tmux"] and found["colours"] not in ("true", "none"):
        hint = "In tmux.conf: set -ga terminal-features ',*:RGB'; then COLORTERM=truecolor in the shell."
        problems.append(
            Problem("warning", f"tmux passes on {found['colours']} colours, not true colour", hint)
        )
    if not found["utf8"]:
        hint = "Set LANG to a UTF-8 locale, e.g. C.UTF-8."
        problems.append(Problem("warning", f"text is written as {found['encoding']}, not UTF-8", hint))
    if found["columns"] and (found["columns"] < CONSOLE[0] or found["lines"] < CONSOLE[1]):
        message = f"the terminal has {found['columns']}×{found['lines']} cells"
        problems.append(
            Problem("warning", message, f"Make it {CONSOLE[0]}×{CONSOLE[1]} or larger for the console.")
        )
    return problems


def _data_sets(problems: list[Problem], folder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The sets that have names, and where they lie; none if the data folder is not known."""
    if folder is None:
        return []
    from engine.data.catalogue import KNOWN

    sets: list[dict[str, Any]] = [{"name": "digits", "found": True, "path": None}]
    for name in (name for name, known in KNOWN.items() if known.folders):
        place = _located(name, Path(folder["path"]), problems)
        sets.append({"name": name, "found": place is not None, "path": str(place) if place else None})
    return sets


def _located(name: str, root: Path, problems: list[Problem]) -> Path | None:
    """Where a set lies; a folder that cannot be read is a problem, not a failure."""
    from engine.data.finding import locate

    try:
        place = locate(name, root, by_name=True)
    except OSError as error:
        message = f"looking for {name}: cannot read {error.filename}: {error.strerror}"
        problems.append(Problem("warning", message, "Change its permissions."))
        return None
    return place[0] if place else None
