"""ONNX matrix products, convolutions, pooling, normalisations and softmax."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..attributes import Convolution, Pool
from ..graph import Op
from ..importing import operations
from ..importing.values import Constant, Flow, Unsupported, Value
from .call import Call, Converter


def gemm(call: Call) -> Value:
    """alpha A B + beta C; alpha and beta become part of the weights."""
    x, matrix, bias = call.flow(), call.weight(1), call.operand(2)
    if call.integer("transA", 0) or x.rank != 2:
        raise Unsupported("a transposed input")
    matrix = (matrix.T if call.integer("transB", 0) else matrix) * np.float32(call.number("alpha", 1.0))
    if not isinstance(bias, Flow):
        offset = call.optional_weight(2)
        return operations.linear(
            call.builder, x, matrix, None if offset is None else offset * np.float32(call.number("beta", 1.0))
        )
    product = operations.linear(call.builder, x, matrix, None)
    if call.number("beta", 1.0) != 1.0:
        raise Unsupported("a scaled bias that is computed")
    return call.builder.broadcast(Op.ADD, product, bias)


def matmul(call: Call) -> Value:
    return operations.matmul(call.builder, call.value(0), call.value(1))


def _window(call: Call, x: Flow, kernel: list[int]) -> Convolution:
    """Strides, dilations and padding of a convolution or a pool."""
    ones = [1] * len(kernel)
    strides, dilations = call.integers("strides", ones), call.integers("dilations", ones)
    pads = call.integers("pads", [0] * 2 * len(kernel))
    begin, end = tuple(pads[: len(kernel)]), tuple(pads[len(kernel) :])
    mode = call.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        sizes = x.tensor.shape[1:]
        if len(sizes) != len(kernel):
            raise Unsupported(f"a window of {len(kernel)} dimensions over {len(sizes)}")
        begin, end = operations.same_padding(sizes, kernel, strides, dilations, upper=mode == "SAME_UPPER")
    elif mode == "VALID":
        begin = end = (0,) * len(kernel)
    return Convolution(
        strides=tuple(strides),
        dilations=tuple(dilations),
        begin=begin,
        end=end,
        groups=call.integer("group", 1),
    )


def conv(call: Call) -> Value:
    x, kernel = call.flow(), call.weight(1)
    window = _window(call, x, list(kernel.shape[2:]))
    return operations.convolution(call.builder, x, kernel, call.optional_weight(2), window)


def pool(call: Call, *, op: Op) -> Value:
    if len([o for o in call.outputs if o]) > 1:
        raise Unsupported("returns positions too")
    x, kernel = call.flow(), call.integers("kernel_shape")
    window = _window(call, x, kernel)
    attributes = Pool(
        kernel=tuple(kernel),
        strides=window.strides,
        dilations=window.dilations,
        begin=window.begin,
        end=window.end,
        ceil=bool(call.integer("ceil_mode", 0)),
        count_padding=bool(call.integer("count_include_pad", 0)),
    )
    return operations.pool(call.builder, op, x, attributes)


def global_pool(call: Call, *, op: Op) -> Value:
    x = call.flow()
    return operations.reduce(call.builder, op, x, range(2, x.rank), keep=True)


def batch_norm(call: Call) -> Value:
    if call.integer("training_mode", 0):
        raise Unsupported("training mode")
    parameters = [call.weight(i) for i in range(1, 5)]
    return operations.batch_norm(call.builder, call.flow(), parameters, call.number("epsilon", 1e-5))


def layer_norm(call: Call) -> Value:
    if any(call.outputs[1:]):
        raise Unsupported("returns statistics too")
    x = call.flow()
    count = x.rank - x.source_axis(call.integer("axis", -1))
    return operations.layer_norm(
        call.builder, x, call.weight(1), call.optional_weight(2), count, call.number("epsilon", 1e-5)
    )


def softmax(call: Call, *, logarithm: bool = False) -> Value:
    """Before opset 13 over all axes from `axis` on, merged."""
    x, builder = call.flow(), call.builder
    axis = x.source_axis(call.integer("axis", -1 if call.opset >= 13 else 1))
    merge = call.opset < 13 and axis != x.rank - 1
    y = x
    if merge:
        sizes = [int(np.prod([n for n in x.dims()[axis:] if n is not None]))]
        if x.batch >= axis:
            raise Unsupported("works along the batch")
        y = builder.rearranged(x, [*x.dims()[:axis], *sizes])
    if logarithm:
        # x - max - log(sum(e^(x - max))), which does not underflow.
        shifted = builder.broadcast(Op.SUB, y, operations.reduce(builder, Op.REDUCE_MAX, y, [axis], keep=True))
        total = operations.reduce(builder, Op.REDUCE_SUM, builder.emit(Op.EXP, [shifted]), [axis], keep=True)
        y = builder.broadcast(Op.SUB, shifted, builder.emit(Op.LOG, [total]))
    else:
        y = operations.softmax(builder, y, axis)
    return builder.rearranged(y, x.dims()) if merge else y


def reduce(call: Call, *, op: Op, square: bool = False, root: bool = False) -> Value:
    """Axes are an attribute in old opsets; none means all of them, or nothing to do."""
    x, axes = call.flow(), call.told("axes", 1)
    if axes is None or not axes.integers:
        if call.integer("noop_with_empty_axes", 0):
            return x
        raise Unsupported("reduces over the batch")
    if square:
        x = call.builder.broadcast(Op.MUL, x, x)
    y = operations.reduce(call.builder, op, x, axes.integers, keep=bool(call.integer("keepdims", 1)))
    return call.builder.emit(Op.SQRT, [y]) if root else y


def gather(call: Call) -> Value:
    """Gather: rows of a constant table at positions that flow, or a tensor at constant positions."""
    data, indices = call.value(0), call.value(1)
    axis = call.integer("axis", 0)
    if isinstance(data, Constant) and isinstance(indices, Flow):
        if axis % max(1, data.fixed.ndim):
            raise Unsupported("looks up along another axis than the first")
        return operations.embed(call.builder, data, indices)
    if isinstance(data, Flow) and isinstance(indices, Constant):
        return operations.take(call.builder, data, axis, indices.fixed)
    raise Unsupported("looks up in a tensor that is computed at positions that are")


CONVERTERS: dict[str, Converter] = {
    "Gemm": gemm,
    "MatMul": matmul,
    "Conv": conv,
    "MaxPool": partial(pool, op=Op.MAX_POOL),
    "AveragePool": partial(pool, op=Op.AVERAGE_POOL),
    "GlobalAveragePool": partial(global_pool, op=Op.REDUCE_MEAN),
    "GlobalMaxPool": partial(global_pool, op=Op.REDUCE_MAX),
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "Softmax": softmax,
    "LogSoftmax": partial(softmax, logarithm=True),
    "ReduceMean": partial(reduce, op=Op.REDUCE_MEAN),
    "ReduceSum": partial(reduce, op=Op.REDUCE_SUM),
    "ReduceMax": partial(reduce, op=Op.REDUCE_MAX),
    "ReduceMin": partial(reduce, op=Op.REDUCE_MIN),
    "ReduceSumSquare": partial(reduce, op=Op.REDUCE_SUM, square=True),
    "ReduceL2": partial(reduce, op=Op.REDUCE_SUM, square=True, root=True),
    "Gather": gather,
}
