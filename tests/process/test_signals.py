"""Signal handlers are called by name, and are restored."""

import os
import signal

from cfm_tui.process.signals import handle_signals, install_handlers
from engine.runs.control import Control


def test_a_run_is_asked_to_stop_and_the_handlers_before_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    control, said = Control(), []
    with handle_signals(control, said.append) as received:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGINT)
        received.report()
    assert signal.getsignal(signal.SIGTERM) is before
    assert control.take() == [("checkpoint", "SIGUSR1"), ("stop", "SIGINT")]
    assert said == ["SIGINT: stopping at the next checkpoint; press Ctrl-C again to exit immediately"]


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert install_handlers(["SIGHUP", "SIGNONE"], print) == {}
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
