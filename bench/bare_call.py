"""Time of a generated function itself: a loop in C calls it row by row, so that nothing of Python is in the figure."""

from __future__ import annotations

import ctypes
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ecompile_workers.codegen import toolchain
from numpy.typing import NDArray

LOOP = """\
#include <stdint.h>
typedef int (*run_t)(const float *, float *, int64_t, void *, uint32_t *);
uint32_t each(run_t run, const float *x, float *y, int64_t rows, int64_t batch, int64_t in, int64_t out, void *s) {
  uint32_t reason = 0, worst = 0;
  for (int64_t r = 0; r + batch <= rows; r += batch) {
    run(x + r * in, y + r * out, batch, s, &reason);
    if (reason > worst) worst = reason;
  }
  return worst;
}
"""


class BareCaller:
    """Loaded modules side by side. Libraries stay loaded as long as the process lives."""

    def __init__(self, libraries: Sequence[bytes]) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "loop.c").write_text(LOOP)
            command = [*toolchain.compiler(), "-O2", "-shared", "-fPIC", "loop.c", "-o", "loop.so"]
            subprocess.run(command, cwd=folder, check=True)
            self._each = ctypes.CDLL(str(folder / "loop.so")).each
            self._each.restype = ctypes.c_uint32
            self._modules = []
            for index, library in enumerate(libraries):
                path = folder / f"module{index}.so"
                path.write_bytes(library)
                self._modules.append(ctypes.CDLL(str(path)))

    def run(self, index: int, x: NDArray[np.float32], y: NDArray[np.float32], batch: int) -> int:
        """Rows `x` [n, inputs] into `y` [n, outputs], `batch` at a time; returns the worst reason."""
        module = self._modules[index]
        module.eco_meta.restype = ctypes.c_char_p
        size = int(json.loads(module.eco_meta())["scratch_bytes"])
        space = np.zeros(size + 64, dtype=np.uint8)
        scratch = space.ctypes.data + -space.ctypes.data % 64
        run = ctypes.cast(module.eco_run, ctypes.c_void_p)
        at, to = ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data)
        sizes = [ctypes.c_int64(n) for n in (len(x), batch, x.shape[1], y.shape[1])]
        return int(self._each(run, at, to, *sizes, ctypes.c_void_p(scratch)))

    def seconds_per_row(self, x: NDArray[np.float32], outputs: int, *, batch: int, rounds: int) -> list[float]:
        """Median CPU time per row of each module, in turns."""
        y = np.empty((len(x), outputs), dtype=np.float32)
        samples: list[list[float]] = [[] for _ in self._modules]
        for _ in range(rounds):
            for index in range(len(self._modules)):
                start = time.thread_time()
                if self.run(index, x, y, batch) != 0:
                    raise RuntimeError("a module refused rows that it should answer")
                samples[index].append((time.thread_time() - start) / (len(x) // batch * batch))
        return [float(np.median(each)) for each in samples]
