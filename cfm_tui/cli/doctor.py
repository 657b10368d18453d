"""`cfm doctor`: what this machine offers, and what stands in the way of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from cfm_tui.cli.common import Json, print_json


def doctor(as_json: Json = False) -> None:
    """Look over software, devices, folders, data sets and terminal; exit with 1 if no run is possible."""
    from cfm_tui.doctor import examine

    found = examine()
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(_lines(found)))
    if not found["ok"]:
        raise typer.Exit(1)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield _entry("python", f"{found['python']['version']} at {found['python']['executable']}")
    yield _entry("system", found["system"])
    packages = [f"{name} {version or 'missing'}" for name, version in found["packages"].items()]
    for start in range(0, len(packages), 5):
        yield _entry("packages" if start == 0 else "", ", ".join(packages[start : start + 5]))
    for device in found["devices"]:
        yield _entry(device["name"], _device(device))
    for name, folder in found["folders"].items():
        yield _entry(name, _folder(folder))
    for data_set in found["data_sets"]:
        yield _entry(data_set["name"], _data_set(data_set))
    yield _entry("terminal", _terminal(found["terminal"]))
    yield ""
    for problem in found["problems"]:
        yield f"{problem['level']}: {problem['message']}\n→ {problem['hint']}"
    if not found["problems"]:
        yield "no problems"
    elif found["ok"]:
        yield "runs are possible"
    else:
        yield "no run is possible before the errors are mended"


def _entry(name: str, text: str) -> str:
    return f"{name:<14} {text}"


def _device(device: dict[str, Any]) -> str:
    from cfm_tui.display.progress import format_bytes

    facts = [device["model"]]
    if "threads" in device:
        facts.append(f"{device['threads']} threads on {device['cpus']} processors")
    if "memory_bytes" in device:
        facts.append(format_bytes(device["memory_bytes"]))
    return ", ".join(fact for fact in facts if fact)


def _folder(folder: dict[str, Any]) -> str:
    from cfm_tui.display.progress import format_bytes

    state = "" if folder["exists"] else ", not there yet"
    state += "" if folder["writable"] else ", cannot be written"
    return f"{folder['path']}{state}, {format_bytes(folder['free_bytes'])} free"


def _data_set(data_set: dict[str, Any]) -> str:
    if not data_set["found"]:
        return "not there; see `cfm data list`"
    return f"at {data_set['path']}" if data_set["path"] else "comes with the program"


def _terminal(terminal: dict[str, Any]) -> str:
    if not terminal["interactive"]:
        return f"none, output goes elsewhere, {terminal['encoding']}"
    inside = [name for name in ("tmux", "ssh") if terminal[name]]
    facts = [
        terminal["term"] or "TERM not set",
        f"{terminal['colours']} colours" if terminal["colours"] != "true" else "true colour",
        terminal["encoding"],
        f"{terminal['columns']}×{terminal['lines']}" if terminal["columns"] else "size unknown",
        *inside,
    ]
    return ", ".join(facts)
