"""Convolutions and pooling. Images lie channels-last; a convolution's input has zeros around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...ir.attributes import Convolution, Pool
from ...ir.graph import Array, Graph, Op
from ..kernels.gemm import Gemm, choose_tile, pack, padded_bias, print_gemm
from ..kernels.windows import Window, print_depthwise, print_pool
from ..kernels.winograd import POINTS, Tiles, print_input, print_output, transformed_weights
from ..steps import Step
from ..views import View
from .base import Halo, Lowering, Unsupported, no_halo
from .matrix import call_gemm

LEAST_WINOGRAD_CHANNELS = 16
"""With fewer, the transforms cost what the products save."""
WINOGRAD_BLOCK_FLOATS = 32768
"""Transformed tiles of a block: they stay in the second-level cache."""


def wanted_halos(steps: Sequence[Step], graph: Graph) -> dict[str, Halo]:
    """Tensors that convolutions and pools read, and the zeros they want around them."""
    found: dict[str, Halo] = {}
    for step in steps:
        attributes = step.node.attributes
        if not isinstance(attributes, (Convolution, Pool)) or not step.node.inputs:
            continue
        name = step.node.inputs[0]
        none = (0,) * len(attributes.begin)
        pool = isinstance(attributes, Pool)
        halo = Halo(begin=none if pool else attributes.begin, end=none if pool else attributes.end)
        known = found.get(name)
        if known is not None and len(known.begin) == len(halo.begin):
            halo = Halo(begin=_larger(known.begin, halo.begin), end=_larger(known.end, halo.end))
        found[name] = halo
    found.pop(graph.input.name, None)
    return found


def _larger(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(m, n) for m, n in zip(a, b, strict=True))


def _two(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    """One or two spatial dimensions as two."""
    if len(values) == 2:
        return values[0], values[1]
    if len(values) == 1:
        return missing, values[0]
    raise Unsupported(f"{len(values)} spatial dimensions")


def _channels_last(lowering: Lowering, name: str, halo: Halo) -> View:
    """The tensor with contiguous channels and enough zeros around it; copied where it is not so."""
    view = lowering.views[name]
    has = lowering.halos.get(name)
    if view.strides[1] == 1 and has is not None and has.covers(halo):
        return view
    if not any((*halo.begin, *halo.end)) and view.strides[1] == 1:
        return view
    target = lowering.channels_last(None, view.shape, halo, tight=True)
    lowering.map("{0}", [view], target)
    return target


def _spatial_steps(view: View) -> tuple[int, int]:
    return _two(view.strides[2:], 0)


def lower_conv(lowering: Lowering, step: Step) -> None:
    node = step.node
    a = node.attributes
    assert isinstance(a, Convolution)
    if lowering.program.rows != 1 or not {"weight", "bias"} <= node.constants.keys():
        raise Unsupported("convolution whose weights are computed")
    weight, bias = node.constants["weight"], node.constants["bias"]
    kernel = weight if weight.ndim == 4 else weight[:, :, None, :]
    if kernel.ndim != 4:
        raise Unsupported(f"convolution over {weight.ndim - 2} dimensions")
    x = _channels_last(lowering, node.inputs[0], Halo(begin=a.begin, end=a.end))
    above, left = _two(a.begin, 0)
    row, column = _spatial_steps(x)
    x = x.moved(-above * row - left * column)
    target = _target(lowering, step)
    residual = _residual(lowering, step, target)
    depthwise = a.groups == x.shape[1] == weight.shape[0] and a.groups > 1
    if depthwise:
        _depthwise(lowering, step, x, kernel, bias, target, residual)
    elif _suits_winograd(lowering, kernel, a, target):
        _winograd(lowering, step, x, kernel, bias, target, residual)
    elif a.groups == 1:
        _convolve(lowering, step, x, kernel, bias, target, residual)
    else:
        _grouped(lowering, step, x, kernel, bias, target, residual)
    lowering.views[step.output.name] = target


def _target(lowering: Lowering, step: Step) -> View:
    """Channels-last, unless nothing but the output reads it and it is laid out so anyway."""
    name = step.output.name
    shape = lowering.shape(step.output)
    if name in lowering.wanted:
        return lowering.channels_last(name, shape, lowering.wanted[name])
    return lowering.channels_last(name, shape, no_halo(len(shape) - 2))


def _residual(lowering: Lowering, step: Step, target: View) -> View | None:
    """What is added, channels-last."""
    if step.residual is None:
        return None
    view = lowering.views[step.residual]
    if view.strides[1] == 1:
        return view
    copied = lowering.channels_last(None, view.shape, no_halo(len(view.shape) - 2))
    lowering.map("{0}", [view], copied)
    return copied


def _convolve(
    lowering: Lowering, step: Step, x: View, kernel: Array, bias: Array, target: View, residual: View | None
) -> None:
    a = step.node.attributes
    assert isinstance(a, Convolution)
    outputs, channels, kh, kw = kernel.shape
    height, width = _two(target.shape[2:], 1)
    row, column = _spatial_steps(x)
    sh, sw = _two(a.strides, 1)
    dh, dw = _two(a.dilations, 1)
    x_steps, y_steps = (sh * row, sw * column), _spatial_steps(target)
    r_steps = _spatial_steps(residual) if residual is not None else None
    runs = [(kh, dh * row)] if kh > 1 else []
    length = channels
    if kw > 1 and dw == 1 and column == channels:
        length = kw * channels
    elif kw > 1:
        runs.append((kw, dw * column))
    outer, inner = height, width
    pairs = [x_steps, y_steps, *([r_steps] if r_steps is not None else [])]
    if all(o == i * width for o, i in pairs) or height == 1:
        outer, inner = 1, height * width
    gemm = Gemm(
        outer=outer,
        inner=inner,
        x_steps=x_steps,
        y_steps=y_steps,
        residual_steps=r_steps,
        runs=tuple(runs),
        length=length,
        outputs=outputs,
        activation=step.activation,
    )
    tile = choose_tile(lowering.program.level, inner, outputs)
    matrix = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)).reshape(-1, outputs)
    call_gemm(lowering, gemm, tile, x, (matrix, bias), residual, target)


def _suits_winograd(lowering: Lowering, kernel: Array, a: Convolution, target: View) -> bool:
    outputs, channels, kh, kw = kernel.shape
    height, width = _two(target.shape[2:], 1)
    square = (kh, kw) == (3, 3) and a.groups == 1 and set((*a.strides, *a.dilations)) == {1}
    whole = channels % lowering.lanes == outputs % lowering.lanes == height % 2 == width % 2 == 0
    return square and whole and channels >= LEAST_WINOGRAD_CHANNELS


def _winograd(
    lowering: Lowering, step: Step, x: View, kernel: Array, bias: Array, target: View, residual: View | None
) -> None:
    """In blocks of tile rows that stay in the cache: transform, 16 products, transform back."""
    outputs, channels = kernel.shape[:2]
    height, width = _two(target.shape[2:], 1)
    level, program = lowering.program.level, lowering.program
    per_row = POINTS * (width // 2) * (channels + outputs)
    rows = max(1, min(height // 2, WINOGRAD_BLOCK_FLOATS // per_row))
    blob = program.blob
    tile = choose_tile(level, rows * (width // 2), outputs)
    weights = [program.constant(blob.put(pack(w, level, tile.vectors))) for w in transformed_weights(kernel)]
    zeros = program.constant(blob.put(padded_bias(np.zeros(outputs, np.float32), level)))
    offset = program.constant(blob.put(padded_bias(bias, level)))
    x_steps, y_steps = _spatial_steps(x), _spatial_steps(target)
    r_steps = _spatial_steps(residual) if residual is not None else None
    for start in range(0, height // 2, rows):
        tiles = Tiles(rows=min(rows, height // 2 - start), columns=width // 2)
        before = program.scratch(POINTS * tiles.plane(channels))
        after = program.scratch(POINTS * tiles.plane(outputs))
        source = x.moved(2 * start * x_steps[0]).place
        program.call(print_input(tiles, x_steps, channels, lanes=level.lanes), source, before)
        gemm = Gemm(
            outer=1,
            inner=tiles.count,
            x_steps=(0, channels),
            y_steps=(0, outputs),
            length=channels,
            outputs=outputs,
        )
        product = print_gemm(gemm, tile, level)
        for point in range(POINTS):
            program.call(
                product,
                before.moved(point * tiles.plane(channels)),
                weights[point],
                zeros,
                after.moved(point * tiles.plane(outputs)),
            )
        text = print_output(tiles, y_steps, outputs, residual=r_steps, activation=step.activation, lanes=level.lanes)
        extra = [residual.moved(2 * start * r_steps[0]).place] if residual is not None and r_steps is not None else []
        program.call(text, after, offset, *extra, target.moved(2 * start * y_steps[0]).place)


def _grouped(
    lowering: Lowering, step: Step, x: View, kernel: Array, bias: Array, target: View, residual: View | None
) -> None:
    """As many groups at a time as fill whole vectors: only the last ones store past their outputs."""
    a = step.node.attributes
    assert isinstance(a, Convolution)
    channels, size = kernel.shape[1], kernel.shape[0] // a.groups
    together = lowering.lanes // math.gcd(lowering.lanes, size)
    for group in range(0, a.groups, together):
        count = min(together, a.groups - group)
        chosen = slice(group * size, (group + count) * size)
        _convolve(
            lowering,
            step,
            x.moved(group * channels),
            _block_diagonal(kernel[chosen], count),
            bias[chosen],
            target.moved(group * size),
            residual.moved(group * size) if residual is not None else None,
        )


def _block_diagonal(kernel: Array, groups: int) -> Array:
    """Groups as one group with zeros between them: [outputs, inputs, ...] -> [outputs, groups * inputs, ...]."""
    outputs, channels = kernel.shape[:2]
    wide = np.zeros((groups, outputs // groups, groups, channels, *kernel.shape[2:]), np.float32)
    for group in range(groups):
        wide[group, :, group] = kernel.reshape(groups, outputs // groups, *kernel.shape[1:])[group]
    return wide.reshape(outputs, groups * channels, *kernel.shape[2:])


def _depthwise(
    lowering: Lowering, step: Step, x: View, kernel: Array, bias: Array, target: View, residual: View | None
) -> None:
    a = step.node.attributes
    assert isinstance(a, Convolution)
    height, width = _two(target.shape[2:], 1)
    level = lowering.program.level
    taps = np.stack([padded_bias(tap, level) for tap in kernel.reshape(kernel.shape[0], -1).T])
    window = Window(
        height=height,
        width=width,
        x_steps=_spatial_steps(x),
        y_steps=_spatial_steps(target),
        kernel=(kernel.shape[2], kernel.shape[3]),
        strides=_two(a.strides, 1),
        dilations=_two(a.dilations, 1),
        channels=kernel.shape[0],
    )
    text = print_depthwise(
        window,
        activation=step.activation,
        residual=_spatial_steps(residual) if residual is not None else None,
        lanes=level.lanes,
    )
    blob = lowering.program.blob
    places = [
        x.place,
        lowering.program.constant(blob.put(taps)),
        lowering.program.constant(blob.put(padded_bias(bias, level))),
        *([residual.place] if residual is not None else []),
        target.place,
    ]
    lowering.program.call(text, *places)


def lower_pool(lowering: Lowering, step: Step) -> None:
    a = step.node.attributes
    assert isinstance(a, Pool)
    x = _channels_last(lowering, step.node.inputs[0], no_halo(len(a.kernel)))
    target = _target(lowering, step)
    height, width = _two(target.shape[2:], 1)
    window = Window(
        height=height,
        width=width,
        x_steps=_spatial_steps(x),
        y_steps=_spatial_steps(target),
        kernel=_two(a.kernel, 1),
        strides=_two(a.strides, 1),
        dilations=_two(a.dilations, 1),
        channels=x.shape[1],
    )
    text = print_pool(
        window,
        size=_two(x.shape[2:], 1),
        begin=_two(a.begin, 0),
        end=_two(a.end, 0),
        average=step.node.op is Op.AVERAGE_POOL,
        count_padding=a.count_padding,
        lanes=lowering.lanes,
    )
    lowering.program.call(text, x.place, target.place)
    lowering.views[step.output.name] = target
