"""The names of all key bindings, by which `console.yaml` remaps them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from textual.binding import Binding
from textual.dom import DOMNode

import cfm_tui.console.screens as screens
import cfm_tui.console.widgets as widgets
from cfm_tui.console import app


def list_action_names() -> list[str]:
    """Return the ids of all key bindings of the console, sorted."""
    modules = [app.__name__]
    for package in (screens, widgets):
        modules += [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    binding_ids = set()
    for module_name in modules:
        for _, kind in inspect.getmembers(importlib.import_module(module_name), inspect.isclass):
            if issubclass(kind, DOMNode) and kind.__module__.startswith("cfm_tui."):
                bindings = vars(kind).get("BINDINGS", ())
                binding_ids |= {each.id for each in bindings if isinstance(each, Binding) and each.id}
    return sorted(binding_ids)
