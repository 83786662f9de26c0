"""Run compiled modules of other machines: arm64 under qemu's user emulation, WebAssembly by wasmtime."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from ecompile_workers.codegen import toolchain
from ecompile_workers.codegen.compile import CompiledSegment
from ecompile_workers.codegen.levels import LEVELS
from numpy.typing import NDArray

Rows = NDArray[np.float32]
DRIVER = Path(__file__).with_name("driver.c")
"""Loads a library, reads rows from standard input, writes its answer to standard output."""
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def missing_for_arm64() -> str | None:
    """Why arm64 code cannot be run here; None where it can."""
    if not toolchain.has_cross_compiler():
        return f"the package {toolchain.CROSS_COMPILER} is not installed"
    return None if QEMU else "qemu-aarch64 is not installed (Debian: qemu-user)"


@dataclass(frozen=True)
class Arm64:
    """One module and the program that calls it, both for arm64."""

    folder: Path
    outputs: int

    def run(self, x: Rows) -> Rows:
        """y [rows, outputs] for x [rows, inputs]. Fails where the module refuses."""
        assert QEMU is not None
        command = [QEMU, str(self.folder / "driver"), str(len(x)), str(x.shape[1]), str(self.outputs)]
        done = subprocess.run(command, input=x.tobytes(), capture_output=True, check=True, timeout=120)
        return np.frombuffer(done.stdout, np.float32).reshape(len(x), self.outputs)


def arm64(source: str, weights: bytes, outputs: int, folder: Path) -> Arm64:
    """Compile the source and the driver into one static program."""
    (folder / "module.c").write_text(source)
    (folder / "weights.bin").write_bytes(weights)
    shutil.copy(DRIVER, folder / "driver.c")
    level = LEVELS["arm64"]
    flags = ["-O2", "-ffp-contract=fast", "-fno-math-errno", "-fno-sanitize=all", "-static"]
    target = ["-target", "aarch64-linux-musl", *level.cross[2:]]
    command = [sys.executable, "-m", toolchain.CROSS_COMPILER, "cc", *target, *flags, "driver.c", "module.c"]
    subprocess.run([*command, "-o", "driver"], cwd=folder, check=True, capture_output=True, timeout=300)
    return Arm64(folder, outputs)


class WebAssembly:
    """A module in wasmtime: its memory holds the rows, the answer and the scratch."""

    def __init__(self, compiled: CompiledSegment) -> None:
        import wasmtime

        engine = wasmtime.Engine()
        self.store = wasmtime.Store(engine)
        module = wasmtime.Module(engine, compiled.libraries["wasm32"])
        self.exports = cast(Any, wasmtime.Instance(self.store, module, []).exports(self.store))
        self.memory = self.exports["memory"]
        start = self.exports["eco_meta"](self.store)
        text = bytes(self.memory.read(self.store, start, start + 1000))
        self.meta: dict[str, Any] = json.loads(text[: text.index(0)])

    def run(self, x: Rows) -> tuple[int, Rows]:
        """(reason, y [rows, outputs]) for x [rows, inputs]."""
        outputs = self.meta["outputs"]
        sizes = [x.nbytes, 4 * len(x) * outputs, 4, self.meta["scratch_bytes"]]
        page = 65536
        base = self.memory.size(self.store) * page
        self.memory.grow(self.store, -(-(sum(sizes) + 4 * 64) // page))
        places = []
        for size in sizes:
            places.append(base)
            base += -(-size // 64) * 64
        self.memory.write(self.store, x.tobytes(), places[0])
        reason = self.exports["eco_run"](self.store, places[0], places[1], len(x), places[3], places[2])
        y = self.memory.read(self.store, places[1], places[1] + sizes[1])
        return int(ctypes.c_int32(reason).value), np.frombuffer(y, np.float32).reshape(len(x), outputs)
