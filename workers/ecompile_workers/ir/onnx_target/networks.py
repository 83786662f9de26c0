"""Matrix products, convolutions, pooling and normalisations in ONNX."""

from __future__ import annotations

from ..attributes import Attention, Convolution, Epsilon, LastAxes, Pool
from ..graph import Node, Op
from ..operators.dense import causal_mask
from .writer import Emitter, Writer


def gemm(writer: Writer, node: Node) -> None:
    x, weight, bias = writer.operands(node)
    if len(node.output.shape) == 1:
        writer.add(node, "Gemm", [x, weight, bias], last=True)
    else:
        writer.add(node, "Add", [writer.add(node, "MatMul", [x, weight]), bias], last=True)


def matmul(writer: Writer, node: Node) -> None:
    rank = len(node.output.shape)
    writer.add(node, "MatMul", [writer.aligned(node, o, rank) for o in writer.operands(node)], last=True)


def embedding(writer: Writer, node: Node) -> None:
    ids, weight = writer.operands(node)
    writer.add(node, "Gather", [weight, ids], last=True, axis=0)


def attention(writer: Writer, node: Node) -> None:
    """softmax(scale Q K^T + mask) V, with the scale on Q."""
    assert isinstance(node.attributes, Attention)
    rank = len(node.output.shape)
    query, key, value, *mask = (writer.aligned(node, o, rank) for o in writer.operands(node))
    turned = [0, *range(1, rank - 1), rank, rank - 1]
    scaled = writer.add(node, "Mul", [query, writer.constant(node, node.attributes.scale)])
    scores = writer.add(node, "MatMul", [scaled, writer.add(node, "Transpose", [key], perm=turned)])
    if node.attributes.causal:
        rows, columns = node.output.shape[-2], _columns(writer, node)
        mask.append(writer.constant(node, causal_mask(rows, columns)))
    for each in mask:
        scores = writer.add(node, "Add", [scores, each])
    writer.add(node, "MatMul", [writer.add(node, "Softmax", [scores], axis=-1), value], last=True)


def _columns(writer: Writer, node: Node) -> int:
    key = node.operands[1]
    return int((writer.tensors[key] if isinstance(key, str) else key).shape[-2])


def conv(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Convolution)
    a = node.attributes
    writer.add(
        node,
        "Conv",
        writer.operands(node),
        last=True,
        strides=a.strides,
        dilations=a.dilations,
        pads=[*a.begin, *a.end],
        group=a.groups,
    )


def pool(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Pool)
    a = node.attributes
    window = {
        "kernel_shape": a.kernel,
        "strides": a.strides,
        "pads": [*a.begin, *a.end],
        "dilations": a.dilations,
        "ceil_mode": int(a.ceil),
    }
    if node.op is Op.AVERAGE_POOL:
        window["count_include_pad"] = int(a.count_padding)
    op_type = "MaxPool" if node.op is Op.MAX_POOL else "AveragePool"
    writer.add(node, op_type, node.inputs, last=True, **window)


def batch_norm(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Epsilon)
    epsilon = node.attributes.epsilon
    writer.add(node, "BatchNormalization", writer.operands(node), last=True, epsilon=epsilon)


def layer_norm(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, LastAxes)
    a = node.attributes
    writer.add(node, "LayerNormalization", writer.operands(node), last=True, axis=-a.count, epsilon=a.epsilon)


def rms_norm(writer: Writer, node: Node) -> None:
    """x / sqrt(mean(x^2) + epsilon) * gamma."""
    assert isinstance(node.attributes, LastAxes)
    x, gamma = writer.operands(node)
    axes = writer.integers(node, range(-node.attributes.count, 0))
    power = writer.add(node, "ReduceMean", [writer.add(node, "Mul", [x, x]), axes], keepdims=1)
    shifted = writer.add(node, "Add", [power, writer.constant(node, node.attributes.epsilon)])
    scaled = writer.add(node, "Div", [x, writer.add(node, "Sqrt", [shifted])])
    writer.add(node, "Mul", [scaled, gamma], last=True)


EMITTERS: dict[Op, Emitter] = {
    Op.GEMM: gemm,
    Op.MATMUL: matmul,
    Op.EMBEDDING: embedding,
    Op.ATTENTION: attention,
    Op.CONV: conv,
    Op.MAX_POOL: pool,
    Op.AVERAGE_POOL: pool,
    Op.BATCH_NORM: batch_norm,
    Op.LAYER_NORM: layer_norm,
    Op.RMS_NORM: rms_norm,
}
