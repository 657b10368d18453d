"""Checks of this machine: packages, devices, folders, data sets and terminal, each independently.

Not here: the output (see `cli.doctor`). Heavy packages are imported only in the functions that need them.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from cfm_tui.display.progress import format_bytes

PACKAGES = (
    "torch", "torchvision", "numpy", "pydantic", "pyyaml", "typer", "rich", "textual", "plotext", "pillow",
    "safetensors",
)  # fmt: skip
NVIDIA = Path("/proc/driver/nvidia")  #: exists if an NVIDIA driver is loaded (Linux)


@dataclass(frozen=True)
class Problem:
    """A problem to fix. level: ``error`` makes runs impossible, ``warning`` does not."""

    level: Literal["error", "warning"]
    message: str
    hint: str


def examine() -> dict[str, Any]:
    """Run all checks and return a JSON-serialisable document; ``ok`` is whether runs are possible."""
    problems: list[Problem] = []
    document: dict[str, Any] = {
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "packages": _check_packages(problems),
    }
    usable = not problems and _check_imports(problems)  # otherwise the engine cannot be imported
    document["devices"] = _check_devices(problems) if usable else []
    document["folders"] = _check_folders(problems) if usable else {}
    document["data_sets"] = _find_data_sets(problems, document["folders"].get("data"))
    document["terminal"] = _check_terminal(problems)
    document["problems"] = [asdict(problem) for problem in problems]
    return {"ok": all(problem.level != "error" for problem in problems), **document}


def _check_packages(problems: list[Problem]) -> dict[str, str | None]:
    from engine.version import product_version

    versions: dict[str, str | None] = {"cfm-tui": product_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
            hint = "Install again in a fresh virtual environment: pip install ."
            problems.append(Problem("error", f"{name} is not installed", hint))
    return versions


def _check_imports(problems: list[Problem]) -> bool:
    """Return whether torch and torchvision can be imported together."""
    for name in ("torch", "torchvision"):
        try:
            with warnings.catch_warnings(action="ignore"):
                importlib.import_module(name)
        except Exception as error:  # broken builds raise many types
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            together = "pip install torch torchvision"
            hint = f"Install matching versions of torch and torchvision together: {together}"
            problems.append(Problem("error", f"{name} does not load: {reason}", hint))
            return False
    return True


def _check_devices(problems: list[Problem]) -> list[dict[str, Any]]:
    import torch

    from engine import device

    threads, cpus = torch.get_num_threads(), device.cpus()
    if threads > cpus:
        message = f"torch uses {threads} threads on {cpus} processors"
        problems.append(Problem("warning", message, f"Set OMP_NUM_THREADS={cpus}."))
    devices: list[dict[str, Any]] = [
        {"name": "cpu", "model": device.describe_processor(), "threads": threads, "cpus": cpus}
    ]
    with warnings.catch_warnings(record=True) as driver_warnings:
        warnings.simplefilter("always")
        cuda = torch.cuda.is_available()
    for number in range(torch.cuda.device_count() if cuda else 0):
        properties = torch.cuda.get_device_properties(number)
        memory = {"memory_bytes": properties.total_memory}
        devices.append({"name": f"cuda:{number}", "model": properties.name, **memory})
    if not cuda and NVIDIA.exists():
        reasons = [str(warning.message).splitlines()[0] for warning in driver_warnings]
        reason = reasons[0] if reasons else f"torch {torch.__version__}"
        hint = "Update the driver, or install torch for its CUDA version: https://pytorch.org/get-started"
        problems.append(Problem("warning", f"torch cannot use the NVIDIA GPU: {reason}", hint))
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "model": platform.processor()})
    return devices


def _check_folders(problems: list[Problem]) -> dict[str, dict[str, Any]]:
    from engine.store import runs_folder
    from engine.store.cache import default_folder

    folders = [("runs", runs_folder(), "CFM_RUNS"), ("cache", default_folder(), "CFM_CACHE")]
    if (data := _find_data_folder(problems)) is not None:
        folders.append(("data", data, "CFM_DATA_ROOT"))
    return {name: _check_folder(name, path, variable, problems) for name, path, variable in folders}


def _find_data_folder(problems: list[Problem]) -> Path | None:
    """Return the default data root; None if the settings in the environment are invalid."""
    from engine import device
    from engine.config import settings
    from engine.data.sources import choose_root
    from engine.errors import UserError

    try:
        config = settings.resolve(environ=os.environ).config
        device.choose(config.device)
    except UserError as error:
        problems.append(Problem("error", error.message, error.hint))
        return None
    return choose_root(config.data)


def _check_folder(name: str, path: Path, variable: str, problems: list[Problem]) -> dict[str, Any]:
    from engine.store.lock import supports_locks

    path = path.absolute()
    ancestor = next(place for place in (path, *path.parents) if os.path.exists(place))
    reason = _find_write_error(path)
    free = shutil.disk_usage(ancestor).free
    level_if_unusable: Literal["error", "warning"] = "warning" if name == "data" else "error"
    if reason:
        message = f"the {name} folder {path} cannot be written: {reason}"
        hint = f"Set {variable} to another folder, or fix this one."
        problems.append(Problem(level_if_unusable, message, hint))
    elif not supports_locks(ancestor):
        message = f"the file system of the {name} folder {path} has no locks"
        hint = "Files are created instead. If a host crashes, delete the one that a message names."
        problems.append(Problem("warning", message, hint))
    elif free < 2 * 1024**3:  # larger data sets may not fit
        message = f"only {format_bytes(free)} are free for the {name} folder {path}"
        level = level_if_unusable if free < 100 * 1024**2 else "warning"  # below, no run fits
        hint = f"Free some disk space, or set {variable} to another folder."
        problems.append(Problem(level, message, hint))
    return {"path": str(path), "exists": os.path.isdir(path), "writable": not reason, "free_bytes": free}


def _find_write_error(folder: Path) -> str:
    """Return why no file can be created in a folder, which need not exist; empty if one can."""
    from engine.errors import UserError
    from engine.store import files

    try:
        files.require_writable(folder)
    except UserError as error:
        return error.message
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return ""


def _check_terminal(problems: list[Problem]) -> dict[str, Any]:
    size = _get_terminal_size()
    terminal = {
        "term": os.environ.get("TERM"),
        "interactive": sys.stdout.isatty(),
        "colours": _detect_colours(),
        "encoding": sys.stdout.encoding,
        "utf8": (sys.stdout.encoding or "").lower().replace("-", "") == "utf8",
        "columns": size[0] if size else None,
        "lines": size[1] if size else None,
        "tmux": "TMUX" in os.environ,
        "ssh": "SSH_CONNECTION" in os.environ,
    }
    if terminal["interactive"]:
        problems += _find_terminal_problems(terminal)
    return terminal


def _detect_colours() -> str:
    """Return the colours according to the environment: none, 16, 256 or true."""
    from rich.console import Console

    console = Console(force_terminal=True)
    names = {"truecolor": "true", "256": "256", "standard": "16", "windows": "16"}
    return "none" if console.no_color else names.get(console.color_system or "", "none")


def _get_terminal_size() -> tuple[int, int] | None:
    """Return the columns and lines of the terminal; None if unknown."""
    for descriptor in (1, 2):
        with suppress(OSError):
            columns, lines = os.get_terminal_size(descriptor)
            if columns and lines:
                return columns, lines
    return None


def _find_terminal_problems(terminal: dict[str, Any]) -> list[Problem]:
    problems = []
    if terminal["term"] in (None, "", "dumb", "unknown"):
        hint = "Set TERM to the type of the terminal, for example xterm-256color."
        problems.append(Problem("warning", f"TERM is {terminal['term'] or 'not set'}: only plain text", hint))
    elif terminal["tmux"] and terminal["colours"] not in ("true", "none"):
        hint = "Add to tmux.conf: set -ga terminal-features ',*:RGB'; set COLORTERM=truecolor in the shell."
        message = f"tmux forwards {terminal['colours']} colours, not true colour"
        problems.append(Problem("warning", message, hint))
    if not terminal["utf8"]:
        hint = "Set LANG to a UTF-8 locale, for example C.UTF-8."
        problems.append(Problem("warning", f"the output encoding is {terminal['encoding']}, not UTF-8", hint))
    if terminal["columns"] and (terminal["columns"] < 80 or terminal["lines"] < 24):
        message = f"the terminal has {terminal['columns']}×{terminal['lines']} cells"
        problems.append(Problem("warning", message, "Enlarge it to 80×24 or more for the console."))
    return problems


def _find_data_sets(problems: list[Problem], folder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the known data sets and their locations; empty if the data folder is unknown."""
    if folder is None:
        return []
    from engine.data.catalogue import KNOWN
    from engine.data.sources import locate

    sets: list[dict[str, Any]] = [{"name": "digits", "found": True, "path": None}]
    for name in (name for name, known in KNOWN.items() if known.folders):
        location = None
        try:
            location = locate(name, Path(folder["path"]), by_name=True)
        except OSError as error:
            message = f"cannot read {error.filename} while searching for {name}: {error.strerror}"
            problems.append(Problem("warning", message, "Change the folder's permissions."))
        path = str(location[0]) if location else None
        sets.append({"name": name, "found": path is not None, "path": path})
    _check_levels(problems, Path(folder["path"]), [Path(each["path"]) for each in sets if each["path"]])
    return sets


def _check_levels(problems: list[Problem], root: Path, located: list[Path]) -> None:
    """Report trees of pictures whose class folders are not where they would be searched.

    located: the folders of the known data sets below `root`.
    """
    from engine.data.image_folders import describe_wrong_level, list_class_folders
    from engine.errors import UserError, raise_data_error

    for path in located or [root]:
        with suppress(OSError):  # the search has reported it, or there is nothing yet
            try:
                if (path / "train").is_dir():
                    list_class_folders(path)
                elif not located and (wrong := describe_wrong_level(path)) is not None:
                    raise_data_error(*wrong)
            except UserError as error:
                hint = f"{error.hint[0].upper()}{error.hint[1:]}."
                problems.append(Problem("warning", error.message, hint))
