"""The names of everything that a key does, by which a user gives it another."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from textual.binding import Binding
from textual.dom import DOMNode

import cfm_tui.console.screens as screens
import cfm_tui.console.widgets as widgets
from cfm_tui.console import app


def names() -> list[str]:
    """All of them, in alphabetical order."""
    places = [app.__name__]
    for package in (screens, widgets):
        places += [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    found = set()
    for place in places:
        for _, kind in inspect.getmembers(importlib.import_module(place), inspect.isclass):
            if issubclass(kind, DOMNode) and kind.__module__.startswith("cfm_tui."):
                bindings = vars(kind).get("BINDINGS", ())
                found |= {each.id for each in bindings if isinstance(each, Binding) and each.id}
    return sorted(found)
