"""From ONNX (opset 7 to 21) to our graph. Nothing of the file is executed; weights beside it stay in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ecompile_crds.errors import Code, ModelError
from google.protobuf.message import DecodeError
from onnx import numpy_helper, shape_inference
from onnx.inliner import inline_local_functions

from .graph import DType, Graph, Tensor
from .importing.builder import Builder, common_batch
from .importing.values import WRONG_FORM, Constant, Flow, Unsupported, Value, fixed
from .onnx_source import dense, elementwise, external, recurrent, shaping
from .onnx_source.call import Call, Converter
from .onnx_source.elementwise import DTYPES, type_name
from .onnx_source.folding import fold

BATCH = "batch"
OPSETS = range(7, 22)
STANDARD = ("", "ai.onnx")
KNOWN_DOMAINS = (*STANDARD, "ai.onnx.ml", "com.microsoft")
"""Domains that ONNX Runtime brings along; what else is in a model needs a library that we do not have."""
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
CONVERTERS: dict[str, Converter] = {
    **elementwise.CONVERTERS,
    **dense.CONVERTERS,
    **shaping.CONVERTERS,
    **recurrent.CONVERTERS,
}


def read(path: Path) -> onnx.ModelProto:
    """Parse and check a file.

    Raises ModelError naming the file.
    """
    try:
        model = onnx.load_model(str(path), load_external_data=False)
        if not model.graph.output or not model.graph.node:
            raise ModelError(
                Code.MODEL_MALFORMED, f"{path.name}: this is not an ONNX model (it has no nodes or outputs)."
            )
        _check_version(model, path.name)
        external.load(model, path)
        onnx.checker.check_model(model)
        if model.functions:
            model = inline_local_functions(model)
    except (DecodeError, onnx.checker.ValidationError, UnicodeDecodeError, ValueError) as error:
        line = str(error).strip().splitlines()
        raise ModelError(
            Code.MODEL_MALFORMED, f"{path.name}: not a readable ONNX model: {line[0] if line else error!r}."
        ) from error
    return model


def _check_version(model: onnx.ModelProto, name: str) -> None:
    version = next((o.version for o in model.opset_import if o.domain in STANDARD), None)
    if version is not None and version not in OPSETS:
        raise ModelError(
            Code.MODEL_UNSUPPORTED,
            f"{name}: opset {version} is not supported, only {OPSETS.start} to {OPSETS.stop - 1}; export the model "
            f"with opset_version={OPSETS.stop - 1}.",
        )


def _leading(value: onnx.ValueInfoProto) -> onnx.TensorShapeProto.Dimension:
    """The first dimension; an empty one where there is none."""
    dims = value.type.tensor_type.shape.dim
    return dims[0] if dims else onnx.TensorShapeProto.Dimension()


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Without weights, which old exporters list among them."""
    constants = {t.name for t in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in constants]


