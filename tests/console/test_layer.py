"""A layer of a run: its terms and its spectrum."""

from __future__ import annotations

import pytest
from consoles import SIZES, becomes, panels, until
from monitored import frozen, made, recovering, watch

from cfm_tui.console.screens.layer import LayerPage
from engine.store import lock


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


@pytest.mark.parametrize("size", SIZES)
def test_a_layer_at_every_size(tmp_path, monkeypatch, size):
    frozen(monkeypatch)
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await pilot.press("4", "j", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, LayerPage))
        await pilot.press("2")
        await until(pilot, "f(Ψ")
        await pilot.pause(0.3)
        await becomes(pilot, f"monitor-layer-{size[0]}x{size[1]}", panels)

    watch(folder, script, size)


def test_a_layer_opens_closes_and_leads_to_the_next(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await until(pilot, "in order")
        await pilot.press("4", "enter")
        await until(pilot, "Ψ is not measured at this layer")
        await pilot.press("j")
        await until(pilot, "f(Ψ)")
        assert "line,iteration" in pilot.app.screen.csv()
        await pilot.press("k")
        await until(pilot, "not measured")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is page)

    watch(folder, script)
