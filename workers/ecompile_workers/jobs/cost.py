"""What one run of a Job used: processor time, memory, GPUs. Measured by the kernel and by NVML, nothing modelled.

The operator turns this into energy and a price, by its settings.
"""

from __future__ import annotations

import ctypes
import resource
import time
from contextlib import suppress
from dataclasses import dataclass

from ecompile_crds.jobs import JobCost

KIBIBYTE = 1024
"""Unit of `ru_maxrss` on Linux (getrusage(2))."""


@dataclass(frozen=True)
class Meter:
    """Started with a run; `read` says what has been used since the process began."""

    started: float
    gpu_millijoules: tuple[int, ...]
    """Energy counters of the GPUs that this container sees, at the start."""

    @staticmethod
    def start() -> Meter:
        return Meter(time.monotonic(), gpu_energy())

    def read(self) -> JobCost:
        """Until now. Compilers and other children that have ended count."""
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        wall = time.monotonic() - self.started
        gpus = len(self.gpu_millijoules)
        used = sum(now - before for now, before in zip(gpu_energy(), self.gpu_millijoules, strict=False))
        return JobCost(
            cpu_seconds=round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
            wall_seconds=round(wall, 3),
            peak_memory_bytes=max(own.ru_maxrss, children.ru_maxrss) * KIBIBYTE,
            gpu_seconds=round(gpus * wall, 3),
            gpu_joules=round(used / 1000, 3) if gpus else None,
        )


def gpu_energy() -> tuple[int, ...]:
    """Millijoules that each visible GPU has used since its driver was loaded; empty where there is none, or NVML is
    not there, or the GPU is older than the counter (Volta).

    nvmlDeviceGetTotalEnergyConsumption (NVML API reference, Device Queries). It counts the device, whoever uses it.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ()
    found: list[int] = []
    with suppress(AttributeError):  # a library without these symbols is not NVML as documented
        if nvml.nvmlInit_v2() != 0:
            return ()
        try:
            count = ctypes.c_uint()
            if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
                return ()
            for index in range(count.value):
                device, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
                if (
                    nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) == 0
                    and nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy)) == 0
                ):
                    found.append(energy.value)
        finally:
            nvml.nvmlShutdown()
    return tuple(found)
