"""The load of this machine: processors, memory and NVIDIA GPUs.

GPUs are read through NVML, and left out where there is no driver or no ``nvidia-ml-py``.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True)
class GpuLoad:
    """One GPU. busy: percent of time. used, total: bytes of memory. others: other processes that use it."""

    number: int
    busy: int
    used: int
    total: int
    others: int


@dataclass(frozen=True)
class HostLoad:
    """The machine's load. processors: percent of all cores. used, total: bytes of memory."""

    processors: float
    used: int
    total: int
    gpus: tuple[GpuLoad, ...] = ()


class HostMonitor:
    """Reads the load at most every `EVERY_SECONDS`."""

    EVERY_SECONDS = 2.0

    def __init__(self) -> None:
        self._nvml: Any = None
        self._is_nvml_loaded = False
        self._read_at = -self.EVERY_SECONDS
        self._load: HostLoad | None = None
        psutil.cpu_percent(None)  # the first call starts the measurement

    def read(self, own_pid: int | None = None) -> HostLoad | None:
        """Return the load; None before the first interval has passed. own_pid: not counted among others."""
        now = time.monotonic()
        if now - self._read_at < self.EVERY_SECONDS:
            return self._load
        is_first = self._read_at < 0
        self._read_at = now
        processors, memory = psutil.cpu_percent(None), psutil.virtual_memory()
        if not is_first:
            used = memory.total - memory.available
            self._load = HostLoad(processors, used, memory.total, self._read_gpus(own_pid))
        return self._load

    def _read_gpus(self, own_pid: int | None) -> tuple[GpuLoad, ...]:
        if not self._is_nvml_loaded:
            self._is_nvml_loaded = True
            with suppress(Exception):  # no package, no driver, or no GPU
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
        nvml, loads = self._nvml, []
        if nvml is None:
            return ()
        with suppress(nvml.NVMLError):
            for number in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                pids = {each.pid for each in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
                busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                others = len(pids - {own_pid})
                loads.append(GpuLoad(number, int(busy), int(memory.used), int(memory.total), others))
        return tuple(loads)
