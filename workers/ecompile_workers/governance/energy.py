"""Energy of this process, by what the machine has to measure it with. No figure without its method and uncertainty.

- rapl: the processor's own counters of whole packages (Linux powercap), of which this process is given the share of
  processor time that it took of all that was taken. Idle power is given away in the same shares. RAPL itself is within
  about 5 % of a meter (Khan et al., "RAPL in action", 2018); splitting by processor time is coarser.
- nvml: the energy counter of each NVIDIA GPU of this container, whole: it is taken for its only user.
- modelled: processor time times the power of a busy virtual processor, 3.6 W: the mean of the largest figures of three
  clouds (Cloud Carbon Footprint, methodology, 2023: 3.5, 3.8 and 4.3 W; idle 0.7 W), known to a factor of about 1.5.

Counters are read when somebody asks; requests pay nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

POWERCAP: Final = Path("/sys/class/powercap")
PROC_STAT: Final = Path("/proc/stat")
BUSY_WATTS: Final = 3.6
MODEL_UNCERTAINTY: Final = 0.5
RAPL_UNCERTAINTY: Final = 0.2
NVML_UNCERTAINTY: Final = 0.05
"""NVIDIA states 5 W of about 100 W and more for the sensors that the counter sums."""
TICKS_PER_SECOND: Final = 100
"""USER_HZ of /proc/stat (proc(5)); 100 on every architecture that we run on."""


class Method(StrEnum):
    RAPL = "rapl"
    NVML = "nvml"
    MODELLED = "modelled"


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Since the meter was made."""

    joules: float
    method: Method
    uncertainty: float
    """Relative, of about 95 % of cases."""


class Meter(Protocol):
    """Something that counts joules."""

    def read(self) -> Energy:
        """Since the meter was made. Never goes back."""


class Modelled:
    """Processor time times power."""

    def __init__(self, *, process_seconds: Callable[[], float] = time.process_time, watts: float = BUSY_WATTS) -> None:
        self._process_seconds, self._watts, self._start = process_seconds, watts, process_seconds()

    def read(self) -> Energy:
        """See Meter."""
        used = self._process_seconds() - self._start
        return Energy(joules=used * self._watts, method=Method.MODELLED, uncertainty=MODEL_UNCERTAINTY)


class Rapl:
    """Packages of the processor, of which this process is given its share."""

    def __init__(
        self,
        *,
        powercap: Path = POWERCAP,
        stat: Path = PROC_STAT,
        process_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        """Raises OSError or ValueError where the counters are not there, or must not be read."""
        self._zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
        if not self._zones:
            raise FileNotFoundError(f"{powercap}: no package has an energy counter")
        self._limits = [int((zone / "max_energy_range_uj").read_text()) for zone in self._zones]
        self._stat, self._process_seconds = stat, process_seconds
        self._last = self._look()
        self._joules = 0.0

    def read(self) -> Energy:
        """See Meter. Counters of packages wrap: read it more often than once in some minutes."""
        try:
            now = self._look()
        except (OSError, ValueError):
            now = self._last
        (counters, busy, own), (before, busy_before, own_before) = now, self._last
        used = sum((new - old) % (limit + 1) for new, old, limit in zip(counters, before, self._limits, strict=True))
        if busy > busy_before:
            self._joules += used * 1e-6 * min(1.0, (own - own_before) / (busy - busy_before))
            self._last = now
        return Energy(joules=self._joules, method=Method.RAPL, uncertainty=RAPL_UNCERTAINTY)

    def _look(self) -> tuple[list[int], float, float]:
        counters = [int((zone / "energy_uj").read_text()) for zone in self._zones]
        return counters, _busy_seconds(self._stat.read_text()), self._process_seconds()


def _busy_seconds(stat: str) -> float:
    """Processor time of the machine that was not idle (proc(5), first line: user nice system idle iowait irq ...)."""
    fields = [int(value) for value in stat.split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS_PER_SECOND


class Nvml:
    """GPUs that this container has."""

    def __init__(self, *, library: str = "libnvidia-ml.so.1") -> None:
        """Raises OSError where there is no driver, no GPU, or none with a counter."""
        self._nvml = ctypes.CDLL(library)
        if self._nvml.nvmlInit_v2():
            raise OSError("NVML does not start")
        count = ctypes.c_uint()
        if self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) or not count.value:
            raise OSError("no GPU")
        self._devices = []
        for index in range(count.value):
            device = ctypes.c_void_p()
            if not self._nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
                self._devices.append(device)
        self._start = self._millijoules()

    def read(self) -> Energy:
        """See Meter."""
        used = (self._millijoules() - self._start) * 1e-3
        return Energy(joules=used, method=Method.NVML, uncertainty=NVML_UNCERTAINTY)

    def _millijoules(self) -> int:
        total, found = 0, False
        for device in self._devices:
            value = ctypes.c_ulonglong()
            if not self._nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value)):
                total, found = total + value.value, True
        if not found:
            raise OSError("no GPU counts its energy (Volta or later does)")
        return total


def processor_meter() -> Meter:
    """The best that this machine offers for the processor."""
    try:
        return Rapl()
    except (OSError, ValueError):
        return Modelled()


def meters() -> Sequence[Meter]:
    """One for the processor and, where the container has them, one for the GPUs: the driver's library is in the
    containers that were given some."""
    found = [processor_meter()]
    with contextlib.suppress(OSError, AttributeError):
        found.append(Nvml())
    return found
