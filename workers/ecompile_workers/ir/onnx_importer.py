"""From ONNX (opset 7 and later) to our graph. Nothing of the file is executed; external data is not followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ecompile_crds.errors import Code, ModelError
from google.protobuf.message import DecodeError
from onnx import numpy_helper, shape_inference

from .graph import Array, Graph, Node, Op, Tensor, problems

BATCH = "batch"
UNARY = {"Relu": Op.RELU, "Tanh": Op.TANH, "Sigmoid": Op.SIGMOID}


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
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise ModelError(
                    Code.MODEL_UNSUPPORTED,
                    f"{path.name}: tensor {tensor.name} is kept outside the file; save the model as one file.",
                )
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, UnicodeDecodeError) as error:
        line = str(error).strip().splitlines()
        raise ModelError(
            Code.MODEL_MALFORMED, f"{path.name}: not a readable ONNX model: {line[0] if line else error!r}."
        ) from error
    return model


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose leading dimension is symbolic; a fixed batch of 1 is freed, constant reshapes included."""
    free = onnx.ModelProto()
    free.CopyFrom(model)
    constants = {t.name for t in free.graph.initializer}
    values = [v for v in (*free.graph.input, *free.graph.output) if v.name not in constants]
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].Clear()
            dims[0].dim_param = BATCH
    del free.graph.value_info[:]
    shapes = {n.input[1] for n in free.graph.node if n.op_type == "Reshape" and len(n.input) > 1}
    for tensor in free.graph.initializer:
        if tensor.name in shapes:
            shape = numpy_helper.to_array(tensor).copy()
            if shape.size and shape[0] == 1:
                # 0 copies the batch from the input (ONNX Reshape, allowzero = 0).
                shape[0] = 0
                tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    return free


def import_model(model: onnx.ModelProto, *, name: str) -> Graph:
    """Our graph of a checked model.

    Raises ModelError where the model has not exactly one input and one output, or non-finite weights.
    """
    return _Importer(model, name).run()


