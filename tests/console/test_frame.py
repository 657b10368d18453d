"""The console's preferences, its allowances, and a run on its own thread."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cfm_tui.console import driver
from cfm_tui.console.app import list_action_names
from cfm_tui.console.driver import Governor
from cfm_tui.console.preferences import Preferences
from cfm_tui.console.session import Session
from cfm_tui.process import detach
from engine.config import settings
from engine.errors import UserError
from engine.store import StoredRun, control

# --- preferences --------------------------------------------------------------------------------------


def read(folder, text):
    path = folder / "console.yaml"
    path.write_text(text)
    return Preferences.read(path, list_action_names)


def test_without_a_file_all_is_usual(tmp_path):
    assert Preferences.read(tmp_path / "none.yaml", list) == Preferences()


def test_preferences_are_read(tmp_path):
    found = read(tmp_path, "theme: cfm-safe\nimages: off\nfps: 0.5\nkeys: {runs.turn: 'z,ctrl+o'}\n")
    assert found == Preferences("cfm-safe", "off", 0.5, {"runs.turn": "z,ctrl+o"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("thme: cfm-safe", "did you mean theme?"),
        ("theme: cfm-save", "did you mean cfm-safe?"),
        ("images: haif", "did you mean half?"),
        ("fps: fast", "fps is 'fast'"),
        ("fps: 0", "fps is 0"),
        ("fps: true", "fps is True"),
        ("keys: [q]", "keys is not a mapping"),
        ("keys: {runs.trun: z}", "did you mean runs.turn?"),
        ("keys: {runs.turn: 7}", "keys.runs.turn is 7"),
        ("keys: {runs.turn: ''}", "keys.runs.turn is ''"),
        ("- 1", "console.yaml"),
    ],
)
def test_what_is_wrong_with_preferences_is_named(tmp_path, text, said):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_every_action_has_a_name_of_its_own():
    found = list_action_names()
    assert {"app.quit", "runs.sort", "page.fill", "table.down"} <= set(found)
    assert len(found) == len(set(found))


# --- allowances ---------------------------------------------------------------------------------------


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = self.spent = 0.0
        monkeypatch.setattr(driver.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(driver.time, "thread_time", lambda: self.spent)


def test_bytes_stay_within_their_rate(monkeypatch):
    clock = Clock(monkeypatch)
    allowed, sent = Governor(), 0
    for _ in range(1200):  # ten minutes at two frames a second
        clock.now += 0.5
        if allowed.may_draw(sent, is_computing=False):
            sent += 20_000
    assert sent <= 600 * Governor.BYTES_PER_SECOND + 2 * Governor.BURST_BYTES
    assert sent >= 0.9 * 600 * Governor.BYTES_PER_SECOND


def test_drawing_takes_no_more_than_its_share_of_a_core(monkeypatch):
    clock = Clock(monkeypatch)
    allowed, frames = Governor(), 0
    for _ in range(1200):
        clock.now += 0.5
        if allowed.may_draw(0, is_computing=True):
            clock.spent += 0.05
            frames += 1
    assert clock.spent <= 600 * Governor.SHARE + 2 * Governor.BURST_SECONDS
    assert frames >= 0.9 * 600 * Governor.SHARE / 0.05


def test_nobody_is_spared_where_no_run_is_computed_here(monkeypatch):
    clock = Clock(monkeypatch)
    allowed = Governor()
    for _ in range(100):
        clock.now += 0.5
        clock.spent += 0.5
        assert allowed.may_draw(0, is_computing=False)


def test_a_busy_while_is_not_paid_for_with_a_long_silence(monkeypatch):
    clock = Clock(monkeypatch)
    allowed = Governor()
    clock.now, clock.spent = 1.0, 60.0
    assert not allowed.may_draw(10**9, is_computing=True)
    clock.now += 1 + Governor.BURST_SECONDS / Governor.SHARE
    assert allowed.may_draw(10**9, is_computing=True)


# --- a run on its own thread --------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_session_computes_a_run_to_its_end(place):
    session = Session(settings.resolve(preset="smoke"), "smoke")
    assert session.wait(120)
    assert session.failure() is None
    assert StoredRun(session.folder).state() == "finished"


def test_a_session_is_steered_and_gone_on_with(place):
    session = Session(settings.resolve(preset="smoke", sets=["recover.iterations=100000"]), "smoke")
    session.ask("checkpoint", "a test")  # while it is still loading
    until(lambda: session.folder is not None and StoredRun(session.folder).status().get("batch"))
    session.ask("pause", "a test")
    until(lambda: StoredRun(session.folder).state() == "paused")
    session.ask("stop", "a test")
    assert session.wait(60)
    assert session.failure() is None
    assert StoredRun(session.folder).state() == "stopped"
    again = Session(None, "smoke", session.folder)
    until(lambda: again.state == "running" and StoredRun(session.folder).state() == "running")
    again.ask("stop", "a test")
    assert again.wait(60)


def test_what_goes_wrong_is_kept_with_its_traceback(place):
    wrong = settings.resolve(preset="smoke", sets=["ipc=100000"])
    session = Session(wrong, "smoke")
    assert session.wait(60)
    message, hint, whole = session.failure()
    assert "fewer than ipc" in message
    assert "set ipc to" in hint
    assert "Traceback" in whole


@pytest.fixture
def at_work(place):
    session = Session(settings.resolve(preset="smoke", sets=["recover.iterations=100000"]), "smoke")
    until(lambda: session.folder is not None and StoredRun(session.folder).status().get("batch"))
    return session


def test_a_run_is_handed_over_once_and_stays_paused(at_work):
    at_work.ask("pause", "a test")
    until(lambda: StoredRun(at_work.folder).state() == "paused")
    with ThreadPoolExecutor() as pool:
        heirs = set(pool.map(at_work.hand_over, ("a test", "another")))
    assert heirs == {at_work.heir}
    run = StoredRun(at_work.folder)
    until(lambda: run.state() == "paused" and run.status()["pid"] == at_work.heir)
    assert "cfm attach" in at_work.farewell()
    control.request(at_work.folder, "stop")
    until(lambda: run.state() == "stopped")
    detach._started.pop().wait(60)


def test_a_run_that_was_to_be_stopped_is_not_handed_over(at_work):
    at_work.ask("stop", "a test")
    assert at_work.hand_over("SIGHUP") is None
    assert StoredRun(at_work.folder).state() == "stopped"
    assert "cfm resume" in at_work.farewell()


def test_what_is_said_of_a_run_that_failed_before_it_had_a_folder(place):
    session = Session(settings.resolve(preset="smoke", sets=["ipc=100000"]), "smoke")
    assert session.wait(60)
    assert session.hand_over("SIGHUP") is None
    assert "set ipc to" in session.farewell()
    assert "None" not in session.farewell()


def test_a_page_that_cannot_be_drawn_is_told_and_nothing_ends(place, monkeypatch):
    from consoles import console, drive
    from consoles import until as shows

    from cfm_tui.console.screens.runs import RunsPage

    async def script(pilot):
        monkeypatch.setattr(RunsPage, "tick", lambda page: 1 / 0)
        await shows(pilot, "ZeroDivisionError")
        await pilot.press("t")
        await shows(pilot, "Traceback")

    drive(console(place / "runs"), script)
