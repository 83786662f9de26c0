"""`ecompile trace` and `ecompile detect`: their arguments and what they do."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ecompile_crds.errors import Code, DataError, EcompileError, ModelError, ResourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..ir.load import Source
    from ..trace.stability import LayerStability

KINDS = ("activation", "gradient", "attention", "probability")
METHODS = ("dbscan", "k-means")
TRACE_RATE = 0.1
BATCH = 32
"""Rows per call of a PyTorch model."""
SHOWN = 10
"""Units that `detect` prints; the file has more."""


def add_trace_commands(add: Callable[[str, str, object], argparse.ArgumentParser]) -> None:
    """Define both commands; `add(name, about, function)` makes one."""
    trace = add("trace", "record what the layers of a network give for inputs, as .nfrtrace", trace_command)
    trace.add_argument("source", help=".onnx, .pt2, or module:function of your own code that returns a PyTorch model")
    trace.add_argument("--calibration", required=True, help=".npz with input rows (file.npz or file.npz#array)")
    trace.add_argument("-o", "--output", type=Path, help="where to write; by default the source's name with .nfrtrace")
    trace.add_argument("--rate", type=_rate, default=TRACE_RATE, help="share of rows (PyTorch: of calls) to record")
    trace.add_argument("--seed", type=int, default=0, help="of the choice")
    trace.add_argument("--kinds", nargs="+", choices=KINDS, default=["activation"], help="all but the first: PyTorch")
    trace.add_argument("--max-values", type=_count, default=4096, help="values kept of a layer and row")
    detect = add("detect", "how stable the units of a network are, as .nfrsg", detect_command)
    detect.add_argument("source", type=Path, help=".onnx, .pt2 or .nfrtrace")
    detect.add_argument("--calibration", help=".npz with input rows; not for a trace, which has its own")
    detect.add_argument("-o", "--output", type=Path, help="where to write; by default the source's name with .nfrsg")
    detect.add_argument("--method", choices=METHODS, default=METHODS[0], help="how units are grouped")
    detect.add_argument("--seed", type=int, default=0, help="of k-means")


def _rate(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1 << 24:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {1 << 24}")
    return value


def trace_command(arguments: argparse.Namespace) -> int:
    """Write a trace; prints the number of records."""
    live = ":" in arguments.source and not Path(arguments.source).exists()
    if not live and arguments.kinds != ["activation"]:
        print("ecompile trace: --kinds needs a live PyTorch model: give module:function.", file=sys.stderr)
        return 2
    name = arguments.source.rpartition(":")[2] if live else arguments.source
    output = arguments.output or Path(name).with_suffix(".nfrtrace")
    records, skipped = _trace_live(arguments, output) if live else (_trace_graph(arguments, output), [])
    told = {"file": str(output), "records": records, "bytes": output.stat().st_size, "skipped": skipped}
    if arguments.json:
        print(json.dumps(told, indent=1))
        return 0
    print(f"{output}: {records} records, {told['bytes']} bytes")
    if skipped:
        print(f"not recorded, because their output has no axis of rows: {', '.join(skipped)}")
    return 0


def _trace_graph(arguments: argparse.Namespace, output: Path) -> int:
    """By the reference interpreter."""
    from ..data import store
    from ..trace.capture import capture

    source = _network(Path(arguments.source))
    graph = source.graph
    if graph.opaque_operators:
        raise ModelError(
            Code.MODEL_UNSUPPORTED,
            f"{arguments.source}: operators {', '.join(graph.opaque_operators)} are not known, so they cannot be "
            "traced; trace the PyTorch model that it was made from.",
        )
    rows = _rows(arguments.calibration, graph.input.shape)
    digest = store.digest_of(Path(arguments.source).read_bytes())
    with _writing(output) as target:
        return capture(
            graph,
            rows,
            target,
            model_digest=digest,
            rate=arguments.rate,
            seed=arguments.seed,
            max_values=arguments.max_values,
        )


def _trace_live(arguments: argparse.Namespace, output: Path) -> tuple[int, list[str]]:
    """By hooks on a PyTorch model, with the sum of the largest outputs as the loss that gradients are of."""
    import torch

    from ..trace import nfrtrace
    from ..trace.hooks import Capture, Settings

    model = _model(arguments.source).eval()
    rows, whole_numbers = _rows_of_any_shape(arguments.calibration)
    kinds = frozenset(nfrtrace.Kind(kind) for kind in arguments.kinds)
    settings = Settings(
        rate=arguments.rate, seed=arguments.seed, kinds=kinds, max_rows=BATCH, max_values=arguments.max_values
    )
    with _writing(output) as target, Capture(model, target, settings) as capture:
        for start in range(0, len(rows), BATCH):
            x = torch.from_numpy(rows[start : start + BATCH])
            x = x.long() if whole_numbers else x
            with torch.set_grad_enabled(nfrtrace.Kind.GRADIENT in kinds):
                result = model(x)
            if nfrtrace.Kind.GRADIENT in kinds:
                result.flatten(1).amax(dim=1).sum().backward()
                model.zero_grad()
    with output.open("rb") as file:
        return nfrtrace.open_trace(file).record_count, sorted(capture.skipped)


def _model(source: str) -> Any:
    """The PyTorch model that `module:function` returns. This runs the user's code, which is what it is for."""
    import torch

    module, _, name = source.rpartition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ModelError(Code.MODEL_NOT_FOUND, f"{source}: {error}; give module:function without arguments.") from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, torch.nn.Module):
        raise ModelError(Code.MODEL_UNSUPPORTED, f"{source}: it returned {type(made).__name__}, not a torch.nn.Module.")
    return made


