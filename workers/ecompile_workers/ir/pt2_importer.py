"""From a `torch.export` archive (.pt2) to our graph, without torch and without unpickling anything.

`torch.export.load` unpickles sample inputs and evaluates strings of the archive. This reads the zip, its JSON and the
raw bytes of the weights; `sample_inputs` is never opened, and weights that need pickle are refused.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, ModelError

from .aten_importer import import_program
from .aten_source.program import DTYPES, SCALAR_TYPES, Program, Reference, Step
from .graph import DType, Graph, Tensor
from .importing.builder import common_batch
from .importing.values import MAX_FOLDED_ELEMENTS, AnyArray
from .operators.spec import product

MAX_BYTES = 4 << 30
"""Unpacked, of all files together."""
SCHEMA_MAJOR = 8
"""Of torch's export schema; newer ones may mean other things by the same names."""
NO_TENSOR = ("as_none", "as_int", "as_float", "as_bool", "as_string")


def import_archive(path: Path) -> Graph:
    """The graph of an archive.

    Raises ModelError naming the file and what is wrong with it.
    """
    return import_program(read_archive(path))


def read_archive(path: Path) -> Program:
    """The program of an archive, as data.

    Raises ModelError naming the file and what is wrong with it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(path.name, archive).program()
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise ModelError(
            Code.MODEL_MALFORMED, f"{path.name}: not a readable .pt2 archive (a zip file): {error}."
        ) from error
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, StopIteration, RecursionError) as error:
        raise ModelError(
            Code.MODEL_MALFORMED, f"{path.name}: the archive is damaged or of an unknown version ({error!r})."
        ) from error


class _Reader:
    def __init__(self, name: str, archive: zipfile.ZipFile) -> None:
        self._name = name
        self._archive = archive
        if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
            raise ModelError(Code.MODEL_UNSAFE, f"{name}: unpacks to more than {MAX_BYTES >> 30} GiB.")
        self._entries = {entry.filename.split("/", 1)[-1]: entry for entry in archive.infolist()}

    def _read(self, entry: str) -> bytes:
        if entry not in self._entries:
            raise ModelError(Code.MODEL_MALFORMED, f"{self._name}: {entry} is missing from the archive.")
        return self._archive.read(self._entries[entry])

    def program(self) -> Program:
        document = json.loads(self._read("models/model.json"))
        major = document.get("schema_version", {}).get("major", SCHEMA_MAJOR)
        if major > SCHEMA_MAJOR:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: the archive has schema {major}, newer than {SCHEMA_MAJOR}; export the model with an "
                "older version of torch.",
            )
        module = document["graph_module"]
        graph, signature = module["graph"], module["signature"]
        self._metas: dict[str, Any] = graph["tensor_values"]
        sources, constants = self._inputs(signature["input_specs"])
        outputs = [next(iter(spec.items())) for spec in signature["output_specs"]]
        if any(kind != "user_output" or "as_tensor" not in body["arg"] for kind, body in outputs):
            raise ModelError(
                Code.MODEL_UNSUPPORTED, f"{self._name}: outputs that are no tensors, or state, are not supported."
            )
        batches = {source.name: self._metas[source.name]["sizes"][0].get("as_int") for source in sources}
        return Program(
            name=self._name,
            sources=sources,
            static_batch=common_batch(batches, name=self._name),
            constants=constants,
            steps=tuple(self._step(node) for node in graph["nodes"]),
            outputs=tuple(str(body["arg"]["as_tensor"]["name"]) for _, body in outputs),
            tensors={name: t for name in self._metas if (t := self._tensor(name)) is not None},
        )

    def _inputs(self, specs: list[dict[str, Any]]) -> tuple[tuple[Tensor, ...], dict[str, tuple[AnyArray, str]]]:
        weights = self._weights("data/weights/model_weights_config.json", "data/weights")
        weights |= self._weights("data/constants/model_constants_config.json", "data/constants")
        constants: dict[str, tuple[AnyArray, str]] = {}
        sources = []
        for spec in specs:
            kind, body = next(iter(spec.items()))
            if kind == "user_input":
                sources.append(str(body["arg"]["as_tensor"]["name"]))
                continue
            key = body.get("parameter_name") or body.get("buffer_name") or body.get("tensor_constant_name")
            if key in weights:
                constants[str(body["arg"]["name"])] = (weights[key], str(key))
        if not sources:
            raise ModelError(Code.MODEL_UNSUPPORTED, f"{self._name}: it has no input.")
        return tuple(self._source(name, alone=len(sources) == 1) for name in sources), constants

    def _source(self, name: str, *, alone: bool) -> Tensor:
        source = self._tensor(name)
        if source is None:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: input {name}: a dimension besides the batch is dynamic; export with it fixed.",
            )
        if (alone and source.dtype is DType.BOOL) or self._metas[name]["dtype"] not in DTYPES:
            raise ModelError(
                Code.MODEL_UNSUPPORTED, f"{self._name}: the input {name} is neither float32 nor int64; convert it."
            )
        return source

    def _tensor(self, name: str) -> Tensor | None:
        """A tensor whose sizes behind the batch are fixed."""
        meta = self._metas[name]
        if not meta["sizes"] or any("as_int" not in s for s in meta["sizes"][1:]):
            return None
        dtype = DTYPES.get(meta["dtype"], DType.FLOAT32)
        return Tensor(name=name, shape=tuple(int(s["as_int"]) for s in meta["sizes"][1:]), dtype=dtype)

    def _weights(self, config: str, folder: str) -> dict[str, AnyArray]:
        if config not in self._entries:
            return {}
        found = json.loads(self._read(config))["config"]
        return {key: self._weight(key, entry, folder) for key, entry in found.items()}

    def _weight(self, key: str, entry: dict[str, Any], folder: str) -> AnyArray:
        if entry.get("use_pickle"):
            raise ModelError(
                Code.MODEL_UNSAFE,
                f"{self._name}: weight {key} is pickled; loading it could run code. Export it again.",
            )
        file = str(entry["path_name"])
        if "/" in file or ".." in file:
            raise ModelError(Code.MODEL_UNSAFE, f"{self._name}: weight {key} points outside the archive.")
        meta = entry["tensor_meta"]
        if meta["dtype"] not in SCALAR_TYPES:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: weight {key} is of an element type that is not supported; convert the model to float32 "
                "before exporting it.",
            )
        dtype = np.dtype(SCALAR_TYPES[meta["dtype"]]).newbyteorder("<")
        sizes = self._sizes(key, meta)
        strides = tuple(int(s["as_int"]) for s in meta["strides"])
        offset = int(meta.get("storage_offset", {}).get("as_int", 0))
        content = self._read(f"{folder}/{file}")
        raw = np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype=dtype)
        needed = offset + 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if all(sizes) else 0
        if offset < 0 or any(s < 0 for s in strides) or needed > raw.size:
            raise ModelError(Code.MODEL_MALFORMED, f"{self._name}: weight {key} is truncated.")
        steps = tuple(s * dtype.itemsize for s in strides)
        return np.lib.stride_tricks.as_strided(raw[offset:], sizes, steps).astype(dtype.newbyteorder("="))

    def _sizes(self, key: str, meta: dict[str, Any]) -> tuple[int, ...]:
        """A weight may be a view, and so larger than the file that holds it, but not without bound."""
        sizes = tuple(int(s["as_int"]) for s in meta["sizes"])
        if any(n < 0 for n in sizes) or product(sizes) > MAX_FOLDED_ELEMENTS:
            raise ModelError(Code.MODEL_UNSAFE, f"{self._name}: weight {key} has shape {sizes}, which is too large.")
        return sizes

    def _step(self, node: dict[str, Any]) -> Step:
        outputs: list[str | tuple[str, ...]] = []
        for output in node["outputs"]:
            kind, body = next(iter(output.items()))
            if kind == "as_tensors":
                outputs.append(tuple(str(t["name"]) for t in body))
            elif kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
                outputs.append(str(body["as_name"]))
            elif kind not in NO_TENSOR:
                outputs.append(str(body["name"]))
        return Step(
            target=str(node["target"]).removeprefix("torch.ops."),
            arguments={str(a["name"]): _argument(a["arg"]) for a in node["inputs"]},
            outputs=tuple(outputs),
        )


def _argument(argument: dict[str, Any]) -> Any:
    """An argument of the schema as plain data."""
    kind, body = next(iter(argument.items()))
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_float" | "as_bool" | "as_string" | "as_scalar_type" | "as_memory_format":
            return body
        case "as_ints" | "as_floats" | "as_bools" | "as_strings":
            return tuple(body)
        case "as_tensor":
            return Reference(str(body["name"]))
        case "as_tensors":
            return tuple(Reference(str(t["name"])) for t in body)
        case "as_name":
            return Reference(str(body))
        case "as_sym_int" | "as_sym_bool" | "as_sym_float":
            return _argument(body)
        case "as_sym_ints" | "as_sym_bools" | "as_sym_floats" | "as_optional_tensors":
            return tuple(_argument(each) for each in body)
        case _:
            # Devices, layouts, graphs of higher-order operators: nothing that a converter reads.
            return None
