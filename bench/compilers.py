"""Compilers of generated code against each other: `python bench/compilers.py [--models DIR] [--only NAME ...]`."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from ecompile_workers.codegen import toolchain
from ecompile_workers.codegen.c_printer import Printed, print_c
from ecompile_workers.codegen.levels import LEVELS, Level
from ecompile_workers.codegen.loader import CompiledFunction
from ecompile_workers.distill.guard import box
from ecompile_workers.distill.orchestrator import cpu_levels
from ecompile_workers.hybrid.opponents import Call, interleaved
from ecompile_workers.ir.graph import Graph

from bench.networks import BATCHES, FILES, add_models_option, load
from bench.peers import machine


def commands(level: Level) -> dict[str, list[str]]:
    """Compilers that are here, told about the level."""
    found = {name: [name, *level.flags] for name in ("gcc", "clang") if shutil.which(name)}
    if toolchain.has_cross_compiler():
        found["zig cc"] = toolchain.cross_command(level)
    return found


def compiled(printed: Printed, level: Level, command: Sequence[str], macs: int) -> tuple[float, int, CompiledFunction]:
    """Seconds, size in bytes, and the module."""
    start = time.perf_counter()
    content = toolchain.build(printed, level, command=command)
    return time.perf_counter() - start, len(content), CompiledFunction(content, macs=macs)


def compare(name: str, graph: Graph) -> None:
    """One row per compiler."""
    level = LEVELS[cpu_levels()[0]]
    rows = np.random.default_rng(0).normal(size=(max(BATCHES), graph.input.size)).astype(np.float32)
    guard = box(np.stack([rows.min(axis=0) - 1, rows.max(axis=0) + 1]))
    printed = print_c(graph, guard, level)
    built = {who: compiled(printed, level, command, graph.macs) for who, command in commands(level).items()}
    timings = []
    for batch in BATCHES:
        y = np.empty((batch, graph.output.size), np.float32)
        calls: dict[str, Call] = {who: partial(module.run, rows[:batch], y) for who, (_, _, module) in built.items()}
        timings.append(interleaved(calls))
    for who, (seconds, size, _) in built.items():
        columns = " | ".join(f"{timing[who].median:.5g} ({timing[who].spread:.2g})" for timing in timings)
        print(f"| {name} | {who} | {seconds:.2f} | {size / 1024:.0f} | {columns} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=(*FILES, "block"), default=(*FILES, "block"))
    add_models_option(parser)
    arguments = parser.parse_args()
    print(f"{machine()}, {cpu_levels()[0]}, one thread\n")
    print("| network | compiler | compile, s | library, KiB | batch 1, us (p90-p10) | batch 64, us (p90-p10) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in arguments.only:
        compare(name, load(name, arguments.models).graph)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
