"""ONNX matrix products, convolutions, pooling, normalisations and softmax."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..attributes import Convolution, Pool
from ..graph import Op
from ..importing import compounds, operations
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


def transposed_conv(call: Call) -> Value:
    x, kernel = call.flow(), call.weight(1)
    if "output_shape" in call.attributes or call.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Unsupported("padding that follows from a wanted size")
    window = _window(call, x, list(kernel.shape[2:]))
    extra = call.integers("output_padding", [0] * (kernel.ndim - 2))
    return compounds.transposed_convolution(call.builder, x, kernel, call.optional_weight(2), window, extra)


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


def instance_norm(call: Call) -> Value:
    x = call.flow()
    gamma, beta, epsilon = call.weight(1), call.weight(2), call.number("epsilon", 1e-5)
    return compounds.group_norm(call.builder, x, x.tensor.shape[0], gamma, beta, epsilon)


def group_norm(call: Call) -> Value:
    """Before opset 21 its scale and bias are per group."""
    x, groups = call.flow(), call.integer("num_groups", 1)
    gamma, beta = call.weight(1), call.weight(2)
    if call.opset < 21:
        if groups < 1 or x.tensor.shape[0] % groups:
            raise Unsupported(f"{x.tensor.shape[0]} channels in {groups} groups")
        gamma, beta = (np.repeat(each, x.tensor.shape[0] // groups) for each in (gamma, beta))
    return compounds.group_norm(call.builder, x, groups, gamma, beta, call.number("epsilon", 1e-5))


def resize(call: Call) -> Value:
    """Upsampling to the nearest element by whole numbers, where all ways to round mean the same."""
    x = call.flow()
    mode = call.text("mode", "nearest")
    places = call.text("coordinate_transformation_mode", "half_pixel" if call.operator == "Resize" else "asymmetric")
    rounding = call.text("nearest_mode", "round_prefer_floor" if call.operator == "Resize" else "floor")
    centred = places in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round_prefer")
    repeats = mode == "nearest" and (centred or (places, rounding) == ("asymmetric", "floor"))
    if not repeats or "axes" in call.attributes:
        raise Unsupported(f"mode {mode}, {places}, {rounding}")
    factors = _factors(call, x)
    whole = [round(factor) for factor in factors]
    if len(whole) != x.rank or whole[:2] != [1, 1] or not np.allclose(whole, factors, rtol=0, atol=1e-6):
        raise Unsupported(f"scales {factors}")
    return compounds.repeated(call.builder, x, whole[2:])


def _factors(call: Call, x: Flow) -> list[float]:
    """Per axis: of operand `scales`, or from operand `sizes`."""
    scales = call.operand(1 if call.operator == "Upsample" or call.opset < 11 else 2)
    if isinstance(scales, Constant) and scales.fixed.size:
        return [float(v) for v in scales.fixed.reshape(-1)]
    sizes = call.constant(3)
    return [a / b for a, b in zip(sizes.first.reshape(-1), x.shape(call.builder.probes[0]), strict=True)]


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
    y = compounds.log_softmax(builder, y, axis) if logarithm else operations.softmax(builder, y, axis)
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
    "ConvTranspose": transposed_conv,
    "Resize": resize,
    "Upsample": resize,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
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
