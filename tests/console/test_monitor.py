"""The monitor on recorded runs: what it says of each state, what its keys do, and that it stays quiet."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from consoles import SIZES, becomes, console, drive, panels, shown, until
from monitored import TAPS, copied, elsewhere, frozen, glimpse, made, recovering, validating, watch
from recorded import opened

from cfm_tui.console.engine_link import OpenGallery, OpenRun
from cfm_tui.console.screens import monitor
from cfm_tui.console.screens.dialogs import Choice
from cfm_tui.console.screens.monitor_results import Numbers
from cfm_tui.console.screens.words import Words
from cfm_tui.console.widgets.picture import Picture
from engine import events
from engine.errors import UserError
from engine.store import StoredRun, lock


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("record", [recovering, validating], ids=lambda record: record.__name__)
def test_the_screen_at_every_size(tmp_path, monkeypatch, size, record):
    frozen(monkeypatch)
    folder = made(tmp_path / "seen", record)

    async def script(pilot, page):
        seen = {1} if size[1] < 18 else {1, 3, 4}
        await until(pilot, lambda: not page._stale & seen)
        await pilot.pause(0.3)
        await becomes(pilot, f"monitor-{record.__name__}-{size[0]}x{size[1]}", panels)

    watch(folder, script, size, images="ascii")


@pytest.mark.parametrize(
    ("state", "message", "told"),
    [
        ("failed", "Ψ + βI of real tap a is singular", ["FAILED in recover", "is singular", "cfm resume"]),
        ("stopped", "stopped by you", ["STOPPED in recover", "stopped by you", "cfm resume"]),
        ("paused", "", ["PAUSED", "space continues the run", "batch 3/8  it 20/40"]),
        ("running", "", ["RUNNING in process 4321 on node7", "12.5 it/s", "left"]),
    ],
)
def test_every_state_is_told_in_words(tmp_path, state, message, told):
    folder = made(tmp_path / "seen", recovering, state, message)

    async def script(pilot, page):
        await until(pilot, told[0])
        text = shown(pilot)
        assert [each for each in told if each not in text] == []

    watch(folder, script)


def test_a_lost_run_says_who_is_gone_and_what_goes_on(tmp_path):
    folder = made(tmp_path / "seen", recovering, time="2020-01-01T00:00:00Z")

    async def script(pilot, page):
        await until(pilot, "process 4321 on node7 is gone")
        assert "`cfm resume" in shown(pilot)
        await pilot.press("space")
        await until(pilot, "no process is computing this run")

    watch(folder, script)


def test_a_run_that_another_process_will_take_over_is_starting(tmp_path):
    folder = made(tmp_path / "seen", recovering, "stopped")
    elsewhere(folder, starting={**lock.this_process(), "time": lock.timestamp()})

    async def script(pilot, page):
        await until(pilot, "takes the run over once it has loaded")
        assert "● STARTING" in shown(pilot)
        assert "cfm resume" not in shown(pilot)
        elsewhere(folder, starting={**lock.this_process(), "started": 1.0})
        await until(pilot, "STOPPED in recover")

    watch(folder, script, (120, 40))


def test_a_damaged_run_says_how_it_is_looked_into(tmp_path):
    folder = made(tmp_path / "seen", recovering)
    (folder / "config.yaml").write_text("seed: 1\n")

    async def script(pilot, page):
        await until(pilot, "DAMAGED")
        assert "`cfm check" in shown(pilot)

    watch(folder, script)


def test_a_finished_run_shows_its_results_and_all_of_its_course(finished):
    async def script(pilot, page):
        await until(pilot, "FINISHED")
        text = shown(pilot)
        assert "against random" in text
        assert "teacher" in text
        await pilot.press("4", "v")
        await until(pilot, "best % is optimistic")
        await pilot.press("v")
        await until(pilot, "Layers of batch")
        await pilot.press("1")
        for losses in ("of students", "of the teacher", "of recovery"):
            await pilot.press("v")
            await until(pilot, f"Loss {losses}")

    watch(finished, script)


def test_what_is_recorded_later_is_shown(tmp_path):
    run = opened(tmp_path / "seen")

    async def script(pilot, page):
        await until(pilot, "○ recover")
        recovering(run)
        await until(pilot, "▶ recover 31%")
        await until(pilot, "batch 3/8")
        await until(pilot, "Images +7 · batch 3, it 20")
        run.record(events.Notice("warning", "the disk is slow"))
        await pilot.press("5")
        await until(pilot, "! the disk is slow")

    watch(tmp_path / "seen", script)
    run.close("stopped")


def test_one_panel_is_drawn_where_one_is_seen(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await until(pilot, "1 Loss")
        assert page._spectrum.chart._contents.lines == ()
        await pilot.press("2")
        await until(pilot, "2 Spectrum of layers.conv.2")
        await pilot.press("3")
        await until(pilot, "3 Images +6 · batch 3")

    watch(folder, script, (40, 12))


def test_the_table_is_sorted_by_every_column(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await until(pilot, "in order")
        table = page.query_one(Numbers)
        first = [str(cell) for cell in table.get_row_at(0)]
        assert first[0] == TAPS[0].removeprefix("layers.")
        await pilot.press("4", "s")
        await until(pilot, "by ridge/none")
        await pilot.press("s", "s")
        await until(pilot, "in order")

    watch(folder, script)


def test_charts_zoom_and_change_their_axis(tmp_path):
    folder = made(tmp_path / "seen", validating)

    async def script(pilot, page):
        await until(pilot, "1 Loss of students, mean over seeds · log")
        chart = page._losses
        await pilot.press("y")
        assert not chart.log_axis
        await pilot.press("plus")
        assert chart.view is not None
        await pilot.press("minus", "plus", "0")
        assert chart.view is None

    watch(folder, script)


@pytest.mark.parametrize(("theme", "words"), [("cfm-dark", "faint: raw"), ("cfm-mono", "smoothed")])
def test_the_title_of_the_losses_names_a_faint_band_only_where_there_is_one(tmp_path, theme, words):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await until(pilot, f"over all layers · log · {words}")

    watch(folder, script, (200, 60), theme=theme)


def test_the_headline_is_never_the_control(tmp_path):
    """The card names the images of each number, also while the control is trained."""
    folder = made(tmp_path / "seen", validating)

    async def script(pilot, page):
        await until(pilot, "Result so far")
        text = shown(pilot)
        assert "distilled  67.00   convnet, seed 1, epoch 4 of 4" in text
        assert "random     54.00   convnet, seed 0, epoch 6 of 6" in text

    watch(folder, script, (120, 40))


def test_the_spectrum_shares_a_place_with_the_losses_and_goes_through_the_layers(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await until(pilot, "1 Loss")
        assert "Spectrum" not in shown(pilot)
        await pilot.press("2")
        await until(pilot, "Spectrum of layers.conv.2 (2 of 2, j k) · ┊ λ = β 0.245")
        assert "1 Loss" not in shown(pilot)
        assert "gap of Ψ_s to Ψ by layer: 1 " in shown(pilot)
        assert "50%" in shown(pilot)
        await pilot.press("j")
        await until(pilot, "Spectrum of layers.conv.1 (1 of 2")
        await pilot.press("1")
        await until(pilot, "1 Loss")

    watch(folder, script)


def test_a_chart_gives_its_numbers(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await until(pilot, "signal ")
        rows = list(csv.DictReader(io.StringIO(page.csv())))
        ce = [row for row in rows if row["line"] == "CE"]
        assert len(ce) == 100
        assert float(ce[0]["low"]) == pytest.approx(2.01)
        terms = [row for row in rows if row["line"] == "filter"]
        assert float(terms[0]["low"]) == pytest.approx(1.11, rel=1e-5)

    watch(folder, script)


def test_panels_fill_the_page(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await until(pilot, "4 Layers")
        await pilot.press("5")
        await until(pilot, "5 Log")
        assert "4 Layers" not in shown(pilot)
        await pilot.press("f")
        await until(pilot, lambda: "1 Loss" not in shown(pilot))
        await until(pilot, "Log · events · 1 folded")
        assert "checkpoint 2: 2.5 MB" not in shown(pilot)
        await pilot.press("l")
        await until(pilot, "checkpoint 2: 2.5 MB")
        await pilot.press("g", "G", "k", "j", "f", "4")
        await until(pilot, "4 Layers")

    watch(folder, script)


def with_gap(preview, gap):
    """The preview, with Ψ_s this far from Ψ at every layer."""
    sides = {tap: (real_D, real_D * (1 - gap)) for tap, (real_D, _) in preview.spectra.items()}
    return replace(preview, spectra=sides)


def test_earlier_images_are_shown_with_their_place_among_the_losses(tmp_path):
    folder = made(tmp_path / "seen", recovering)
    shots = {
        (batch, it): with_gap(glimpse(batch, it), 0.6 / batch if it else 0.9)
        for batch in (1, 2)
        for it in (0, 20, 40)
    }
    shots[1, 20] = replace(shots[1, 20], spectra={})

    async def script(pilot, page):
        await until(pilot, "3 Images · batch 3, it 20")
        run = page._model.repeat_run
        type(run).list_previews = lambda self: sorted(shots)
        type(run).read_preview = lambda self, batch, it: shots[batch, it]
        await pilot.press("left_square_bracket")
        await until(pilot, "Images · batch 2, it 40 · β 0.35")
        assert page._losses._contents.mark == 80
        await until(pilot, "Spectrum of layers.conv.2 (2 of 2, j k) · ┊ λ = β 0.35")
        lines = {line.name: line.y for line in page._spectrum.chart._contents.lines}
        assert np.allclose(lines["Ψ_s"], shots[2, 40].spectra["layers.conv.2"][1])
        await until(pilot, "mean, last 2 batches: █▁ 60% to 30%")
        await pilot.press("2", "j")
        await until(pilot, "Spectrum of layers.conv.1 (1 of 2, j k) · ┊ λ = β 0.35")
        await pilot.press(*["left_square_bracket"] * 9)
        await until(pilot, "Images · batch 1, it 0 · β 0.5")
        await until(pilot, "1 █ 90%")
        await pilot.press("right_square_bracket")
        await until(pilot, "Spectrum: none kept of batch 1, it 20")
        await pilot.press("right_square_bracket")
        await until(pilot, "Images · batch 1, it 40")
        await pilot.press("m")
        await until(pilot, lambda: not page._history.is_playing)
        await until(pilot, "Images · batch 1, it 40")
        await pilot.press(*["right_square_bracket"] * 4)
        await until(pilot, "Images · batch 3, it 20")
        assert page._losses._contents.mark is None

    known = StoredRun.list_previews, StoredRun.read_preview
    try:
        watch(folder, script, (120, 40))
    finally:
        StoredRun.list_previews, StoredRun.read_preview = known


@pytest.fixture
def with_starts(tmp_path, monkeypatch):
    """Record a run that has real images, and starts of the first `count` images; return its folder."""

    def record(count):
        folder, now = made(tmp_path / "seen", recovering), glimpse()
        real_MCHW, start_MCHW = 255 - now.images_MCHW[:, :, ::2, ::2], np.roll(now.images_MCHW, 1, 0)
        replace(now, real_MCHW=real_MCHW).write(folder / "glimpse.safetensors")
        start = replace(now, iteration=0, images_MCHW=start_MCHW[:count], labels_M=now.labels_M[:count])
        monkeypatch.setattr(StoredRun, "list_previews", lambda self: [(3, 0)])
        monkeypatch.setattr(StoredRun, "read_preview", lambda self, batch, iteration: start)
        return folder

    return record


def test_all_images_are_shown_where_they_do_not_fit_beside_their_starts(with_starts):
    now = glimpse()

    async def script(pilot, page):
        await until(pilot, "3 Images · batch 3, it 20 · v beside real · [ earlier")
        assert all(map(np.array_equal, page._images._images, now.images_MCHW))
        await pilot.press("3")
        assert pilot.app.focused is page._images
        await pilot.press("v")
        await until(pilot, "3 Real ▸ start ▸ now +6 · batch 3, it 20 · v now only")
        shown_CHW = page._images._images[1]
        assert shown_CHW.shape == (1, 16, 3 * 16 + 2 * 2)
        real_CHW = 255 - now.images_MCHW[9 if now.labels_M[1] else 8][:, ::2, ::2]
        assert np.array_equal(shown_CHW[:, :, :16], real_CHW.repeat(2, 1).repeat(2, 2))
        assert np.array_equal(shown_CHW[:, :, 18:34], now.images_MCHW[0])
        assert np.array_equal(shown_CHW[:, :, 36:], now.images_MCHW[1])
        await pilot.press("v")
        await until(pilot, "3 Images · batch 3, it 20 · v beside real")
        await pilot.resize_terminal(80, 24)
        await until(pilot, "3 Images +7 · batch 3, it 20─")
        assert "4 Layers" in shown(pilot)  # v in panel 3 leaves panel 4 as it is

    watch(with_starts(10), script, (120, 40))


def test_images_are_beside_their_starts_where_all_of_them_fit(with_starts):
    async def script(pilot, page):
        await pilot.press("3", "f")
        await until(pilot, "3 Real ▸ start ▸ now · batch 3, it 20 · v now only · [ earlier")
        assert len(page._images._images) == 10
        await pilot.press("v")
        await until(pilot, "3 Images · batch 3, it 20 · v beside real · [ earlier")

    watch(with_starts(10), script, (120, 40))


def test_images_are_alone_where_some_have_no_start(with_starts):
    async def script(pilot, page):
        await pilot.press("3", "f")
        await until(pilot, "3 Images · batch 3, it 20 · v beside real")
        await pilot.press("v")
        await until(pilot, "3 Real ▸ start ▸ now +5 · batch 3")

    watch(with_starts(5), script, (120, 40))


def test_images_without_starts_stay_alone(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await until(pilot, "3 Images · batch 3, it 20 · [ earlier")
        await pilot.press("3", "v")
        await until(pilot, lambda: any("no real images" in n.message for n in pilot.app._notifications))
        assert "3 Images · batch 3, it 20 · [ earlier" in shown(pilot)

    watch(folder, script, (120, 40))


def test_a_run_without_a_history_says_so(tmp_path):
    folder = made(tmp_path / "seen", recovering)
    for path in folder.glob("previews*"):
        path.unlink()

    async def script(pilot, page):
        await until(pilot, "3 Images +7 · batch 3")
        for key in ("left_square_bracket", "m"):
            await pilot.press(key)
            await until(pilot, lambda: any("no history" in n.message for n in pilot.app._notifications))
            pilot.app.clear_notifications()

    watch(folder, script)


def test_the_log_is_searched_and_reduced_to_warnings(tmp_path):
    run = opened(tmp_path / "seen")
    recovering(run)
    run.record(events.Notice("warning", "the disk is slow"))

    async def script(pilot, page):
        await pilot.press("slash", *"BATCH 2", "enter")
        await until(pilot, 'Log · events · "batch 2"')
        assert "batch 2 of 8" in shown(pilot)
        assert "batch 1 of 8" not in shown(pilot)
        await pilot.press("slash", *["backspace"] * 7, "enter", "l", "l")
        await until(pilot, "Log · warnings")
        assert "! the disk is slow" in shown(pilot)
        assert "batch 2 of 8" not in shown(pilot)

    watch(tmp_path / "seen", script)
    run.close("stopped")


def test_the_gallery_is_asked_for(tmp_path, monkeypatch):
    folder, asked = made(tmp_path / "seen", recovering), []

    async def script(pilot, page):
        monkeypatch.setattr(page, "post_message", lambda message: asked.append(message))
        page.action_images()
        monkeypatch.undo()

    watch(folder, script)
    assert [(type(message), message.folder) for message in asked] == [(OpenGallery, folder)]


def requests(folder):
    place = folder / "control"
    return sorted(path.suffix[1:] for path in place.iterdir()) if place.is_dir() else []


def test_another_process_is_asked_through_the_folder_and_its_answer_shown(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        await pilot.press("space")
        await until(pilot, "PAUSING")
        await until(pilot, lambda: requests(folder) == ["pause"])
        elsewhere(folder, state="paused")
        await until(pilot, "the engine waits")
        await pilot.press("space")
        await until(pilot, lambda: requests(folder) == ["continue", "pause"])
        elsewhere(folder, state="running")
        await until(pilot, "RUNNING")
        await pilot.press("S")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choice))
        await pilot.press("k")
        assert "stop" not in requests(folder)
        await pilot.press("S")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choice))
        await pilot.press("s")
        await until(pilot, "STOPPING")
        await until(pilot, lambda: "stop" in requests(folder))
        elsewhere(folder, state="stopped")
        await until(pilot, "STOPPED")
        await pilot.press("D")
        await until(pilot, "not computed here")

    watch(folder, script)


def test_a_checkpoint_that_was_asked_for_is_told(tmp_path):
    run = opened(tmp_path / "seen")
    recovering(run)

    async def script(pilot, page):
        await until(pilot, "RUNNING")
        await pilot.press("w")
        await until(pilot, lambda: [each.command for each in run.requests()] == ["checkpoint"])
        run.record(events.Checkpointed("recover", 9, 1_000_000, 0.5))
        await until(pilot, "checkpoint 9: 1.0 MB")

    watch(tmp_path / "seen", script)
    run.close("stopped")


def test_read_only_refuses_every_hand(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        for key in ("space", "w", "S", "D"):
            await pilot.press(key)
            await until(pilot, lambda: len(pilot.app._notifications) > 0)
            pilot.app.clear_notifications()
        assert requests(folder) == []
        assert pilot.app.screen is page

    watch(folder, script, read_only=True)


def test_nothing_is_painted_while_nothing_changes(finished, tmp_path, monkeypatch):
    folder, painted = copied(finished, tmp_path / "run"), []

    async def script(pilot, page):
        await until(pilot, "against random")
        await pilot.pause(2.5)
        for kind in (Words, Numbers, Picture):
            known = kind.refresh
            monkeypatch.setattr(
                kind,
                "refresh",
                lambda self, *a, known=known, **k: painted.append(self) or known(self, *a, **k),
            )
        for _ in range(20):
            page.tick()
        await pilot.pause()
        assert painted == []

    watch(folder, script)


def test_any_size_can_be_drawn(tmp_path):
    folder = made(tmp_path / "seen", recovering)

    async def script(pilot, page):
        for size in ((10, 3), (200, 60), (40, 12), (1, 1), (60, 18), (59, 60), (120, 20), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.1)
        await until(pilot, "signal ")
        await pilot.press("4", "enter")
        for size in ((10, 3), (1, 1), (59, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.1)
        await until(pilot, "2 Spectrum")

    watch(folder, script)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("disk", "the journal is gone", "restore it"), ["the journal is gone", "→ restore it"]),
        (RuntimeError("no such luck"), ["RuntimeError", "no such luck"]),
    ],
)
def test_a_record_that_cannot_be_opened_says_why(tmp_path, monkeypatch, error, said):
    def fail(run):
        raise error

    folder = made(tmp_path / "seen", recovering)
    monkeypatch.setattr(monitor, "RunModel", fail)

    async def script(pilot):
        await until(pilot, "the record cannot be read")
        await pilot.press("1")
        await pilot.pause(0.3)
        text = shown(pilot)
        assert [each for each in said if each not in text] == []
        assert "reading the record" not in text

    drive(console(folder.parent, opening=OpenRun(folder)), script, (120, 40))
