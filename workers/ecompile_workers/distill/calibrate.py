"""The cost model of this machine: small networks compiled and timed once, and cached by processor and compiler.

The cache is `$ECO_CACHE`, or `ecompile` below `$XDG_CACHE_HOME` or `~/.cache`. Where it cannot be written, the model is
measured again in the next process.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..codegen import toolchain
from ..codegen.compile import compile_graph
from ..codegen.levels import cpu_levels
from ..codegen.loader import CompiledFunction
from ..data import store
from ..ir.attributes import Attention, Convolution, Reduction
from ..ir.graph import Graph, Op, Tensor
from ..ir.to_onnx import export
from .costs import CostModel, Counts, Work, counted, fit
from .graph_writer import GraphWriter
from .guard import box
from .measure import measured

VERSION = 2
"""Of the probes and of what is counted."""


def cost_model() -> CostModel:
    """This machine's, from the cache or measured now (a few seconds).

    Raises ResourceError where there is no compiler.
    """
    found = cached()
    if found is None:
        found = calibrate()
        keep(found)
    return found


def cached() -> CostModel | None:
    """This machine's, if it has been measured before."""
    try:
        document = json.loads(_file().read_text())
        compiled, neural = (_coefficients(document[side]) for side in ("compiled", "neural"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return CostModel(compiled=compiled, neural=neural)


def _coefficients(entry: dict[str, float]) -> dict[Work, float]:
    return {Work(kind): float(value) for kind, value in entry.items()}


def calibrate() -> CostModel:
    """Measure now."""
    compiled: list[tuple[Counts, float]] = []
    neural: list[tuple[Counts, float]] = []
    level = cpu_levels()[0]
    rng = np.random.default_rng(0)
    for graph in probes():
        rows = rng.normal(size=(2, graph.input.size)).astype(np.float32)
        made = compile_graph(graph, box(rows), levels=[level])
        module = CompiledFunction(made.libraries[level], macs=made.macs)
        (timing,), theirs = measured([module], export(graph).SerializeToString(), rows)
        counts = counted(graph)
        compiled.append((counts, timing.seconds))
        neural.append((counts, theirs))
    return CostModel(compiled=fit(compiled), neural=fit(neural))


def probes() -> Iterator[Graph]:
    """Networks of one kind of work each, and what cannot be had without another: in two sizes, to tell them apart."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return np.asarray(rng.normal(size=shape) / np.sqrt(shape[0]))

    def chain(shape: tuple[int, ...], *steps: tuple[Op, tuple[int, ...]]) -> Graph:
        writer = _writer(shape)
        current = "x"
        for op, size in steps:
            if op is Op.GEMM:
                current = writer.gemm(current, weight(*size), np.zeros(size[1]))
            elif op is Op.CONV:
                outputs, each, *kernel = size
                settings = Convolution(
                    strides=(1, 1),
                    dilations=(1, 1),
                    begin=tuple(k // 2 for k in kernel),
                    end=tuple(k // 2 for k in kernel),
                    groups=writer.shape(current)[0] // each,
                )
                constants = {"weight": weight(*size), "bias": np.zeros(outputs)}
                current = writer.add(Op.CONV, current, attributes=settings, **constants)
            elif op is Op.ATTENTION:
                current = writer.add(Op.ATTENTION, current, current, current, attributes=Attention(scale=0.2))
            elif op is Op.REDUCE_SUM:
                current = writer.add(Op.REDUCE_SUM, current, attributes=Reduction(axes=(-1,), keep=True))
            else:
                current = writer.add(op, current)
        return writer.done(current)

    none: tuple[int, ...] = ()
    dense = Op.GEMM
    yield chain((8,), (dense, (8, 8)))
    yield chain((8,), *[(dense, (8, 8)), (Op.RELU, none)] * 8)
    yield chain((128,), (dense, (128, 128)), (Op.RELU, none), (dense, (128, 128)))
    yield chain((512,), (dense, (512, 512)), (Op.RELU, none), (dense, (512, 512)))
    yield chain((1024,), *[(dense, (1024, 1024)), (Op.RELU, none)] * 6)
    yield chain((32, 64), (dense, (64, 64)))
    yield chain((64, 256), (dense, (256, 256)))
    yield chain((4, 32, 32), (Op.ATTENTION, none))
    yield chain((16, 24, 24), (Op.CONV, (16, 16, 3, 3)))
    yield chain((48, 16, 16), (Op.CONV, (48, 48, 3, 3)))
    yield chain((64, 24, 5), (Op.CONV, (64, 64, 1, 1)))
    yield chain((64, 24, 5), (Op.CONV, (64, 1, 3, 3)))
    yield chain((4096,), (Op.RELU, none))
    yield chain((65536,), (Op.RELU, none))
    yield chain((4096,), (Op.TANH, none))
    yield chain((16384,), (Op.GELU, none), (Op.TANH, none))


class _ProbeWriter(GraphWriter):
    """A graph from a tensor x."""

    def shape(self, name: str) -> tuple[int, ...]:
        return self._known[name].shape

    def done(self, output: str) -> Graph:
        return Graph(input=self._source, output=self._known[output], nodes=tuple(self._nodes))


def _writer(shape: tuple[int, ...]) -> _ProbeWriter:
    source = Tensor(name="x", shape=shape)
    return _ProbeWriter(Graph(input=source, output=source, nodes=()), prefix="probe")


def processor() -> str:
    """The processor's name, as the kernel tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(os.environ.get("ECO_CACHE") or Path(home) / "ecompile")
    key = "\0".join((str(VERSION), processor(), cpu_levels()[0], toolchain.version()))
    return folder / f"costs-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def keep(model: CostModel) -> None:
    """Put a model into the cache, if that can be written."""
    document = {"processor": processor(), "compiled": dict(model.compiled), "neural": dict(model.neural)}
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        store.write_file(_file(), json.dumps(document, sort_keys=True, indent=1).encode())
    except OSError:
        return  # Read-only: measured again next time.
