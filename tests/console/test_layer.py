"""A layer of a run: its terms and its spectrum."""

from __future__ import annotations

from dataclasses import replace

import pytest
from consoles import SIZES, becomes, panels, shown, until
from monitored import frozen, glimpse, made, recovering, watch

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
        assert "1 Terms of layers.conv.0" in shown(pilot)
        await pilot.press("j")
        await until(pilot, "f(Ψ)")
        assert "1 Terms of layers.conv.1" in shown(pilot)
        assert "line,iteration" in pilot.app.screen.csv()
        await pilot.press("k")
        await until(pilot, "not measured")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is page)

    watch(folder, script)


@pytest.mark.parametrize(("beta", "words"), [(1e-9, " · β 1e-09"), (0.245, " · ┊ λ = β 0.245")])
def test_a_spectrum_names_beta_also_outside_its_axis(tmp_path, beta, words):
    folder = made(tmp_path / "seen", recovering)
    replace(glimpse(), beta=beta).write(folder / "glimpse.safetensors")

    async def script(pilot, page):
        await pilot.press("2")
        await until(pilot, f"Spectrum of layers.conv.2 (2 of 2, j k){words}")
        await pilot.press("4", "j", "enter")
        await until(pilot, f"Spectrum: batch 3, it 20{words}")

    watch(folder, script)


def test_a_spectrum_has_no_beta_where_no_filter_uses_it(tmp_path):
    def record(run):
        (run.folder / "config.yaml").write_text("objective: sre2l\n")
        recovering(run)

    folder = made(tmp_path / "seen", record)

    async def script(pilot, page):
        await pilot.press("2")
        await until(pilot, "Spectrum of layers.conv.2 (2 of 2, j k)")
        assert "β" not in shown(pilot)

    watch(folder, script)
