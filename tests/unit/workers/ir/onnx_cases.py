"""Every ONNX operator as a small model with random shapes and settings, at old and new opsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from .torch_cases import Draw, shape, size


@dataclass(kw_only=True)
class Model:
    """A graph in the making: input `x`, output `y`."""

    shape: Sequence[int]
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    batch: int | str = "batch"
    dtype: int = onnx.TensorProto.FLOAT
    output: int | None = None
    """Rank of the output, where ONNX cannot infer it."""

    def node(self, op_type: str, *inputs: str, output: str = "y", domain: str = "", **attributes: Any) -> Model:
        outputs = output.split(",")
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, domain=domain, **attributes))
        return self

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> Model:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return self

    def integers(self, name: str, value: Any) -> Model:
        return self.constant(name, value, np.int64)

    def build(self) -> onnx.ModelProto:
        source = helper.make_tensor_value_info("x", self.dtype, [self.batch, *self.shape])
        dims = None if self.output is None else [None] * self.output
        target = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, dims)
        graph = helper.make_graph(self.nodes, "case", [source], [target], self.initializers)
        domains = {node.domain for node in self.nodes} - {""}
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 8 if self.opset < 21 else 10
        return onnx.shape_inference.infer_shapes(model, data_prop=True)


def normal(*sizes: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=sizes).astype(np.float32)


def opset(draw: Draw, low: int = 8, high: int = 21) -> int:
    return int(draw(st.sampled_from([o for o in (8, 9, 10, 11, 12, 13, 14, 17, 18, 20, 21) if low <= o <= high])))


def unary(op_type: str, *, low: int = 8, **attributes: Any) -> Callable[[Draw], Model]:
    def make(draw: Draw) -> Model:
        return Model(shape=shape(draw), opset=opset(draw, low)).node(op_type, "x", **attributes)

    return make


def positive(op_type: str) -> Callable[[Draw], Model]:
    """Of e^x, which is above zero."""

    def make(draw: Draw) -> Model:
        model = Model(shape=shape(draw), opset=opset(draw))
        return model.node("Exp", "x", output="e").node(op_type, "e")

    return make


def binary(op_type: str) -> Callable[[Draw], Model]:
    def make(draw: Draw) -> Model:
        sizes = shape(draw, 1, 3)
        other = [n if draw(st.booleans()) else 1 for n in sizes]
        model = Model(shape=sizes, opset=opset(draw)).node("Exp", "x", output="e")
        model.constant("c", np.abs(normal(*([1] if draw(st.booleans()) else []), *other)) + 0.5)
        return model.node(op_type, *(("e", "c") if draw(st.booleans()) else ("c", "e")))

    return make


def comparison(op_type: str, low: int = 13) -> Callable[[Draw], Model]:
    def make(draw: Draw) -> Model:
        model = Model(shape=shape(draw, 1, 2), opset=opset(draw, low)).constant("c", [0.1])
        model.node(op_type, "x", "c", output="t").node("Not", "t", output="n").node("Or", "t", "n", output="o")
        return model.node("And", "o", "t", output="a").node("Cast", "a", to=onnx.TensorProto.FLOAT)

    return make


def variadic(op_type: str) -> Callable[[Draw], Model]:
    def make(draw: Draw) -> Model:
        model = Model(shape=shape(draw), opset=opset(draw)).constant("c", [0.3])
        return model.node("Neg", "x", output="n").node(op_type, "x", "n", "c")

    return make


def gemm(draw: Draw) -> Model:
    m, n, turned = size(draw), size(draw), draw(st.booleans())
    model = Model(shape=[m], opset=opset(draw)).constant("w", normal(n, m) if turned else normal(m, n))
    model.constant("b", normal(*draw(st.sampled_from([(n,), (1, n), (1,)]))))
    return model.node("Gemm", "x", "w", "b", transB=int(turned), alpha=0.5, beta=2.0)


def matmul(draw: Draw) -> Model:
    sizes = (*shape(draw, 0, 2), size(draw))
    return Model(shape=sizes, opset=opset(draw)).constant("w", normal(sizes[-1], size(draw))).node("MatMul", "x", "w")


def matmul_left(draw: Draw) -> Model:
    m, n = size(draw), size(draw)
    return Model(shape=[m, n], opset=opset(draw)).constant("w", normal(1, 3, m)).node("MatMul", "w", "x")


def conv(draw: Draw) -> Model:
    groups, kernel = size(draw, 1, 2), [size(draw, 1, 3), size(draw, 1, 3)]
    inputs, outputs = groups * size(draw, 1, 2), groups * size(draw, 1, 2)
    model = Model(shape=[inputs, size(draw, 5, 7), size(draw, 5, 7)], opset=opset(draw))
    model.constant("w", normal(outputs, inputs // groups, *kernel)).constant("b", normal(outputs))
    padding: dict[str, Any] = draw(
        st.sampled_from([{"pads": [0, 1, 2, 1]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {}])
    )
    return model.node("Conv", "x", "w", "b", group=groups, strides=[size(draw, 1, 2)] * 2, **padding)


def pool(op_type: str) -> Callable[[Draw], Model]:
    def make(draw: Draw) -> Model:
        model = Model(shape=[2, size(draw, 5, 8), size(draw, 5, 8)], opset=opset(draw, 10))
        settings: dict[str, Any] = {"ceil_mode": int(draw(st.booleans()))} if model.opset >= 10 else {}
        if op_type == "AveragePool":
            settings["count_include_pad"] = int(draw(st.booleans()))
        if draw(st.booleans()):
            settings = {"auto_pad": "SAME_UPPER"}
        else:
            settings["pads"] = [1, 0, 0, 1]
        return model.node(op_type, "x", kernel_shape=[2, 3], strides=[size(draw, 1, 2), 2], **settings)

    return make


def batch_norm(draw: Draw) -> Model:
    channels = size(draw)
    model = Model(shape=[channels, *shape(draw, 0, 2)], opset=opset(draw))
    for name in ("scale", "bias", "mean"):
        model.constant(name, normal(channels))
    model.constant("var", np.abs(normal(channels)) + 0.5)
    return model.node("BatchNormalization", "x", "scale", "bias", "mean", "var", epsilon=1e-3)


def layer_norm(draw: Draw) -> Model:
    outer, inner = shape(draw, 0, 2), shape(draw, 1, 2)
    model = Model(shape=[*outer, *inner], opset=opset(draw, 17)).constant("g", normal(*inner))
    operands = ["x", "g"]
    if draw(st.booleans()):
        model.constant("b", normal(*inner))
        operands.append("b")
    return model.node("LayerNormalization", *operands, axis=-len(inner), epsilon=1e-2)


def softmax(op_type: str) -> Callable[[Draw], Model]:
    def make(draw: Draw) -> Model:
        sizes = shape(draw)
        return Model(shape=sizes, opset=opset(draw)).node(op_type, "x", axis=draw(st.integers(1, len(sizes))))

    return make


def reduction(op_type: str) -> Callable[[Draw], Model]:
    def make(draw: Draw) -> Model:
        sizes = shape(draw)
        model = Model(shape=sizes, opset=opset(draw))
        axes = sorted(draw(st.sets(st.integers(1, len(sizes)), min_size=1)))
        keep = int(draw(st.booleans()))
        if model.opset >= (13 if op_type == "ReduceSum" else 18):
            return model.integers("axes", axes).node(op_type, "x", "axes", keepdims=keep)
        return model.node(op_type, "x", axes=axes, keepdims=keep)

    return make


def clip(draw: Draw) -> Model:
    model = Model(shape=shape(draw), opset=opset(draw))
    if model.opset < 11:
        return model.node("Clip", "x", min=-0.5, max=0.25)
    return model.constant("lo", -0.5).constant("hi", 0.25).node("Clip", "x", draw(st.sampled_from(["lo", ""])), "hi")


def pad(draw: Draw) -> Model:
    widths = [0, *(size(draw, 0, 2) for _ in range(2)), 0, *(size(draw, 0, 2) for _ in range(2))]
    mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
    model = Model(shape=[3, 4], opset=opset(draw))
    if model.opset < 11:
        return model.node("Pad", "x", pads=widths, mode=mode, value=0.5)
    return model.integers("p", widths).constant("v", 0.5).node("Pad", "x", "p", "v", mode=mode)


def slices(draw: Draw) -> Model:
    model = Model(shape=[6, 5], opset=opset(draw))
    if model.opset < 10:
        return model.node("Slice", "x", starts=[1, -3], ends=[5, 9999], axes=[1, 2])
    model.integers("s", [-1, 1]).integers("e", [-9999, 4]).integers("a", [1, -1]).integers("t", [-2, 2])
    return model.node("Slice", "x", "s", "e", "a", "t")


def split(draw: Draw) -> Model:
    model = Model(shape=[6], opset=opset(draw))
    names = "a,b,c"
    if draw(st.booleans()):
        told: dict[str, Any] = {"num_outputs": 3} if model.opset >= 18 else {}
        model.node("Split", "x", axis=1, output=names, **told)
    elif model.opset >= 13:
        model.integers("s", [1, 2, 3]).node("Split", "x", "s", axis=1, output=names)
    else:
        model.node("Split", "x", axis=-1, output=names, split=[1, 2, 3])
    return model.node("Concat", "c", "a", "b", axis=1)


def squeeze(draw: Draw) -> Model:
    model = Model(shape=[1, size(draw), 1], opset=opset(draw))
    if model.opset >= 13:
        model.integers("s", [1, -1]).integers("u", [1, 3])
        return model.node("Squeeze", "x", "s", output="q").node("Unsqueeze", "q", "u")
    model.node("Squeeze", "x", axes=[1, 3], output="q")
    return model.node("Unsqueeze", "q", axes=[1, 3])


def reshape(draw: Draw) -> Model:
    target = draw(st.sampled_from([[0, 0, -1], [-1, 12], [0, 3, 2, 2], [-1, 4, 3], [0, 12]]))
    return Model(shape=[3, 4], opset=opset(draw)).integers("s", target).node("Reshape", "x", "s")


def exported_reshape(draw: Draw) -> Model:
    """What exporters write for x.view(x.size(0), -1)."""
    model = Model(shape=[3, 4], opset=opset(draw, 13), output=2)
    model.integers("zero", 0).integers("axes", [0]).integers("rest", [-1])
    model.node("Shape", "x", output="sizes").node("Gather", "sizes", "zero", output="rows", axis=0)
    model.node("Unsqueeze", "rows", "axes", output="vector").node("Concat", "vector", "rest", output="target", axis=0)
    return model.node("Reshape", "x", "target")


def exported_state(draw: Draw) -> Model:
    """What exporters write for a state of zeros, ones added to make it visible."""
    model = Model(shape=[3], opset=opset(draw, 13)).integers("zero", 0).integers("axes", [0]).integers("width", [3])
    model.node("Shape", "x", output="sizes").node("Gather", "sizes", "zero", output="rows", axis=0)
    model.node("Unsqueeze", "rows", "axes", output="vector").node("Concat", "vector", "width", output="target", axis=0)
    one = numpy_helper.from_array(np.ones(1, np.float32))
    return model.node("ConstantOfShape", "target", output="state", value=one).node("Add", "x", "state")


def gather(draw: Draw) -> Model:
    indices = draw(st.sampled_from([0, -1, [1], [2, 0, -1], [[0, 1], [2, 2]]]))
    axis = draw(st.sampled_from([1, 2, -1]))
    return Model(shape=[3, 4], opset=opset(draw)).integers("i", indices).node("Gather", "x", "i", axis=axis)


def embedding(draw: Draw) -> Model:
    model = Model(shape=shape(draw, 1, 2), opset=opset(draw, 13), dtype=onnx.TensorProto.INT64)
    return model.constant("table", normal(20, size(draw))).node("Gather", "table", "x")


def recurrent(op_type: str) -> Callable[[Draw], Model]:
    """Steps first, as ONNX reads them, and back again."""

    def make(draw: Draw) -> Model:
        steps, inputs, hidden = size(draw, 1, 4), size(draw, 1, 3), size(draw, 1, 3)
        direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
        count, gates = 2 if direction == "bidirectional" else 1, 4 if op_type == "LSTM" else 3
        model = Model(shape=[steps, inputs], opset=opset(draw)).node("Transpose", "x", output="t", perm=[1, 0, 2])
        model.constant("w", normal(count, gates * hidden, inputs)).constant("r", normal(count, gates * hidden, hidden))
        model.constant("b", normal(count, 2 * gates * hidden))
        settings: dict[str, Any] = {"linear_before_reset": int(draw(st.booleans()))} if op_type == "GRU" else {}
        names = ["h", "f", "c"][: 3 if op_type == "LSTM" else 2]
        outputs = ",".join(names)
        model.node(op_type, "t", "w", "r", "b", output=outputs, hidden_size=hidden, direction=direction, **settings)
        model.node("Transpose", "h", output="h1", perm=[2, 0, 1, 3]).node("Flatten", "h1", output="h2")
        for name in names[1:]:
            model.node("Transpose", name, output=f"{name}1", perm=[1, 0, 2]).node(
                "Flatten", f"{name}1", output=f"{name}2"
            )
        return model.node("Concat", *(f"{name}2" for name in names), axis=1)

    return make


CASES: dict[str, Callable[[Draw], Model]] = {
    **{
        name: unary(name)
        for name in ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Exp", "Softplus", "Identity", "Dropout")
    },
    **{name: positive(name) for name in ("Sqrt", "Log", "Reciprocal")},
    "Erf": unary("Erf", low=9),
    "HardSwish": unary("HardSwish", low=14),
    "Gelu": unary("Gelu", low=20),
    "GeluTanh": unary("Gelu", low=20, approximate="tanh"),
    "LeakyRelu": unary("LeakyRelu", alpha=0.3),
    "HardSigmoid": unary("HardSigmoid", alpha=0.3, beta=0.4),
    "Flatten": unary("Flatten"),
    "PRelu": lambda draw: Model(shape=[3, 2], opset=opset(draw)).constant("s", normal(3, 1)).node("PRelu", "x", "s"),
    **{name: binary(name) for name in ("Add", "Sub", "Mul", "Div", "Pow")},
    **{name: comparison(name) for name in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")},
    **{name: variadic(name) for name in ("Sum", "Mean", "Max", "Min")},
    "Where": lambda draw: (
        Model(shape=shape(draw), opset=opset(draw, 13))
        .constant("c", [0.1])
        .node("Less", "x", "c", output="t")
        .node("Where", "t", "c", "x")
    ),
    "Elu": unary("Elu", alpha=0.7),
    "Selu": unary("Selu"),
    "Celu": unary("Celu", low=12, alpha=0.6),
    "Softsign": unary("Softsign"),
    "Mish": unary("Mish", low=18),
    "InstanceNormalization": lambda draw: (
        Model(shape=[3, size(draw, 2), 4], opset=opset(draw))
        .constant("g", normal(3))
        .constant("b", normal(3, seed=1))
        .node("InstanceNormalization", "x", "g", "b")
    ),
    "GroupNormalization": lambda draw: (
        Model(shape=[6, size(draw, 2), 4], opset=21, output=4)
        .constant("g", normal(6))
        .constant("b", normal(6, seed=1))
        .node("GroupNormalization", "x", "g", "b", num_groups=size(draw, 2, 3))
    ),
    "ConvTranspose": lambda draw: (
        Model(shape=[4, 5, 4], opset=opset(draw, 11))
        .constant("w", normal(4, 3, 2, 3))
        .constant("b", normal(6))
        .node("ConvTranspose", "x", "w", "b", group=2, strides=[2, 3], pads=[0, 1, 1, 0], output_padding=[1, 0])
    ),
    "Resize": lambda draw: (
        Model(shape=[2, 3, 4], opset=opset(draw, 13))
        .constant("scales", [1, 1, size(draw, 2, 4), size(draw, 1, 3)])
        .node("Resize", "x", "", "scales", mode="nearest")
    ),
    "ResizeToSizes": lambda draw: (
        Model(shape=[2, 3, 4], opset=opset(draw, 13), output=4)
        .integers("from", [0])
        .integers("to", [1])
        .integers("rest", [2, 6, 4])
        .node("Shape", "x", output="all")
        .node("Slice", "all", "from", "to", output="rows")
        .node("Concat", "rows", "rest", output="sizes", axis=0)
        .node(
            "Resize",
            "x",
            "",
            "",
            "sizes",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    ),
    "Gemm": gemm,
    "MatMul": matmul,
    "MatMulLeft": matmul_left,
    "Conv": conv,
    "MaxPool": pool("MaxPool"),
    "AveragePool": pool("AveragePool"),
    "GlobalAveragePool": lambda draw: Model(shape=[2, 3, 4], opset=opset(draw)).node("GlobalAveragePool", "x"),
    "GlobalMaxPool": lambda draw: Model(shape=[2, 5], opset=opset(draw)).node("GlobalMaxPool", "x"),
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "Softmax": softmax("Softmax"),
    "LogSoftmax": softmax("LogSoftmax"),
    **{
        name: reduction(name)
        for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL2")
    },
    "Clip": clip,
    "Pad": pad,
    "Slice": slices,
    "Split": split,
    "Squeeze": squeeze,
    "Reshape": reshape,
    "ReshapeExported": exported_reshape,
    "StateExported": exported_state,
    "Transpose": lambda draw: Model(shape=[2, 3, 4], opset=opset(draw)).node(
        "Transpose", "x", perm=[0, *draw(st.permutations([1, 2, 3]))]
    ),
    "Expand": lambda draw: (
        Model(shape=[1, 3], opset=opset(draw))
        .integers("s", draw(st.sampled_from([[2, 3], [1, 2, 1]])))
        .node("Expand", "x", "s")
    ),
    "Gather": gather,
    "Embedding": embedding,
    "LSTM": recurrent("LSTM"),
    "GRU": recurrent("GRU"),
}
