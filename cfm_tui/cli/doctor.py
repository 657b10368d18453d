"""`cfm doctor`: report what this machine offers, and problems that prevent a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from cfm_tui.cli.common import Json, echo, print_json


def doctor(as_json: Json = False) -> None:
    """Check software, devices, folders, data sets and terminal; exit with 1 if no run is possible."""
    from cfm_tui.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        echo("\n".join(_format_findings(findings)))
    if not findings["ok"]:
        raise typer.Exit(1)


def _format_findings(findings: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that `doctor` prints."""
    for name, text in _list_entries(findings):
        yield f"{name:<14} {text}"
    yield ""
    for problem in findings["problems"]:
        yield f"{problem['level']}: {problem['message']}\n→ {problem['hint']}"
    if not findings["problems"]:
        yield "no problems"
    elif findings["ok"]:
        yield "runs are possible"
    else:
        yield "no run is possible until the errors are fixed"


def _list_entries(findings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the description of everything that was found."""
    from cfm_tui.display.progress import format_bytes

    yield "python", f"{findings['python']['version']} at {findings['python']['executable']}"
    yield "system", findings["system"]
    packages = [f"{name} {version or 'missing'}" for name, version in findings["packages"].items()]
    for start in range(0, len(packages), 5):
        yield "packages" if start == 0 else "", ", ".join(packages[start : start + 5])
    for device in findings["devices"]:
        facts = [device["model"]] if device["model"] else []
        if "threads" in device:
            facts.append(f"{device['threads']} threads on {device['cpus']} processors")
        if "memory_bytes" in device:
            facts.append(format_bytes(device["memory_bytes"]))
        yield device["name"], ", ".join(facts)
    for name, folder in findings["folders"].items():
        state = "" if folder["exists"] else ", does not exist yet"
        state += "" if folder["writable"] else ", not writable"
        yield name, f"{folder['path']}{state}, {format_bytes(folder['free_bytes'])} free"
    for data_set in findings["data_sets"]:
        place = f"at {data_set['path']}" if data_set["path"] else "comes with the program"
        yield data_set["name"], place if data_set["found"] else "not found; see `cfm data list`"
    yield "terminal", _describe_terminal(findings["terminal"])


def _describe_terminal(terminal: dict[str, Any]) -> str:
    if not terminal["interactive"]:
        return f"none, output is redirected, {terminal['encoding']}"
    colours = f"{terminal['colours']} colours" if terminal["colours"] != "true" else "true colour"
    size = f"{terminal['columns']}×{terminal['lines']}" if terminal["columns"] else "size unknown"
    inside = [name for name in ("tmux", "ssh") if terminal[name]]
    return ", ".join([terminal["term"] or "TERM not set", colours, terminal["encoding"], size, *inside])
