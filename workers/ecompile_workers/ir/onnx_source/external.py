"""Weights that a model keeps in files beside it. Only regular files inside the model's folder are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from ecompile_crds.errors import Code, ModelError

MAX_BYTES = (1 << 31) - (1 << 20)
"""A protobuf message ends at 2 GiB, and the neural path is one; a little is left for the graph."""


def load(model: onnx.ModelProto, path: Path) -> None:
    """Put external weights into the model.

    Raises ModelError where a location leaves the folder, a file is missing or short, or all is too large.
    """
    total = 0
    for tensor in tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        file, offset, length = _place(tensor, path)
        total += length
        if total > MAX_BYTES:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{path.name}: its weights outside of the file have more than 2 GiB; only models up to 2 GiB are "
                "supported.",
            )
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constant tensors of a graph, those of its nodes' attributes and subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from tensors(inner)


def _place(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int]:
    """(file, offset, length) of a tensor."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    location = told.get("location", "")
    folder = path.parent.resolve()
    file = folder / location
    if not location or Path(location).is_absolute() or not file.resolve().is_relative_to(folder) or file.is_symlink():
        raise ModelError(
            Code.MODEL_UNSAFE,
            f"{path.name}: tensor {tensor.name} is kept in {location!r}, which is outside of the model's folder; "
            "put the weights beside the model or save it as one file.",
        )
    if not file.is_file():
        raise ModelError(
            Code.MODEL_MALFORMED,
            f"{path.name}: tensor {tensor.name} is kept in {location}, which is missing; give that file too or save "
            "the model as one file.",
        )
    try:
        offset, size = int(told.get("offset", 0)), file.stat().st_size
        length = int(told.get("length", size - offset))
    except ValueError as error:
        raise ModelError(
            Code.MODEL_MALFORMED, f"{path.name}: tensor {tensor.name} has an unreadable place in {location}."
        ) from error
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            Code.MODEL_MALFORMED,
            f"{path.name}: tensor {tensor.name} reaches past the end of {location}; it is cut off.",
        )
    return file, offset, length
