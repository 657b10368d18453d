"""Keys and pasted texts, delivered one after the other."""

from __future__ import annotations

from typing import Any

from textual._callback import invoke
from textual.app import App
from textual.events import Key, Paste


async def deliver(app: App[Any], event: Key | Paste) -> None:
    """Handle an event completely, from the focused widget up to the key bindings of the application.

    Textual posts an event to the widget that has the focus when it arrives, then from parent to parent, and
    runs a binding at the end. Where several keys arrive at once, letters overtake the actions of earlier
    keys, and a key that follows a change of the focus reaches the wrong widget.
    """
    await app.screen._mounted_event.wait()
    app.app_focus = True
    if isinstance(event, Key) and await app._check_bindings(event.key, priority=True):
        return
    event._set_forwarded()
    for node in (app.focused or app.screen).ancestors_with_self:
        for _, handler in node._get_dispatch_methods(event.handler_name, event):
            await invoke(handler, event)
        if event._stop_propagation:
            return
