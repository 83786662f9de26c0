"""ATen matrix products, convolutions, pooling, normalisations, reductions and attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..attributes import Convolution, Pool
from ..graph import Array, DType, Op
from ..importing import compounds, operations
from ..importing.values import Constant, Unsupported, Value
from .call import Call, Converter


def linear(call: Call) -> Value:
    weight, bias = call.weight("weight"), call.optional_weight("bias")
    if weight.ndim != 2:
        raise Unsupported("a weight that is not a matrix")
    return operations.linear(call.builder, call.flow("input"), weight.T, bias)


def matmul(call: Call, *, second: str = "other") -> Value:
    return operations.matmul(call.builder, call.value("self"), call.value(second))


def addmm(call: Call) -> Value:
    """beta * self + alpha * mat1 @ mat2."""
    if call.number("alpha", 1.0) != 1.0 or call.number("beta", 1.0) != 1.0:
        raise Unsupported("scaled operands")
    matrix, bias = call.value("mat2"), call.value("self")
    if isinstance(matrix, Constant) and isinstance(bias, Constant) and bias.fixed.ndim == 1:
        return operations.linear(call.builder, call.flow("mat1"), call.weight("mat2"), call.weight("self"))
    product = operations.matmul(call.builder, call.value("mat1"), matrix)
    return call.builder.broadcast(Op.ADD, product, bias)


def _spread(values: Sequence[int], count: int) -> tuple[int, ...]:
    """One number for all dimensions, or one each."""
    return tuple(values) * count if len(values) == 1 else tuple(values)


def conv(call: Call, *, space: int | None = None) -> Value:
    """conv1d to conv3d, and `convolution`, whose number of dimensions is that of its kernel."""
    x, kernel = call.flow("input"), call.weight("weight")
    count = kernel.ndim - 2 if space is None else space
    if call.flag("transposed"):
        return transposed_conv(call, space=count)
    strides = _spread(call.integers("stride", (1,)), count)
    dilations = _spread(call.integers("dilation", (1,)), count)
    padding = call.get("padding", (0,))
    if padding == "same":
        begin, end = operations.same_padding(x.tensor.shape[1:], kernel.shape[2:], strides, dilations, upper=True)
    else:
        begin = end = (0,) * count if padding == "valid" else _spread(call.integers("padding", (0,)), count)
    window = Convolution(strides=strides, dilations=dilations, begin=begin, end=end, groups=call.integer("groups", 1))
    return operations.convolution(call.builder, x, kernel, call.optional_weight("bias"), window)


def transposed_conv(call: Call, *, space: int) -> Value:
    """conv_transpose1d to conv_transpose3d."""
    padding = _spread(call.integers("padding", (0,)), space)
    window = Convolution(
        strides=_spread(call.integers("stride", (1,)), space),
        dilations=_spread(call.integers("dilation", (1,)), space),
        begin=padding,
        end=padding,
        groups=call.integer("groups", 1),
    )
    extra = _spread(call.integers("output_padding", (0,)), space)
    kernel, bias = call.weight("weight"), call.optional_weight("bias")
    return compounds.transposed_convolution(call.builder, call.flow("input"), kernel, bias, window, extra)


def pool(call: Call, *, op: Op, space: int, pair: bool = False) -> Any:
    """A `pair` also returns positions, which are not available."""
    kernel = _spread(call.integers("kernel_size"), space)
    if call.get("divisor_override") is not None:
        raise Unsupported("another divisor")
    padding = _spread(call.integers("padding", (0,)), space)
    window = Pool(
        kernel=kernel,
        strides=_spread(call.integers("stride") or kernel, space),
        dilations=_spread(call.integers("dilation", (1,)), space),
        begin=padding,
        end=padding,
        ceil=call.flag("ceil_mode"),
        count_padding=op is Op.AVERAGE_POOL and call.flag("count_include_pad", True),
    )
    found = operations.pool(call.builder, op, call.flow(), window)
    return (found, None) if pair else found


def adaptive_pool(call: Call, *, op: Op, reduction: Op, space: int, pair: bool = False) -> Any:
    """To a given size, where it divides the input's."""
    x = call.flow()
    sizes = x.tensor.shape[-space:]
    wanted = call.get("output_size")
    given = wanted if isinstance(wanted, tuple) else (wanted,) * space
    targets = [n if t is None else int(t) for n, t in zip(sizes, given, strict=True)]
    if all(t == 1 for t in targets):
        found = operations.reduce(call.builder, reduction, x, range(-space, 0), keep=True)
        return (found, None) if pair else found
    if any(t < 1 or n % t for n, t in zip(sizes, targets, strict=True)):
        raise Unsupported(f"{sizes} is not a multiple of {tuple(targets)}")
    kernel = tuple(n // t for n, t in zip(sizes, targets, strict=True))
    zeros, ones = (0,) * space, (1,) * space
    window = Pool(kernel=kernel, strides=kernel, dilations=ones, begin=zeros, end=zeros)
    found = operations.pool(call.builder, op, x, window)
    return (found, None) if pair else found


def batch_norm(call: Call, *, several: bool = False) -> Any:
    if call.flag("training"):
        raise Unsupported("training mode")
    mean, variance = call.weight("running_mean"), call.weight("running_var")
    gamma, beta = call.optional_weight("weight"), call.optional_weight("bias")
    parameters: list[Array] = [
        np.ones_like(mean) if gamma is None else gamma,
        np.zeros_like(mean) if beta is None else beta,
        mean,
        variance,
    ]
    found = operations.batch_norm(call.builder, call.flow("input"), parameters, call.number("eps", 1e-5))
    return (found, None, None) if several else found


def layer_norm(call: Call, *, several: bool = False) -> Any:
    shape = call.integers("normalized_shape")
    gamma = call.optional_weight("weight")
    gamma = np.ones(shape, dtype=np.float32) if gamma is None else gamma
    x, beta, epsilon = call.flow("input"), call.optional_weight("bias"), call.number("eps", 1e-5)
    found = operations.layer_norm(call.builder, x, gamma, beta, len(shape), epsilon)
    return (found, None, None) if several else found


def rms_norm(call: Call) -> Value:
    """Without `eps`, that of float32."""
    count = len(call.integers("normalized_shape"))
    epsilon = call.number("eps", float(np.finfo(np.float32).eps))
    return operations.rms_norm(call.builder, call.flow("input"), call.optional_weight("weight"), count, epsilon)


def group_norm(call: Call) -> Value:
    gamma, beta = call.optional_weight("weight"), call.optional_weight("bias")
    groups, epsilon = call.integer("num_groups"), call.number("eps", 1e-5)
    return compounds.group_norm(call.builder, call.flow("input"), groups, gamma, beta, epsilon)


def instance_norm(call: Call) -> Value:
    if not call.flag("use_input_stats", True):
        raise Unsupported("running statistics")
    x, gamma, beta = call.flow("input"), call.optional_weight("weight"), call.optional_weight("bias")
    return compounds.group_norm(call.builder, x, x.tensor.shape[0], gamma, beta, call.number("eps", 1e-5))


def softmax(call: Call) -> Value:
    return operations.softmax(call.builder, call.flow(), call.integer("dim"))


def log_softmax(call: Call) -> Value:
    return compounds.log_softmax(call.builder, call.flow(), call.integer("dim"))


def reduce(call: Call, *, op: Op, pair: bool = False) -> Any:
    """A `pair` also returns positions, which are not available."""
    x = call.flow()
    if x.tensor.dtype is DType.BOOL:
        raise Unsupported("reduces truth values")
    found = operations.reduce(call.builder, op, x, call.integers("dim"), keep=call.flag("keepdim"))
    return (found, None) if pair else found


def norm(call: Call) -> Value:
    """sqrt(sum(x^2))."""
    if call.number("ord", 2.0) != 2.0:
        raise Unsupported("another norm than the Euclidean one")
    builder, x = call.builder, call.flow()
    power = operations.reduce(
        builder, Op.REDUCE_SUM, builder.broadcast(Op.MUL, x, x), call.integers("dim"), keep=call.flag("keepdim")
    )
    return builder.emit(Op.SQRT, [power])


def embedding(call: Call) -> Value:
    table = call.value("weight")
    if not isinstance(table, Constant):
        raise Unsupported("a table that is computed")
    return operations.embed(call.builder, table, call.flow("indices"))


def attention(call: Call) -> Value:
    query, key, value = (call.flow(name) for name in ("query", "key", "value"))
    if call.number("dropout_p", 0.0) or call.flag("enable_gqa"):
        raise Unsupported("dropout or grouped queries")
    scale = None if call.get("scale") is None else call.number("scale")
    causal = call.flag("is_causal")
    return operations.attention(call.builder, query, key, value, call.optional("attn_mask"), scale=scale, causal=causal)


POOLS = {1: "1d", 2: "2d", 3: "3d"}

CONVERTERS: dict[str, Converter] = {
    "linear": linear,
    "matmul": matmul,
    "mm": partial(matmul, second="mat2"),
    "bmm": partial(matmul, second="mat2"),
    "addmm": addmm,
    "convolution": conv,
    **{f"conv{name}": partial(conv, space=space) for space, name in POOLS.items()},
    **{
        name: partial(transposed_conv, space=space)
        for space, name in ((1, "conv_transpose1d"), (2, "conv_transpose2d"), (3, "conv_transpose3d"))
    },
    **{f"max_pool{name}": partial(pool, op=Op.MAX_POOL, space=space) for space, name in POOLS.items()},
    **{
        f"max_pool{name}_with_indices": partial(pool, op=Op.MAX_POOL, space=space, pair=True)
        for space, name in POOLS.items()
    },
    **{f"avg_pool{name}": partial(pool, op=Op.AVERAGE_POOL, space=space) for space, name in POOLS.items()},
    **{
        f"{prefix}adaptive_avg_pool{name}": partial(
            adaptive_pool, op=Op.AVERAGE_POOL, reduction=Op.REDUCE_MEAN, space=space
        )
        for space, name in POOLS.items()
        for prefix in ("", "_")
    },
    **{
        f"adaptive_max_pool{name}": partial(
            adaptive_pool, op=Op.MAX_POOL, reduction=Op.REDUCE_MAX, space=space, pair=True
        )
        for space, name in POOLS.items()
    },
    "batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": partial(batch_norm, several=True),
    "layer_norm": layer_norm,
    "native_layer_norm": partial(layer_norm, several=True),
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "softmax": softmax,
    "_softmax": softmax,
    "log_softmax": log_softmax,
    "_log_softmax": log_softmax,
    "mean": partial(reduce, op=Op.REDUCE_MEAN),
    "sum": partial(reduce, op=Op.REDUCE_SUM),
    "amax": partial(reduce, op=Op.REDUCE_MAX),
    "amin": partial(reduce, op=Op.REDUCE_MIN),
    "max": partial(reduce, op=Op.REDUCE_MAX, pair=True),
    "min": partial(reduce, op=Op.REDUCE_MIN, pair=True),
    "linalg_vector_norm": norm,
    "embedding": embedding,
    "scaled_dot_product_attention": attention,
}
