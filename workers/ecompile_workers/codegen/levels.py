"""Instruction set levels: what the compiler is told, and the register tile that fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Level:
    """One target. `lanes` floats to a vector."""

    name: str
    lanes: int
    rows: int
    """Rows that a chain of matrix layers works on at a time."""
    registers: int
    """Vector registers: accumulators, weights and a broadcast must fit."""
    flags: tuple[str, ...]
    cpu_flags: frozenset[str]
    """Names in /proc/cpuinfo that the level needs (x86-64 psABI, micro-architecture levels; Armv8-A)."""
    machine: str
    """As the kernel calls it; a level of another machine is cross-compiled."""
    cross: tuple[str, ...]
    """What `zig cc` is told instead of `flags`."""


V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
V3 = V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

LEVELS = {
    level.name: level
    for level in (
        Level(
            name="x86-64-v2",
            lanes=4,
            rows=4,
            registers=16,
            flags=("-march=x86-64-v2",),
            cpu_flags=V2,
            machine="x86_64",
            cross=("-target", "x86_64-linux-gnu", "-mcpu=x86_64_v2"),
        ),
        Level(
            name="x86-64-v3",
            lanes=8,
            rows=4,
            registers=16,
            flags=("-march=x86-64-v3",),
            cpu_flags=V3,
            machine="x86_64",
            cross=("-target", "x86_64-linux-gnu", "-mcpu=x86_64_v3"),
        ),
        Level(
            name="x86-64-v4",
            lanes=16,
            rows=8,
            registers=32,
            flags=("-march=x86-64-v4", "-mprefer-vector-width=512"),
            cpu_flags=V4,
            machine="x86_64",
            cross=("-target", "x86_64-linux-gnu", "-mcpu=x86_64_v4"),
        ),
        Level(
            name="arm64",
            lanes=4,
            rows=8,
            registers=32,
            flags=("-march=armv8-a",),
            cpu_flags=frozenset({"fp", "asimd"}),
            machine="aarch64",
            cross=("-target", "aarch64-linux-gnu", "-mcpu=generic"),
        ),
        Level(
            name="wasm32",
            lanes=4,
            rows=4,
            registers=16,
            flags=("--target=wasm32", "-msimd128", "-mbulk-memory"),
            cpu_flags=frozenset(),
            machine="wasm32",
            cross=("-target", "wasm32-freestanding", "-mcpu=generic+simd128+bulk_memory+bulk_memory_opt"),
        ),
    )
}
PREFERENCE = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "arm64")
"""What a serving process loads, best first. WebAssembly needs a runtime and is never loaded by itself."""


def cpu_levels() -> tuple[str, ...]:
    """Levels of this machine, best first."""
    return supported(Path("/proc/cpuinfo").read_text())


def supported(cpuinfo: str) -> tuple[str, ...]:
    """Levels that a CPU has, best first, from the text of /proc/cpuinfo."""
    line = next((row for row in cpuinfo.splitlines() if row.startswith(("flags", "Features"))), "")
    have = set(line.partition(":")[2].split())
    return tuple(name for name in PREFERENCE if LEVELS[name].cpu_flags <= have)
