"""The load of this machine, with and without GPUs."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import psutil
import pytest

from cfm_tui.display import host
from cfm_tui.display.host import GpuLoad, HostMonitor


@pytest.fixture
def clock(monkeypatch):
    times = SimpleNamespace(now=100.0)
    monkeypatch.setattr(host.time, "monotonic", lambda: times.now)
    return times


def test_the_load_is_read_now_and_then(clock, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # cannot be imported
    readings = iter([0.0, 0.0, 50.0, 75.0])
    monkeypatch.setattr(psutil, "cpu_percent", lambda _: next(readings))
    monitor = HostMonitor()
    assert monitor.read() is None
    clock.now += 2
    load = monitor.read()
    assert (load.processors, load.gpus) == (50.0, ())
    assert 0 < load.used < load.total == psutil.virtual_memory().total
    clock.now += 1
    assert monitor.read() is load
    clock.now += 1
    assert monitor.read().processors == 75.0


def test_gpus_say_how_busy_and_how_full_they_are_and_who_else_uses_them(clock, monkeypatch):
    class NVMLError(Exception):
        pass

    def memory(handle):
        return SimpleNamespace(used=11 * 10**9, total=80 * 10**9)

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=87),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=1), SimpleNamespace(pid=2)],
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monitor = HostMonitor()
    monitor.read()
    clock.now += 2
    assert monitor.read(own_pid=2).gpus == (GpuLoad(0, 87, 11 * 10**9, 80 * 10**9, 1),)

    def fail(handle):
        raise NVMLError

    fake.nvmlDeviceGetMemoryInfo = fail
    clock.now += 2
    assert monitor.read().gpus == ()
