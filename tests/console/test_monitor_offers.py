"""The monitor of runs at rest: the images that they keep, and what its last line offers."""

from __future__ import annotations

import threading

import pytest
from consoles import console, drive, shown, until
from images_run import with_images
from monitored import before_recovery, elsewhere, made, recovering, watch

from cfm_tui.console.app import ConsoleApp
from cfm_tui.console.engine_link import OpenRun
from cfm_tui.console.pictures import Sample
from cfm_tui.display.run_state import RunModel
from engine.store import lock


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def keys(pilot):
    """The line with the keys of the page."""
    return shown(pilot).splitlines()[-2]


@pytest.mark.parametrize("text", ["objective: random\n", "seed: 0\n"])
@pytest.mark.parametrize("batches", [2, 4])
def test_images_that_no_recovery_shows_as_it_goes_are_shown(tmp_path, text, batches):
    run, writer = with_images(tmp_path / "seen", batches=batches, text=text)
    writer.close()
    run.close("finished")

    async def script(pilot, page):
        await until(pilot, "3 Images · 12" if batches == 4 else "3 Images · 6 of 12")
        await until(pilot, lambda: len(page._images._images) == 3 * batches)
        assert page._images._labels[:3] == ["ant", "bee", "cat"]
        assert "ant" in shown(pilot)

    watch(tmp_path / "seen", script, (120, 40))


def test_a_run_without_images_says_so(tmp_path):
    folder = made(tmp_path / "seen", before_recovery, "stopped")

    async def script(pilot, page):
        await until(pilot, lambda: "3 Images · none" in shown(pilot) and "none yet" not in shown(pilot))

    watch(folder, script, (120, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("objective: random\n", "this run optimises no images"),
        ("objective: sre2l\n", "taps batchnorm have means and variances only"),
        ("seed: 0\n", "no spectra are recorded: recovery writes them"),
    ],
)
def test_a_run_without_spectra_says_why(tmp_path, text, said):
    run, writer = with_images(tmp_path / "seen", batches=2, text=text)
    writer.close()
    run.close("finished")

    async def script(pilot, page):
        await until(pilot, "2 Spectrum: none recorded")
        words = " ".join(str(row.text) for row in page._spectrum.chart._strips)
        assert said in " ".join(words.split())

    watch(tmp_path / "seen", script, (120, 40))


def test_panels_are_reading_until_the_record_and_its_images_are_read(tmp_path, monkeypatch):
    folder = made(tmp_path / "seen", before_recovery, "stopped")
    gate, sampling = threading.Event(), threading.Event()
    read_record, read_sample = RunModel.read, Sample.read
    monkeypatch.setattr(RunModel, "read", lambda model, *a: gate.wait(20) and read_record(model, *a))
    monkeypatch.setattr(Sample, "read", lambda *a: sampling.wait(20) and read_sample(*a))

    async def script(pilot):
        titles = "1 Loss", "2 Spectrum", "3 Images", "4 Result", "5 Log"
        for title in titles:
            await until(pilot, f"─{title} · reading …─")
        assert "yet" not in shown(pilot)
        gate.set()
        await until(pilot, "2 Spectrum: none recorded")
        assert "3 Images · reading …─" in shown(pilot)
        assert shown(pilot).count("reading …") == 1
        sampling.set()
        await until(pilot, "3 Images · none─")

    drive(console(tmp_path, opening=OpenRun(folder)), script, (120, 40))


def test_a_title_names_the_panels_that_its_panel_hides(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await until(pilot, "─1 Loss of recovery, over all layers · log · faint: raw · 2 spectrum─")
        await until(pilot, "─4 Layers of batch 3, in order · 5 log─")
        await pilot.press("2", "j")
        await until(pilot, "─2 Spectrum of layers.conv.1 (1 of 2, j k) · ┊ λ = β 0.245 · 1 loss─")
        await pilot.press("5", "l")
        await until(pilot, "─5 Log · 3 images · 4 result─")
        await pilot.resize_terminal(61, 24)
        await pilot.press("1", "4")
        await until(pilot, "─1 Loss of recovery, over all layers · log · f… · 2 spectrum─")
        await pilot.press("f")
        await until(pilot, "─4 Layers of batch 3, in order─")
        await pilot.press("f")
        await pilot.resize_terminal(120, 40)
        await until(pilot, "─5 Log─")
        assert "· log · faint: raw─" in shown(pilot)
        assert "in order─" in shown(pilot)

    watch(folder, script)


def test_space_continues_a_paused_run(tmp_path):
    folder = made(tmp_path / "seen", recovering, "paused")

    async def script(pilot, page):
        await until(pilot, lambda: "space continue" in keys(pilot))
        assert "space pause" not in keys(pilot)
        elsewhere(folder, state="running")
        await until(pilot, lambda: "space pause" in keys(pilot))
        assert "space continue" not in keys(pilot)
        await pilot.press("space")
        await until(pilot, lambda: "space continue" in keys(pilot))

    watch(folder, script)


@pytest.mark.parametrize("state", ["stopped", "failed", "lost"])
def test_a_run_that_ended_early_is_resumed_as_from_the_list(tmp_path, monkeypatch, state):
    facts = {"time": "2020-01-01T00:00:00Z"} if state == "lost" else {}
    folder, launched = made(tmp_path / "seen", recovering, "running" if facts else state, **facts), []
    monkeypatch.setattr(ConsoleApp, "on_launch", lambda app, message: launched.append(message))

    async def script(pilot, page):
        await until(pilot, state.upper())
        await until(pilot, lambda: "o resume" in keys(pilot))
        await pilot.press("o")
        await until(pilot, "Resume seen?")
        await pilot.press("h")
        await until(pilot, lambda: launched)

    watch(folder, script)
    assert [(message.resolved, message.name, message.folder) for message in launched] == [
        (None, "seen", folder)
    ]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_run_at_work_is_not_resumed(tmp_path, read_only):
    folder = made(tmp_path / "seen", recovering, "stopped" if read_only else "running")

    async def script(pilot, page):
        await until(pilot, "STOPPED" if read_only else "RUNNING")
        assert ("o resume" in keys(pilot)) is read_only
        await pilot.press("o")
        await until(pilot, lambda: len(pilot.app._notifications) > 0)
        assert pilot.app.screen is page

    watch(folder, script, read_only=read_only)


@pytest.mark.parametrize(("state", "offered"), [("running", True), ("stopped", False)])
def test_the_last_line_offers_what_can_be_done(tmp_path, state, offered):
    folder = made(tmp_path / "seen", recovering, state)

    async def script(pilot, page):
        await until(pilot, state.upper())
        await until(pilot, lambda: ("space pause" in keys(pilot)) is offered)
        assert ("S stop" in keys(pilot)) is ("w save" in keys(pilot)) is offered
        assert "D leave running" not in keys(pilot)  # it is not at work here
        assert "i gallery" in keys(pilot)

    watch(folder, script)