def detect_command(arguments: argparse.Namespace) -> int:
    """Write a manifest; prints a summary."""
    from ..trace.grouping import Method
    from ..trace.manifest import describe
    from .packages import write_bytes

    if arguments.source.suffix == ".nfrtrace":
        layers, digest = _detect_trace(arguments.source)
    elif arguments.calibration is None:
        print("ecompile detect: give the input rows with --calibration rows.npz.", file=sys.stderr)
        return 2
    else:
        layers, digest = _detect_network(arguments.source, arguments.calibration)
    found = describe(layers, model_digest=digest, method=Method(arguments.method), seed=arguments.seed)
    output = arguments.output or arguments.source.with_suffix(".nfrsg")
    write_bytes(output, json.dumps(found, sort_keys=True, indent=1).encode())
    if arguments.json:
        print(json.dumps({"file": str(output), **found}, indent=1))
        return 0
    print(f"{output}: {found['units']} units in {len(found['layers'])} layers, {len(found['groups'])} groups")
    print(f"S > {found['threshold']}: {found['stable']}   never active: {found['dead']}")
    for unit in found["top"][:SHOWN]:
        where = f"{unit['layer']}[{unit['unit']}]"
        print(f"  {where:<24} {unit['operator']:<10} S {unit['stability']:7.4f}  impact {unit['impact']:.4g}")
    print(found["note"])
    return 0


def _detect_trace(path: Path) -> tuple[tuple[LayerStability, ...], str]:
    from ..trace import nfrtrace
    from ..trace.stability import measure_records

    try:
        with path.open("rb") as file:
            opened = nfrtrace.open_trace(file)
            if opened.problem is not None:
                print(f"ecompile detect: {path}: {opened.problem}", file=sys.stderr)
            return measure_records(opened.records()), str(opened.header.get("modelDigest", ""))
    except OSError as error:
        raise DataError(Code.DATA_MISSING, f"{path}: cannot be read: {error.strerror}.") from error


def _detect_network(path: Path, calibration: str) -> tuple[tuple[LayerStability, ...], str]:
    """Segment by segment: what the interpreter does not know is run by ONNX Runtime, and has no units."""
    from ..codegen.support import obstacle
    from ..data import store
    from ..distill.measure import infer, session
    from ..ir.load import neural_segment
    from ..ir.segments import split
    from ..trace.stability import MAX_ROWS, measure

    source = _network(path)
    rows = _rows(calibration, source.graph.input.shape)[:MAX_ROWS]
    found: list[LayerStability] = []
    segments = split(source.graph, obstacle)
    for segment in segments:
        if not segment.graph.opaque_operators:
            found += measure(segment.graph, rows)
        if segment.index + 1 < len(segments):
            rows = infer(session(neural_segment(source, segment, len(segments)).SerializeToString()), rows)
    return tuple(found), store.digest_of(path.read_bytes())


def _network(path: Path) -> Source:
    from ..ir.load import load_source

    if not path.is_file():
        raise DataError(Code.DATA_MISSING, f"{path} does not exist.")
    return load_source(path)


def _located(location: str) -> tuple[bytes, str | None]:
    """Content, and the array that is asked for."""
    from .packages import read_bytes

    path, _, array = location.partition("#")
    return read_bytes(Path(path)), array or None


def _rows(location: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    from ..data import arrays

    content, array = _located(location)
    return arrays.parse(content, name="--calibration", shape=shape, array=array).inputs


def _rows_of_any_shape(location: str) -> tuple[NDArray[np.float32], bool]:
    """Rows in their own shape, and whether they are whole numbers, as of words."""
    from ..data import arrays

    content, array = _located(location)
    shape, dtype = arrays.row_type(content, name="--calibration", array=array)
    rows = arrays.parse(content, name="--calibration", shape=shape, array=array).inputs
    return rows.reshape(len(rows), *shape), dtype.kind in "iu"


@contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    """A new file; what is in it stays where writing fails, and says that it is not complete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as target:
            yield target
    except EcompileError:
        raise
    except OSError as error:
        code = Code.STORAGE_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else Code.STORAGE_UNAVAILABLE
        raise ResourceError(code, f"{path}: cannot be written: {error.strerror}.") from error
