"""One door for all source formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from ecompile_crds.errors import Code, ModelError
from onnx import shape_inference
from onnx.utils import Extractor

from . import onnx_importer, pt2_importer, to_onnx
from .graph import Graph
from .segments import Segment


@dataclass(frozen=True, kw_only=True)
class Source:
    """An imported network and its neural path."""

    graph: Graph
    neural: onnx.ModelProto
    """The whole network with a dynamic batch."""
    format: str


def load_source(path: Path, source_format: str | None = None) -> Source:
    """Import a file; the format follows from its ending where it is not given.

    Raises ModelError naming the file.
    """
    kind = source_format or {".onnx": "onnx", ".pt2": "pt2"}.get(path.suffix)
    match kind:
        case "onnx":
            model = onnx_importer.read(path)
            graph = onnx_importer.import_model(model, name=path.name)
            return Source(graph=graph, neural=onnx_importer.with_dynamic_batch(model), format=kind)
        case "pt2":
            graph = pt2_importer.import_archive(path)
            if graph.opaque_operators:
                raise ModelError(
                    Code.MODEL_UNSUPPORTED,
                    f"{path.name}: operators {', '.join(graph.opaque_operators)} are not supported from .pt2 by this "
                    "version; export the model to ONNX, where such parts stay neural.",
                )
            return Source(graph=graph, neural=to_onnx.export(graph), format=kind)
        case _:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{path.name}: format {kind or path.suffix!r} is not supported; use onnx or pt2.",
            )


def neural_segment(source: Source, segment: Segment, count: int) -> onnx.ModelProto:
    """The neural path of one of `count` segments."""
    if count == 1:
        return source.neural
    if not segment.graph.opaque_operators:
        return to_onnx.export(segment.graph, name=segment.name)
    inputs = segment.graph.inputs or (segment.graph.input,)
    outputs = segment.graph.outputs or (segment.graph.output,)
    extracted = Extractor(shape_inference.infer_shapes(source.neural)).extract_model(
        [each.name for each in inputs], [each.name for each in outputs]
    )
    return onnx_importer.with_dynamic_batch(extracted)
