"""From a `torch.export` archive (.pt2) to our graph, without torch and without unpickling anything.

`torch.export.load` unpickles sample inputs and evaluates strings of the archive. This reads the zip, its JSON and the
raw bytes of the weights; `sample_inputs` is never opened, and weights that need pickle are refused.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, ModelError

from .graph import Array, Graph, Node, Op, Tensor, problems

FLOAT32 = 7
"""`ScalarType.FLOAT` in torch's export schema (torch/_export/serde/schema.py)."""
MAX_BYTES = 4 << 30
UNARY = {
    "torch.ops.aten.relu.default": Op.RELU,
    "torch.ops.aten.tanh.default": Op.TANH,
    "torch.ops.aten.sigmoid.default": Op.SIGMOID,
}


def import_archive(path: Path) -> Graph:
    """The graph of an archive.

    Raises ModelError naming the file and what is wrong with it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Importer(path.name, archive).run()
    except zipfile.BadZipFile as error:
        raise ModelError(Code.MODEL_MALFORMED, f"{path.name}: not a .pt2 archive (it is not a zip file).") from error
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ModelError(
            Code.MODEL_MALFORMED, f"{path.name}: the archive is damaged or of an unknown version ({error!r})."
        ) from error


class _Importer:
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

    def run(self) -> Graph:
        document = json.loads(self._read("models/model.json"))
        module = document["graph_module"]
        graph = module["graph"]
        weights = self._weights()
        values = graph["tensor_values"]
        constants: dict[str, Array] = {}
        source: Tensor | None = None
        for spec in module["signature"]["input_specs"]:
            kind, body = next(iter(spec.items()))
            if kind == "user_input":
                name = body["arg"]["as_tensor"]["name"]
                if source is not None:
                    raise ModelError(
                        Code.MODEL_UNSUPPORTED, f"{self._name}: more than one input; exactly one is supported."
                    )
                source = Tensor(name=name, shape=self._shape(values[name]))
            else:
                key = body.get("parameter_name") or body.get("buffer_name") or body.get("tensor_constant_name")
                if key in weights:
                    constants[body["arg"]["name"]] = weights[key]
        outputs = module["signature"]["output_specs"]
        if source is None or len(outputs) != 1 or "user_output" not in outputs[0]:
            raise ModelError(Code.MODEL_UNSUPPORTED, f"{self._name}: exactly one input and one output are supported.")
        known = {source.name: source}
        nodes: list[Node] = []
        for node in graph["nodes"]:
            made = self._node(node, known, constants, values)
            nodes.append(made)
            known[made.output.name] = made.output
        output = known[outputs[0]["user_output"]["arg"]["as_tensor"]["name"]]
        result = Graph(input=source, output=output, nodes=tuple(nodes))
        wrong = problems(result)
        if wrong:
            raise ModelError(Code.MODEL_MALFORMED, f"{self._name}: {wrong[0]}.")
        return result

    def _weights(self) -> dict[str, Array]:
        config = json.loads(self._read("data/weights/model_weights_config.json"))["config"]
        found: dict[str, Array] = {}
        for key, entry in config.items():
            if entry.get("use_pickle"):
                raise ModelError(
                    Code.MODEL_UNSAFE,
                    f"{self._name}: weight {key} is pickled; loading it could run code. Export it again.",
                )
            file = str(entry["path_name"])
            if "/" in file or ".." in file:
                raise ModelError(Code.MODEL_UNSAFE, f"{self._name}: weight {key} points outside the archive.")
            meta = entry["tensor_meta"]
            if meta["dtype"] != FLOAT32:
                continue
            sizes = tuple(int(s["as_int"]) for s in meta["sizes"])
            strides = tuple(int(s["as_int"]) * 4 for s in meta["strides"])
            raw = np.frombuffer(self._read(f"data/weights/{file}"), dtype="<f4")
            needed = 1 + sum((n - 1) * (s // 4) for n, s in zip(sizes, strides, strict=True)) if all(sizes) else 0
            if any(s < 0 for s in strides) or needed > raw.size:
                raise ModelError(Code.MODEL_MALFORMED, f"{self._name}: weight {key} is truncated.")
            value = np.lib.stride_tricks.as_strided(raw, sizes, strides).astype(np.float32)
            if not np.isfinite(value).all():
                raise ModelError(Code.MODEL_MALFORMED, f"{self._name}: weight {key} has values that are not finite.")
            found[key] = value
        return found

    def _shape(self, meta: dict[str, Any]) -> tuple[int, ...]:
        sizes = meta["sizes"][1:]
        if any("as_int" not in s for s in sizes):
            raise ModelError(
                Code.MODEL_UNSUPPORTED, f"{self._name}: a dimension besides the batch is dynamic; export with it fixed."
            )
        return tuple(int(s["as_int"]) for s in sizes)

    def _node(
        self, node: dict[str, Any], known: dict[str, Tensor], constants: dict[str, Array], values: dict[str, Any]
    ) -> Node:
        target = node["target"]
        arguments = {a["name"]: a["arg"] for a in node["inputs"]}
        tensors = {k: v["as_tensor"]["name"] for k, v in arguments.items() if "as_tensor" in v}
        flowing = [name for name in tensors.values() if name in known]
        output_name = node["outputs"][0]["as_tensor"]["name"]
        output = Tensor(name=output_name, shape=self._shape(values[output_name]))
        opaque = Node(op=Op.OPAQUE, inputs=tuple(flowing), output=output, source=target.removeprefix("torch.ops."))
        if len(flowing) != 1:
            return opaque
        x = known[flowing[0]]

        def constant(name: str) -> Array | None:
            return constants.get(tensors.get(name, ""))

        if target in UNARY:
            return Node(op=UNARY[target], inputs=(x.name,), output=output)
        if target == "torch.ops.aten.linear.default" and len(x.shape) == 1:
            weight, bias = constant("weight"), constant("bias")
            if weight is not None:
                bias = np.zeros(weight.shape[0], dtype=np.float32) if bias is None else bias
                return Node(
                    op=Op.GEMM,
                    inputs=(x.name,),
                    output=output,
                    constants={"weight": np.ascontiguousarray(weight.T), "bias": bias},
                )
        over_features = arguments.get("dim", {}).get("as_int") in (-1, 1)
        if target.startswith("torch.ops.aten.softmax.int") and len(x.shape) == 1 and over_features:
            return Node(op=Op.SOFTMAX, inputs=(x.name,), output=output)
        if target == "torch.ops.aten.batch_norm.default" and len(x.shape) == 1:
            parts = [constant(n) for n in ("weight", "bias", "running_mean", "running_var")]
            training = arguments.get("training", {}).get("as_bool", False)
            if all(p is not None for p in parts) and not training:
                names = ("gamma", "beta", "mean", "variance")
                return Node(
                    op=Op.BATCH_NORM,
                    inputs=(x.name,),
                    output=output,
                    constants={n: p for n, p in zip(names, parts, strict=True) if p is not None},
                    epsilon=float(arguments["eps"]["as_float"]),
                )
        reshapes = (
            "torch.ops.aten.flatten.using_ints",
            "torch.ops.aten.view.default",
            "torch.ops.aten.reshape.default",
        )
        if target in reshapes and output.size == x.size:
            return Node(op=Op.RESHAPE, inputs=(x.name,), output=output)
        return opaque
