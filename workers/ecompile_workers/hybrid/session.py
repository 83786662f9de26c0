"""Running a package in this process: compiled where a guard holds, the original network elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, DataError
from numpy.typing import NDArray

from ..codegen.levels import cpu_levels
from ..codegen.loader import CompiledFunction
from ..data.arrays import side_by_side
from ..serving.neural import NeuralPath
from .package import Package

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Segment:
    neural: NeuralPath
    outputs: int
    module: CompiledFunction | None


class HybridSession:
    """Segments one after the other, on one thread."""

    def __init__(self, package: Package) -> None:
        """Load every module and every neural path.

        Raises ModelError where a bundle cannot run on this machine.
        """
        self.inputs = package.plan.network_inputs
        self.outputs = package.plan.network_outputs
        self._size = package.plan.input.size
        self._segments = []
        for planned, made in zip(package.plan.segments, package.manifest.segments, strict=True):
            self._segments.append(
                _Segment(
                    neural=NeuralPath(package.files[planned.neural.path], what=planned.neural.path),
                    outputs=planned.output.size,
                    module=package.bundle(made).load(cpu_levels()) if made.bundle is not None else None,
                )
            )
        self.compiled_rows = 0
        """Rows that every module answered so far."""

    def run_named(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Rows]:
        """All outputs by name, each [rows, ...], for all inputs by name; float32.

        Raises DataError where an input is missing or does not fit.
        """
        return self.named(self.run(side_by_side(inputs, {each.name: each.shape for each in self.inputs}, name="input")))

    def named(self, y: Rows) -> dict[str, Rows]:
        """What `run` returned, by the names of the outputs."""
        ends = np.cumsum([each.size for each in self.outputs])
        columns = zip(self.outputs, np.split(y.reshape(len(y), -1), ends[:-1], axis=1), strict=True)
        return {each.name: part.reshape(len(y), *each.shape) for each, part in columns}

    def run(self, x: Rows) -> Rows:
        """Outputs [rows, ...] for inputs [rows, ...]; float32. Of several inputs or outputs a row has all, flattened.

        Raises DataError where the shape does not fit.
        """
        if x.ndim < 1 or x[:1].size != self._size:
            takes = ", ".join(f"{each.name} {each.shape}" for each in self.inputs)
            raise DataError(
                Code.DATA_SHAPE, f"input: rows have shape {x.shape[1:]}, but the network takes {takes} per row."
            )
        rows = np.ascontiguousarray(x, dtype=np.float32).reshape(len(x), -1)
        fast = True
        for segment in self._segments:
            y = np.empty((len(rows), segment.outputs), dtype=np.float32)
            if segment.module is None or segment.module.run(rows, y) != 0:
                fast = fast and segment.module is None
                y = self._by_rows(segment, rows) if segment.module is not None else segment.neural(rows)
            rows = y
        self.compiled_rows += len(rows) if fast else 0
        return rows.reshape(len(rows), *self.outputs[0].shape) if len(self.outputs) == 1 else rows

    def _by_rows(self, segment: _Segment, rows: Rows) -> Rows:
        """Each row by itself: one that the guard refuses does not take the others with it."""
        assert segment.module is not None
        y = np.empty((len(rows), segment.outputs), dtype=np.float32)
        for index in range(len(rows)):
            row = slice(index, index + 1)
            if segment.module.run(rows[row], y[row]) != 0:
                y[row] = segment.neural(rows[row])
        return y
