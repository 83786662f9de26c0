"""Energy: each method with its arithmetic, and what it does when its counters are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ecompile_crds.errors import DataError
from ecompile_workers.governance.carbon import GRAMS_PER_KWH, grams, intensity
from ecompile_workers.governance.energy import BUSY_WATTS, Method, Modelled, Nvml, Rapl


class Machine:
    """Files as the kernel shows them."""

    def __init__(self, root: Path, *, packages: int = 2) -> None:
        self.powercap, self.stat, self.own = root / "powercap", root / "stat", 0.0
        for package in range(packages):
            zone = self.powercap / f"intel-rapl:{package}"
            zone.mkdir(parents=True)
            (zone / "max_energy_range_uj").write_text("999999999\n")
            (self.powercap / f"intel-rapl:{package}:0").mkdir()
        self.show([0] * packages, busy=0.0)

    def show(self, microjoules: list[int], *, busy: float) -> None:
        for package, value in enumerate(microjoules):
            (self.powercap / f"intel-rapl:{package}" / "energy_uj").write_text(f"{value}\n")
        self.stat.write_text(f"cpu {int(busy * 100)} 0 0 777 55 0 0 0 0 0\ncpu0 1 2 3\n")

    def rapl(self) -> Rapl:
        return Rapl(powercap=self.powercap, stat=self.stat, process_seconds=lambda: self.own)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_rapl_gives_a_process_its_share_of_the_packages(machine: Machine) -> None:
    """30 J and 10 J, a quarter of the processor time."""
    meter = machine.rapl()
    machine.own = 1.0
    machine.show([30_000_000, 10_000_000], busy=4.0)
    found = meter.read()
    assert found.joules == pytest.approx(10.0) and found.method is Method.RAPL and 0 < found.uncertainty < 1


def test_rapl_counters_wrap(machine: Machine) -> None:
    machine.show([999_000_000, 0], busy=0.0)
    meter = machine.rapl()
    machine.own = 1.0
    machine.show([1_000_000, 0], busy=1.0)
    assert meter.read().joules == pytest.approx(2.0)


def test_energy_never_goes_back(machine: Machine) -> None:
    """Not when nothing ran, nor when the files are gone."""
    meter = machine.rapl()
    machine.own = 1.0
    machine.show([30_000_000, 10_000_000], busy=4.0)
    first = meter.read().joules
    assert meter.read().joules == first
    machine.stat.unlink()
    assert meter.read().joules == first


def test_machine_without_counters_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no package has an energy counter"):
        Rapl(powercap=tmp_path / "none")
    with pytest.raises(OSError, match="cannot open"):
        Nvml(library="libno-such-driver.so.1")


def test_model_is_processor_time_times_power() -> None:
    seconds = iter([10.0, 12.5])
    clock: Callable[[], float] = lambda: next(seconds)  # noqa: E731  # typed, and used once
    found = Modelled(process_seconds=clock).read()
    assert found.joules == pytest.approx(2.5 * BUSY_WATTS) and found.method is Method.MODELLED
    assert found.uncertainty >= 0.3


def test_carbon_of_a_kilowatt_hour_is_the_table_s() -> None:
    assert grams(3.6e6, "SE") == GRAMS_PER_KWH["SE"] and grams(3.6e6, "475") == 475
    assert intensity("world") == GRAMS_PER_KWH["WORLD"]


@pytest.mark.parametrize("region", ["", "XX", "-1", "9999", "nan"])
def test_unknown_region_is_refused(region: str) -> None:
    with pytest.raises(DataError, match="carbon region"):
        intensity(region)