def static_batch(model: onnx.ModelProto, *, name: str = "the model") -> int | None:
    """The batch size that is written into a model; None where it is symbolic.

    Raises ModelError where the inputs differ in their first dimension.
    """
    return common_batch({v.name: int(_leading(v).dim_value) or None for v in _inputs(model)}, name=name)


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose leading dimension is symbolic; a fixed batch of 1 is freed, constant reshapes included."""
    free = onnx.ModelProto()
    free.CopyFrom(model)
    for value in (*_inputs(free), *free.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].Clear()
            dims[0].dim_param = BATCH
    del free.graph.value_info[:]
    shapes = {n.input[1] for n in free.graph.node if n.op_type == "Reshape" and len(n.input) > 1}
    made = [n.attribute[0].t for n in free.graph.node if n.op_type == "Constant" and n.output[0] in shapes]
    for tensor in (*(t for t in free.graph.initializer if t.name in shapes), *made):
        shape = numpy_helper.to_array(tensor).copy()
        if shape.size and shape.ndim == 1 and shape[0] == 1:
            # 0 copies the batch from the input (ONNX Reshape, allowzero = 0).
            shape[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    return free


def import_model(model: onnx.ModelProto, *, name: str) -> Graph:
    """Our graph of a checked model.

    Raises ModelError saying what is not supported, or what is wrong with a weight, and what to do.
    """
    return _Importer(model, name).run()


class _Importer:
    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        _check_version(model, name)
        self._model = model
        self._name = name
        self._opset = next((int(o.version) for o in model.opset_import if o.domain in STANDARD), OPSETS.stop - 1)
        self._values: dict[str, Value] = {t.name: self._constant(t) for t in model.graph.initializer}
        self._batches = {BATCH, *(_leading(v).dim_param for v in model.graph.input if _leading(v).dim_param)}
        self._inferred: dict[str, onnx.ValueInfoProto] | None = None
        inputs = _inputs(model)
        if not inputs:
            raise ModelError(Code.MODEL_UNSUPPORTED, f"{name}: it has no input; a network computes something of one.")
        sources = [self._source(value, alone=len(inputs) == 1) for value in inputs]
        self._builder = Builder(name, sources, static_batch=static_batch(model, name=name))
        self._values |= self._builder.flows

    def _constant(self, tensor: onnx.TensorProto) -> Constant:
        try:
            value = numpy_helper.to_array(tensor)
        except WRONG_FORM as error:
            raise ModelError(
                Code.MODEL_MALFORMED, f"{self._name}: weight {tensor.name} cannot be read ({error}); it is damaged."
            ) from error
        if value.dtype.kind == "f" and np.isnan(value).any():
            raise ModelError(
                Code.MODEL_MALFORMED,
                f"{self._name}: weight {tensor.name} has values that are not finite; the training diverged or the "
                "file is damaged.",
            )
        return fixed(value, tensor.name)

    def _source(self, value: onnx.ValueInfoProto, *, alone: bool) -> Tensor:
        kind = value.type.tensor_type
        if kind.elem_type not in DTYPES or (alone and DTYPES[kind.elem_type] is DType.BOOL):
            told = type_name(kind.elem_type)
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: input {value.name} is {told}, not float32 or int64; convert the model before "
                "exporting it.",
            )
        dims = kind.shape.dim[1:]
        if not kind.shape.dim or any(d.dim_value <= 0 for d in dims):
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: input {value.name} has a dynamic dimension besides the batch; fix its size.",
            )
        return Tensor(name=value.name, shape=tuple(int(d.dim_value) for d in dims), dtype=DTYPES[kind.elem_type])

    def run(self) -> Graph:
        for node in self._model.graph.node:
            self._check(node)
            try:
                self._node(node)
            except ModelError as error:
                where = f"{self._name}: " if self._name not in error.message else ""
                raise ModelError(error.code, f"{where}{error.message}") from error
        return self._builder.graph({v.name: self._values.get(v.name) for v in self._model.graph.output})

    def _check(self, node: onnx.NodeProto) -> None:
        """Refuse what no part of the program could run or cut around."""
        if node.op_type in CONTROL_FLOW and node.domain in STANDARD:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: operator {node.op_type} ({node.output[0]}) is control flow, which is not supported; "
                "export the model with the branch or loop unrolled.",
            )
        if node.domain not in KNOWN_DOMAINS:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: operator {node.op_type} is of the custom domain {node.domain}, which nothing here can "
                "run; express it by standard operators.",
            )

    def _node(self, node: onnx.NodeProto) -> None:
        operands = [self._operand(name) for name in node.input]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            self._values[node.output[0]] = self._literal(node, attributes)
            return
        self._builder.begin(node.op_type)
        try:
            found = self._converted(node, operands, attributes)
        except Unsupported as error:
            self._opaque(node, [o for o in operands if isinstance(o, Flow)], str(error))
            return
        except WRONG_FORM as error:
            raise ModelError(
                Code.MODEL_MALFORMED,
                f"{self._name}: operator {node.op_type} ({node.output[0]}) has operands that do not fit it ({error}); "
                "the model is damaged.",
            ) from error
        wanted = {name: v for name, v in zip(node.output, found, strict=False) if name and v is not None}
        self._values.update(self._builder.finish(wanted))

    def _operand(self, name: str) -> Value | None:
        if name and name not in self._values:
            raise ModelError(Code.MODEL_MALFORMED, f"{self._name}: tensor {name} is used but never computed.")
        return self._values[name] if name else None

    def _literal(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Constant:
        ((kind, value),) = attributes.items()
        if kind == "value":
            return self._constant(value)
        types = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        if kind not in types:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: constant {node.output[0]} is a {kind}; only tensors are supported.",
            )
        return fixed(np.asarray(value, dtype=types[kind]))

    def _converted(
        self, node: onnx.NodeProto, operands: list[Value | None], attributes: dict[str, Any]
    ) -> list[Value | None]:
        constants = [o for o in operands if not isinstance(o, Flow)]
        if len(constants) == len(operands):
            return list(fold(node, constants, self._opset))
        convert = CONVERTERS.get(node.op_type) if node.domain in STANDARD else None
        if convert is None:
            raise Unsupported("not known")
        call = Call(
            builder=self._builder,
            operator=node.op_type,
            opset=self._opset,
            operands=operands,
            attributes=attributes,
            outputs=list(node.output),
        )
        found = convert(call)
        return [found] if isinstance(found, Flow | Constant) else list(found)

    def _opaque(self, node: onnx.NodeProto, flows: list[Flow], reason: str) -> None:
        if not flows:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: operator {node.op_type} on constants ({node.output[0]}) cannot be computed at import: "
                f"{reason}; simplify the model before exporting it.",
            )
        outputs = [self._outside(name, node, reason) for name in node.output if name]
        for tensor, flow in zip(outputs, self._builder.opaque(flows, outputs, reason), strict=True):
            self._values[tensor.name] = flow

    def _outside(self, name: str, node: onnx.NodeProto, reason: str) -> Tensor:
        """The output of an unknown operator, whose shape ONNX's own inference must tell."""
        if self._inferred is None:
            self._inferred = self._shapes()
        info = self._inferred.get(name)
        kind = info.type.tensor_type if info is not None else None
        dims = [] if kind is None else list(kind.shape.dim)
        known = bool(dims) and dims[0].dim_param in self._batches
        if kind is None or not known or any(d.dim_value <= 0 for d in dims[1:]) or kind.elem_type not in DTYPES:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: operator {node.op_type} ({name}) is not supported: {reason}; and it cannot stay "
                "neural, because its output has no fixed shape behind the batch.",
            )
        return Tensor(name=name, shape=tuple(int(d.dim_value) for d in dims[1:]), dtype=DTYPES[kind.elem_type])

    def _shapes(self) -> dict[str, onnx.ValueInfoProto]:
        """What the model says and what ONNX infers; what the model says of its output is not taken for granted."""
        free = with_dynamic_batch(self._model)
        for output in free.graph.output:
            output.type.tensor_type.ClearField("shape")
        try:
            inferred = shape_inference.infer_shapes(free, data_prop=True).graph
        except (MemoryError, RuntimeError, shape_inference.InferenceError) as error:
            raise ModelError(
                Code.MODEL_MALFORMED, f"{self._name}: shapes cannot be inferred ({error}); the model is damaged."
            ) from error
        return {v.name: v for v in (*self._model.graph.value_info, *inferred.value_info, *inferred.output)}
