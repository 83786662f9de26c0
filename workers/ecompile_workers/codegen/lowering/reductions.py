"""Reductions, softmax and normalisations."""

from __future__ import annotations

from ...ir.attributes import Axis, LastAxes, Reduction
from ...ir.graph import Op
from ..kernels.reductions import MAX, MIN, SUM, print_norm, print_reduce, print_softmax
from ..steps import Step
from ..views import View, collapsed, product
from .base import Lowering

FOLDS = {Op.REDUCE_MEAN: SUM, Op.REDUCE_SUM: SUM, Op.REDUCE_MAX: MAX, Op.REDUCE_MIN: MIN}


def lower_reduction(lowering: Lowering, step: Step) -> None:
    attributes = step.node.attributes
    assert isinstance(attributes, Reduction)
    x = lowering.views[step.node.inputs[0]]
    axes = {1 + axis % (len(x.shape) - 1) for axis in attributes.axes}
    target = lowering.result(step.output)
    y_steps = list(target.strides)
    if not attributes.keep:
        remaining = iter(target.strides)
        y_steps = [0 if axis in axes else next(remaining) for axis in range(len(x.shape))]
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    sizes, steps = collapsed([x.shape[a] for a in kept], [[x.strides[a] for a in kept], [y_steps[a] for a in kept]])
    inner, inner_steps = collapsed([x.shape[a] for a in sorted(axes)], [[x.strides[a] for a in sorted(axes)]])
    scale = 1.0 / product([x.shape[a] for a in axes]) if step.node.op is Op.REDUCE_MEAN else 1.0
    text = print_reduce(
        FOLDS[step.node.op],
        (sizes, steps[0], steps[1]),
        (inner or [1], inner_steps[0] or [1]),
        scale=scale,
        lanes=lowering.lanes,
    )
    lowering.program.call(text, x.place, target.place)
    lowering.views[step.output.name] = target


def softmax_of(lowering: Lowering, x: View, target: View) -> None:
    """Over the last axis, contiguous in both."""
    rows, (x_step, y_step) = _rows(x, target)
    lowering.program.call(print_softmax(rows, x.shape[-1], x_step, y_step, lanes=lowering.lanes), x.place, target.place)


def _rows(x: View, target: View) -> tuple[int, tuple[int, int]]:
    sizes, steps = collapsed(x.shape[:-1], [x.strides[:-1], target.strides[:-1]])
    assert len(sizes) <= 1, "row-major tensors have one step from row to row"
    return (sizes[0], (steps[0][0], steps[1][0])) if sizes else (1, (0, 0))


def lower_softmax(lowering: Lowering, step: Step) -> None:
    attributes = step.node.attributes
    assert isinstance(attributes, Axis)
    x = lowering.views[step.node.inputs[0]]
    rank = len(x.shape) - 1
    axis = 1 + attributes.axis % rank
    last = axis == rank
    if last:
        target = lowering.result(step.output)
        single = x.strides[-1] == 1 and len(collapsed(x.shape[:-1], [x.strides[:-1]])[0]) <= 1
        softmax_of(lowering, x if single else lowering.copied(x), target)
        lowering.views[step.output.name] = target
        return
    order = [*(a for a in range(rank + 1) if a != axis), axis]
    moved = lowering.copied(_permuted(x, order))
    target = lowering.program.dense(moved.shape)
    softmax_of(lowering, moved, target)
    lowering.views[step.output.name] = _permuted(target, [order.index(a) for a in range(rank + 1)])


def _permuted(view: View, order: list[int]) -> View:
    return View(
        place=view.place, shape=tuple(view.shape[a] for a in order), strides=tuple(view.strides[a] for a in order)
    )


def lower_norm(lowering: Lowering, step: Step) -> None:
    node = step.node
    attributes = node.attributes
    assert isinstance(attributes, LastAxes)
    x = lowering.row_major(lowering.views[node.inputs[0]])
    size = product(x.shape[len(x.shape) - attributes.count :])
    target = lowering.result(step.output)
    if target.strides != lowering.row_major(x).strides and len(target.shape) > 1:
        target = lowering.program.dense(x.shape)
    centred = node.op is Op.LAYER_NORM
    names = ["gamma", "beta"] if centred else ["gamma"]
    parameters = [lowering.constant(node.constants[name].reshape(-1)) for name in names]
    text = print_norm(
        x.size // size,
        size,
        size,
        size,
        epsilon=attributes.epsilon,
        centred=centred,
        shifted=centred,
        lanes=lowering.lanes,
    )
    lowering.program.call(text, x.place, *(p.place for p in parameters), target.place)
    lowering.views[step.output.name] = target
