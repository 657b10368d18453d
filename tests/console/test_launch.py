"""A new experiment looked at beforehand, its data fetched, launched: on real data, runs and screens."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from consoles import SIZES, burst, console, golden, shown, until
from forms import Recorded, focused, opened, played, tell, write

from cfm_tui.console.engine_link import Configure
from cfm_tui.console.form import Form
from cfm_tui.console.preflight import Findings, Study
from cfm_tui.console.screens.dialogs import Choice
from cfm_tui.console.widgets.chart import Chart
from engine.config import settings
from engine.data import catalogue
from engine.data.catalogue import Archive
from engine.runs import preview
from engine.runs.estimates import Estimate
from engine.store import StoredRun

FOLDER = "cifar-10-batches-bin"


# --- launching -----------------------------------------------------------------------------------


def test_launch_asks_for_what_the_command_line_means(place):
    async def script(pilot, page):
        page.go(page.find_entry("ipc"))
        await write(pilot, "2")
        await pilot.press("enter", "l")
        await until(pilot, lambda: pilot.app.launched is not None)
        launched = pilot.app.launched
        assert launched.name == "smoke"
        assert launched.folder is None
        assert launched.resolved == settings.resolve(
            preset="smoke", sets=["ipc=2"], environ={"CFM_DATA_ROOT": "data", "CFM_REPEATS": "1"}
        )

    played(opened(place, kind=Recorded), script)


def test_f5_launches_from_inside_a_field_what_is_typed_in_it(place):
    async def script(pilot, page):
        page.go(page.find_entry("ipc"))
        burst(pilot.app, "enter", "4", "f5")
        await until(pilot, lambda: pilot.app.launched is not None)
        assert pilot.app.launched.resolved.config.ipc == 4

    played(opened(place, kind=Recorded), script)


def test_a_pending_launch_says_what_it_waits_for(place, monkeypatch):
    found = threading.Event()
    monkeypatch.setattr(Study, "_check_inputs", lambda study: found.wait(60))

    async def script(pilot, page):
        await pilot.press("f5")
        await until(pilot, "launches once data set and teacher are found")
        page.go(page.find_entry("ipc"))
        await write(pilot, "4")
        await pilot.pause()
        assert "launches once" not in shown(pilot)  # a change cancels it
        found.set()
        assert pilot.app.launched is None

    played(opened(place, kind=Recorded), script)
    found.set()


@pytest.mark.parametrize("answer", ["use", "keep"])
def test_launch_asks_where_the_preset_is_for_another_data_set(place, answer):
    async def script(pilot, page):
        page.go(page.find_entry("data.name"))
        await pilot.press("right")
        tell(page, Findings(page.form.config, possible=True))
        await pilot.press("f5")
        assert isinstance(pilot.app.screen, Choice)
        await pilot.press(answer[0])
        await pilot.pause()
        if answer == "use":
            assert page.form.preset == "cifar10-10-convnet"
            assert pilot.app.launched is None
        else:
            await until(pilot, lambda: pilot.app.launched is not None)
            assert pilot.app.launched.resolved.config.data.name == "cifar10"

    played(opened(place, kind=Recorded), script)


def test_launch_is_refused_while_something_is_wrong(place):
    async def script(pilot, page):
        page.go(page.find_entry("ipc"))
        await write(pilot, "0")
        await pilot.press("enter", "g", "l")
        await until(pilot, "not yet")
        assert focused(page).name == "ipc"
        for key in ("w", "c", "v"):
            await pilot.press(key)
            assert pilot.app.screen is page
        assert pilot.app.launched is None

    played(opened(place, kind=Recorded), script)


@pytest.mark.parametrize(
    ("preset", "field", "value", "said"),
    [("tiny50", None, "", "does not exist"), ("smoke", "backbone.teacher", "none.pth", "does not exist")],
)
def test_launch_is_refused_where_data_or_teacher_are_absent(place, preset, field, value, said):
    async def script(pilot, page):
        if field:
            page.go(page.find_entry(field))
            await write(pilot, value)
            await pilot.press("enter")
        await pilot.press("l")
        await until(pilot, said)
        await until(pilot, "not yet")
        assert pilot.app.launched is None

    played(opened(place, preset, Recorded), script)


def test_launch_asks_where_the_machine_is_too_small(place):
    async def script(pilot, page):
        tell(page, Findings(page.form.config, possible=True, short="disk: 2 TB are needed, 1 GB is free"))
        await pilot.press("l")
        assert isinstance(pilot.app.screen, Choice)
        await pilot.press("n", "l")
        assert pilot.app.launched is None
        await pilot.press("y")
        await until(pilot, lambda: pilot.app.launched is not None)

    played(opened(place, kind=Recorded), script)


@pytest.mark.parametrize(("hours", "asks"), [(7.9, False), (60, True)])
def test_launch_asks_where_the_run_takes_long(place, hours, asks):
    async def script(pilot, page):
        estimate = Estimate({"recover": hours * 3600}, 10**9, 10**6, "from a few steps")
        tell(page, Findings(page.form.config, possible=True, estimate=estimate))
        await pilot.press("f5")
        await pilot.pause()
        assert isinstance(pilot.app.screen, Choice) == asks
        if asks:
            assert "This run takes about 60 h 00 min. Launch?" in shown(pilot)
            await pilot.press("escape")
            await pilot.pause()
            assert pilot.app.launched is None
            await pilot.press("f5", "enter")
        await until(pilot, lambda: pilot.app.launched is not None)

    played(opened(place, kind=Recorded), script)


def test_a_real_run_is_launched_and_then_known(place):
    """Ends with the real statistics in the cache, over which f(λ) is drawn."""

    async def launch(pilot, page):
        await pilot.press("l")
        await until(pilot, lambda: len(list(Path("runs").glob("smoke-*/results.json"))) == 1, 60)
        await until(pilot, lambda: pilot.app.session is None)
        run = StoredRun(next(Path("runs").iterdir()))
        assert run.state() == "finished"
        environ = {"CFM_DATA_ROOT": str(place / "data"), "CFM_REPEATS": "1"}
        meant = settings.resolve(preset="smoke", environ=environ).config
        assert settings.resolve(file=run.folder / "config.yaml", base=None).config == meant

    played(opened(place), launch)

    async def known(pilot, page):
        await pilot.press("v", "3")
        await until(pilot, "f(Ψ)", 60)
        first = page.query_one("#responses", Chart)._contents.title
        await pilot.press("s")
        assert page.query_one("#responses", Chart)._contents.title != first
        await pilot.press("2")
        await until(pilot, "%, by an earlier run")
        await pilot.press("4")
        await until(pilot, "B memory", 60)
        assert "cached or not needed" in shown(pilot)

    played(opened(place), known)


# --- finding out ---------------------------------------------------------------------------------


def test_small_data_are_looked_at_unasked(place):
    async def script(pilot, page):
        await until(pilot, "1,438 train + 359 test", 60)
        await until(pilot, lambda: page.query_one("#samples").display)
        assert page.findings.parameters
        await pilot.press("4")
        await until(pilot, "B memory", 60)
        page.go(page.find_entry("objective.beta"))
        await write(pilot, "0.2")
        await pilot.press("enter")
        assert page.findings.estimate is None  # it was another experiment's
        assert page.findings.look is not None

    played(opened(place), script)


def test_what_is_absent_says_how_to_get_it(place):
    async def script(pilot, page):
        await until(pilot, "cfm data get")
        await until(pilot, "d: download 248 MB")

    played(opened(place, "tiny50"), script)


def test_what_is_there_or_cannot_be_fetched_is_not(place):
    async def script(pilot, page):
        await until(pilot, "comes with the program")
        await pilot.press("d")
        await until(pilot, "digits: comes with the program")
        assert page._fetch is None

    played(opened(place), script)


class Server(http.server.ThreadingHTTPServer):
    body = b""
    pause = 0.0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        with suppress(ConnectionError):
            for start in range(0, len(self.server.body), 300_000):
                self.wfile.write(self.server.body[start : start + 300_000])
                time.sleep(self.server.pause)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serves a small CIFAR-10 with noise beside it."""
    running = Server(("127.0.0.1", 0), Handler)
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    names = [*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin", "noise"]
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name in names:
            content = rng.bytes(2_000_000) if name == "noise" else b"\x01" + rng.bytes(3072)
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    running.body = stream.getvalue()
    url = f"http://127.0.0.1:{running.server_address[1]}/cifar.tar.gz"
    archive = Archive(url, hashlib.md5(running.body).hexdigest(), FOLDER, len(running.body))
    monkeypatch.setitem(catalogue.KNOWN, "cifar10", replace(catalogue.KNOWN["cifar10"], archive=archive))
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_set_is_downloaded(place, server):
    async def script(pilot, page):
        await until(pilot, "d: download")
        await pilot.press("d")
        await until(pilot, "cifar10 is downloaded")
        await until(pilot, f"at data/{FOLDER}")

    played(opened(place, "cifar10-10"), script)


def test_leaving_the_page_ends_a_download_that_can_go_on(place, server):
    server.pause = 0.3

    async def script(pilot, page):
        await until(pilot, "d: download")
        await pilot.press("d")
        await until(pilot, "leaving this page stops it")
        await until(pilot, "of 2.0 MB")
        fetch = page._fetch
        await pilot.press("escape")
        await until(pilot, lambda: not fetch.is_alive())
        assert not fetch.done
        assert 0 < (place / "data" / "cifar.tar.gz.part").stat().st_size < len(server.body)

    played(opened(place, "cifar10-10"), script)


def test_help_names_the_keys(place):
    async def script(pilot, page):
        await pilot.press("question_mark")
        names = {command.name for command in pilot.app.screen._commands}
        for name in ("launch", "preset", "write", "copy", "estimate", "download", "layer"):
            assert f"configure.{name}" in names
        assert "field.edit" in names
        moves = [each for each in pilot.app.screen._commands if each.text == "Next field"]
        assert [(set(each.keys.split()), each.name) for each in moves] == [({"↓", "tab", "j"}, "form.next")]

    played(opened(place), script)


# --- screens -------------------------------------------------------------------------------------


def recorded(config):
    """What might be known of it."""
    look = preview.preview_dataset(config)
    seconds = {"squeeze": 0.0, "statistics": 0.0, "recover": 75.0, "relabel": 0.5, "validate": 4000.0}
    return Findings(
        config,
        possible=True,
        sets=tuple(preview.list_datasets()),
        look=look,
        parameters=preview.count_parameters(config, look),
        accuracy=97.5,
        spectra={"layers.conv.1": np.logspace(1, -6, 64), "layers.conv.2": np.logspace(0, -4, 64)},
        estimate=Estimate(seconds, 512_000_000, 4_800_000, "from a few steps of each stage on cpu"),
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_screen_at_every_size(place, size):
    async def script(pilot, page):
        tell(page)
        page.form.write("ipc", "10")
        page.form.write("recover.lr", "-1")
        page.check()
        await pilot.pause()
        page.go(page.find_entry("recover.lr"))
        await pilot.pause()
        name = f"{size[0]}x{size[1]}"
        if size[0] < 200:
            golden(f"configure-wrong-{name}", shown(pilot))
        page.form.write("recover.lr", "")
        page.check()
        tell(page, recorded(page.form.config))
        for number, panel in enumerate(("data", "backbone", "objective", "budget", "launch"), 1):
            await pilot.press(str(number))
            await pilot.pause()
            if size[0] < 110 or panel in ("data", "objective"):
                golden(f"configure-{panel}-{name}", shown(pilot))

    played(opened(place, "digits"), script, size)


@pytest.mark.parametrize("size", [(40, 12), (80, 24)])
def test_the_screen_where_data_are_absent(place, size):
    async def script(pilot, page):
        await until(pilot, "does not exist")
        await pilot.pause(0.5)  # the rest of the page follows its first words
        golden(f"configure-absent-{size[0]}x{size[1]}", shown(pilot))

    played(opened(place, "tiny50"), script, size)


def test_a_size_may_change_at_any_time(place):
    async def script(pilot, page):
        for size in (*SIZES, (20, 5), (200, 10), (30, 60), *SIZES):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert focused(page) is not None
            for key in "35":
                await pilot.press(key)

    played(opened(place), script)


def test_plain_terminals_show_it(place):
    from cfm_tui.display.terminal import Terminal

    form = Form("digits", {})
    app = console(place / "runs", opening=Configure(form), terminal=Terminal(False, False, False, 0))

    async def script(pilot, page):
        await pilot.press("3")
        await pilot.pause()
        assert "objective.method" in shown(pilot)
        assert "enter edit" in shown(pilot)

    played(app, script)
