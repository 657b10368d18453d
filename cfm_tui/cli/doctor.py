"""`cfm doctor`: report what this machine offers, and problems that prevent a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from cfm_tui.cli.common import Json, print_json


def doctor(as_json: Json = False) -> None:
    """Check software, devices, folders, data sets and terminal; exit with 1 if no run is possible."""
    from cfm_tui.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        typer.echo("\n".join(_format_findings(findings)))
    if not findings["ok"]:
        raise typer.Exit(1)


def _format_findings(findings: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that `doctor` prints."""
    yield _format_entry("python", f"{findings['python']['version']} at {findings['python']['executable']}")
    yield _format_entry("system", findings["system"])
    packages = [f"{name} {version or 'missing'}" for name, version in findings["packages"].items()]
    for start in range(0, len(packages), 5):
        yield _format_entry("packages" if start == 0 else "", ", ".join(packages[start : start + 5]))
    for device in findings["devices"]:
        yield _format_entry(device["name"], _describe_device(device))
    for name, folder in findings["folders"].items():
        yield _format_entry(name, _describe_folder(folder))
    for data_set in findings["data_sets"]:
        place = f"at {data_set['path']}" if data_set["path"] else "comes with the program"
        yield _format_entry(
            data_set["name"], place if data_set["found"] else "not found; see `cfm data list`"
        )
    yield _format_entry("terminal", _describe_terminal(findings["terminal"]))
    yield ""
    for problem in findings["problems"]:
        yield f"{problem['level']}: {problem['message']}\n→ {problem['hint']}"
    if not findings["problems"]:
        yield "no problems"
    elif findings["ok"]:
        yield "runs are possible"
    else:
        yield "no run is possible until the errors are fixed"


def _format_entry(name: str, text: str) -> str:
    return f"{name:<14} {text}"


def _describe_device(device: dict[str, Any]) -> str:
    from cfm_tui.display.progress import format_bytes

    facts = [device["model"]]
    if "threads" in device:
        facts.append(f"{device['threads']} threads on {device['cpus']} processors")
    if "memory_bytes" in device:
        facts.append(format_bytes(device["memory_bytes"]))
    return ", ".join(fact for fact in facts if fact)


def _describe_folder(folder: dict[str, Any]) -> str:
    from cfm_tui.display.progress import format_bytes

    state = "" if folder["exists"] else ", does not exist yet"
    state += "" if folder["writable"] else ", not writable"
    return f"{folder['path']}{state}, {format_bytes(folder['free_bytes'])} free"


def _describe_terminal(terminal: dict[str, Any]) -> str:
    if not terminal["interactive"]:
        return f"none, output is redirected, {terminal['encoding']}"
    inside = [name for name in ("tmux", "ssh") if terminal[name]]
    facts = [
        terminal["term"] or "TERM not set",
        f"{terminal['colours']} colours" if terminal["colours"] != "true" else "true colour",
        terminal["encoding"],
        f"{terminal['columns']}×{terminal['lines']}" if terminal["columns"] else "size unknown",
        *inside,
    ]
    return ", ".join(facts)