class _Importer:
    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self._name = name
        inferred = shape_inference.infer_shapes(with_dynamic_batch(model), data_prop=True)
        self._graph = inferred.graph
        self._constants: dict[str, np.ndarray[Any, Any]] = {
            t.name: numpy_helper.to_array(t) for t in self._graph.initializer
        }
        infos = (*self._graph.value_info, *self._graph.output, *self._graph.input)
        self._shapes = {v.name: self._shape(v) for v in infos}
        self._alias: dict[str, str] = {}
        self._nodes: list[Node] = []

    def _shape(self, value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
        dims = value.type.tensor_type.shape.dim[1:]
        return tuple(d.dim_value for d in dims) if all(d.dim_value > 0 for d in dims) else None

    def _tensor(self, name: str, fallback: tuple[int, ...] = ()) -> Tensor:
        return Tensor(name=name, shape=self._shapes.get(name) or fallback)

    def run(self) -> Graph:
        inputs = [v for v in self._graph.input if v.name not in self._constants]
        if len(inputs) != 1 or len(self._graph.output) != 1:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: {len(inputs)} inputs and {len(self._graph.output)} outputs; exactly one of each is "
                "supported.",
            )
        if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ModelError(Code.MODEL_UNSUPPORTED, f"{self._name}: input {inputs[0].name} is not float32.")
        shape = self._shapes[inputs[0].name]
        if shape is None:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._name}: input {inputs[0].name} has a dynamic dimension besides the batch; fix its size.",
            )
        source = Tensor(name=inputs[0].name, shape=shape)
        for value_name, value in self._constants.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ModelError(
                    Code.MODEL_MALFORMED, f"{self._name}: weight {value_name} has values that are not finite."
                )
        self._known = {source.name: source}
        for node in self._graph.node:
            self._node(node)
        output = self._resolve(self._graph.output[0].name)
        if output not in self._known:
            raise ModelError(Code.MODEL_UNSUPPORTED, f"{self._name}: the output does not depend on the input.")
        graph = Graph(input=source, output=self._known[output], nodes=tuple(self._nodes))
        wrong = problems(graph)
        if wrong:
            raise ModelError(Code.MODEL_MALFORMED, f"{self._name}: {wrong[0]}.")
        return graph

    def _resolve(self, name: str) -> str:
        while name in self._alias:
            name = self._alias[name]
        return name

    def _node(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant":
            attribute = node.attribute[0]
            if attribute.name == "value":
                self._constants[node.output[0]] = numpy_helper.to_array(attribute.t)
            return
        flowing = [self._resolve(i) for i in node.input if i and i not in self._constants]
        if node.op_type in ("Identity", "Dropout") and len(flowing) == 1:
            self._alias[node.output[0]] = flowing[0]
            return
        convert: Callable[[onnx.NodeProto, Tensor], Node | None] | None = getattr(
            self, f"_op_{node.op_type.lower()}", None
        )
        made: Node | None = None
        if node.domain in ("", "ai.onnx") and len(flowing) == 1:
            x = self._known[flowing[0]]
            if node.op_type in UNARY:
                made = Node(op=UNARY[node.op_type], inputs=(x.name,), output=self._tensor(node.output[0], x.shape))
            elif convert is not None:
                made = convert(node, x)
        if made is None:
            outputs = [o for o in node.output if o]
            made = Node(op=Op.OPAQUE, inputs=tuple(flowing), output=self._tensor(outputs[0], ()), source=node.op_type)
            for extra in outputs[1:]:
                self._known[extra] = self._tensor(extra)
        self._nodes.append(made)
        self._known[made.output.name] = made.output

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def _float(self, name: str) -> Array:
        return np.ascontiguousarray(self._constants[name], dtype=np.float32)

    def _op_gemm(self, node: onnx.NodeProto, x: Tensor) -> Node | None:
        found = self._attributes(node)
        if found.get("transA", 0) or node.input[1] not in self._constants:
            return None
        weight = self._float(node.input[1]).astype(np.float64) * found.get("alpha", 1.0)
        weight = weight.T if found.get("transB", 0) else weight
        bias = np.zeros(weight.shape[1])
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in self._constants:
                return None
            bias = bias + self._float(node.input[2]).astype(np.float64).reshape(-1) * found.get("beta", 1.0)
        return _gemm(node.output[0], x, weight, bias)

    def _op_matmul(self, node: onnx.NodeProto, x: Tensor) -> Node | None:
        if node.input[1] not in self._constants or len(x.shape) != 1:
            return None
        weight = self._float(node.input[1])
        if weight.ndim != 2:
            return None
        return _gemm(node.output[0], x, weight, np.zeros(weight.shape[1]))

    def _op_batchnormalization(self, node: onnx.NodeProto, x: Tensor) -> Node | None:
        if len(x.shape) != 1 or any(name not in self._constants for name in node.input[1:5]):
            return None
        gamma, beta, mean, variance = (self._float(name) for name in node.input[1:5])
        return Node(
            op=Op.BATCH_NORM,
            inputs=(x.name,),
            output=self._tensor(node.output[0], x.shape),
            constants={"gamma": gamma, "beta": beta, "mean": mean, "variance": variance},
            epsilon=float(self._attributes(node).get("epsilon", 1e-5)),
        )

    def _affine(self, node: onnx.NodeProto, x: Tensor, scale: object, shift: object) -> Node | None:
        try:
            wide = [np.broadcast_to(np.asarray(v, dtype=np.float32), (1, *x.shape))[0] for v in (scale, shift)]
        except ValueError:
            return None
        return Node(
            op=Op.AFFINE,
            inputs=(x.name,),
            output=self._tensor(node.output[0], x.shape),
            constants={"scale": np.ascontiguousarray(wide[0]), "shift": np.ascontiguousarray(wide[1])},
        )

    def _other(self, node: onnx.NodeProto) -> tuple[Array, bool]:
        """The constant operand, and whether the flowing one comes first."""
        first = node.input[0] not in self._constants
        return self._float(node.input[1] if first else node.input[0]), first

    def _op_add(self, node: onnx.NodeProto, x: Tensor) -> Node | None:
        if all(i not in self._constants for i in node.input):
            return None
        return self._affine(node, x, 1.0, self._other(node)[0])

    def _op_sub(self, node: onnx.NodeProto, x: Tensor) -> Node | None:
        if all(i not in self._constants for i in node.input):
            return None
        constant, first = self._other(node)
        return self._affine(node, x, 1.0, -constant) if first else self._affine(node, x, -1.0, constant)

    def _op_mul(self, node: onnx.NodeProto, x: Tensor) -> Node | None:
        if all(i not in self._constants for i in node.input):
            return None
        return self._affine(node, x, self._other(node)[0], 0.0)

    def _op_softmax(self, node: onnx.NodeProto, x: Tensor) -> Node | None:
        axis = int(self._attributes(node).get("axis", -1))
        if len(x.shape) != 1 or axis not in (-1, 1):
            return None
        return Node(op=Op.SOFTMAX, inputs=(x.name,), output=self._tensor(node.output[0], x.shape))

    def _op_flatten(self, node: onnx.NodeProto, x: Tensor) -> Node | None:
        if int(self._attributes(node).get("axis", 1)) != 1:
            return None
        return Node(op=Op.RESHAPE, inputs=(x.name,), output=Tensor(name=node.output[0], shape=(x.size,)))

    def _op_reshape(self, node: onnx.NodeProto, x: Tensor) -> Node | None:
        if node.input[1] not in self._constants:
            return None
        shape = [int(v) for v in self._constants[node.input[1]]]
        if not shape or shape[0] not in (0, -1, 1):
            return None
        rest = [x.shape[i] if v == 0 and i < len(x.shape) else v for i, v in enumerate(shape[1:])]
        if rest.count(-1) > 1 or (shape[0] == -1 and -1 in rest):
            return None
        known = int(np.prod([v for v in rest if v != -1], dtype=np.int64))
        rest = [x.size // max(1, known) if v == -1 else v for v in rest]
        if int(np.prod(rest, dtype=np.int64)) != x.size:
            return None
        return Node(op=Op.RESHAPE, inputs=(x.name,), output=Tensor(name=node.output[0], shape=tuple(rest)))


def _gemm(output: str, x: Tensor, weight: Any, bias: Any) -> Node | None:
    if weight.shape[0] != x.size or len(x.shape) != 1:
        return None
    return Node(
        op=Op.GEMM,
        inputs=(x.name,),
        output=Tensor(name=output, shape=(int(weight.shape[1]),)),
        constants={
            "weight": np.ascontiguousarray(weight, dtype=np.float32),
            "bias": np.ascontiguousarray(bias, dtype=np.float32),
        },
    )
