"""ATen operators that move elements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from ..attributes import PadMode
from ..importing import compounds, operations
from ..importing.values import Constant, Flow, Unsupported, Value, folded
from ..operators.spec import product
from .call import Call, Converter, as_value


def size(call: Call) -> Value:
    """One size, which is different between the two batch probes where it depends on the batch."""
    x, axis = call.flow(), call.integer("dim")
    first, second = (np.asarray(x.shape(rows)[axis], dtype=np.int64) for rows in call.builder.probes)
    return Constant(first=first, second=second)


def view(call: Call, *, name: str = "size") -> Value:
    return call.builder.reshape(call.flow(), call.sizes(name))


def flatten(call: Call) -> Value:
    x = call.flow()
    start, stop = x.source_axis(call.integer("start_dim", 0)), x.source_axis(call.integer("end_dim", -1))
    targets = []
    for rows in call.builder.probes:
        sizes = x.shape(rows)
        targets.append(np.asarray([*sizes[:start], product(sizes[start : stop + 1]), *sizes[stop + 1 :]]))
    return call.builder.reshape(x, Constant(first=targets[0], second=targets[1]))


def unflatten(call: Call) -> Value:
    """One axis becomes several."""
    x, sizes = call.flow(), call.sizes("sizes")
    axis = x.source_axis(call.integer("dim"))
    targets = []
    for rows, inner in zip(call.builder.probes, (sizes.first, sizes.second), strict=True):
        shape = x.shape(rows)
        known = product([int(n) for n in inner if n != -1])
        if known == 0 or shape[axis] % known:
            raise Unsupported("parts do not fit")
        parts = [shape[axis] // known if n == -1 else int(n) for n in inner]
        targets.append(np.asarray([*shape[:axis], *parts, *shape[axis + 1 :]]))
    return call.builder.reshape(x, Constant(first=targets[0], second=targets[1]))


def squeeze(call: Call) -> Value:
    """Axes that are not of size 1 stay."""
    x = call.flow()
    if call.get("dim") is None:
        return call.builder.squeeze(x, None)
    axes = [x.source_axis(a) for a in call.integers("dim")]
    return call.builder.squeeze(x, [a for a in axes if x.dims()[a] == 1])


def unsqueeze(call: Call) -> Value:
    return call.builder.unsqueeze(call.flow(), [call.integer("dim")])


def expand(call: Call) -> Value:
    return operations.expand(call.builder, call.flow(), call.sizes("size"))


def expand_as(call: Call) -> Value:
    other = call.flow("other")
    first, second = (np.asarray(other.shape(rows)) for rows in call.builder.probes)
    return operations.expand(call.builder, call.flow(), Constant(first=first, second=second))


def transpose(call: Call, *, last: bool = False) -> Value:
    """Two axes change places: those given, else the first two, or the last two."""
    x = call.flow()
    order = list(range(x.rank))
    a = x.source_axis(call.integer("dim0", -2 if last else 0))
    b = x.source_axis(call.integer("dim1", -1 if last else 1))
    order[a], order[b] = order[b], order[a]
    return call.builder.transpose(x, order)


def permute(call: Call) -> Value:
    return call.builder.transpose(call.flow(), call.integers("dims"))


def cat(call: Call) -> Value:
    values = [as_value(v, "tensors") for v in call.get("tensors", ())]
    return operations.concat(call.builder, values, call.integer("dim", 0))


def stack(call: Call) -> Value:
    """Like cat along a new axis."""
    values = [as_value(v, "tensors") for v in call.get("tensors", ())]
    rank = max(v.rank for v in values if isinstance(v, Flow)) + 1
    axis = call.integer("dim", 0) % rank
    wide = [
        call.builder.unsqueeze(v, [axis]) if isinstance(v, Flow) else folded(partial(np.expand_dims, axis=axis), v)
        for v in values
    ]
    return operations.concat(call.builder, wide, axis)


def cut(call: Call) -> Value:
    start, stop = call.integer("start", 0), _stop(call)
    return operations.cut(call.builder, call.flow(), call.integer("dim", 0), start, stop, call.integer("step", 1))


def _stop(call: Call) -> int:
    """The whole batch is as good as no bound."""
    told, x = call.get("end"), call.flow()
    if x.source_axis(call.integer("dim", 0)) == x.batch and isinstance(told, Constant):
        if (int(told.first), int(told.second)) == tuple(r * product(x.merged) for r in call.builder.probes):
            return (1 << 63) - 1
        raise Unsupported("slices the batch")
    return call.integer("end", (1 << 63) - 1)


def narrow(call: Call) -> Value:
    start = call.integer("start")
    return operations.cut(call.builder, call.flow(), call.integer("dim"), start, start + call.integer("length"))


def select(call: Call) -> Value:
    return operations.pick(call.builder, call.flow(), call.integer("dim"), call.integer("index"))


def index_select(call: Call) -> Value:
    index = call.value("index")
    if not isinstance(index, Constant):
        raise Unsupported("positions that are computed")
    return operations.take(call.builder, call.flow(), call.integer("dim"), index.fixed)


def index(call: Call) -> Value:
    """x[:, :, positions] with constant positions along one axis."""
    told = call.get("indices", ())
    places = [i for i, v in enumerate(told) if v is not None]
    if len(places) != 1 or not isinstance(told[places[0]], Constant):
        raise Unsupported("positions that are computed or along several axes")
    positions = told[places[0]].fixed
    if positions.dtype.kind not in "iu":
        raise Unsupported("selects by truth values")
    return operations.take(call.builder, call.flow(), places[0], positions)


def split(call: Call) -> Sequence[Value]:
    x, axis = call.flow(), call.integer("dim", 0)
    total = x.tensor.shape[x.feature(axis)]
    told = call.get("split_sizes", call.get("split_size"))
    if isinstance(told, tuple):
        return tuple(operations.split(call.builder, x, axis, call.integers("split_sizes", call.integers("split_size"))))
    part = call.integer("split_size")
    return tuple(operations.split(call.builder, x, axis, _parts(total, part)))


def _parts(total: int, part: int) -> list[int]:
    if part < 1:
        raise Unsupported(f"parts of {part}")
    return [min(part, total - start) for start in range(0, total, part)]


def chunk(call: Call) -> Sequence[Value]:
    x, axis = call.flow(), call.integer("dim", 0)
    total = x.tensor.shape[x.feature(axis)]
    return tuple(operations.split(call.builder, x, axis, _parts(total, -(-total // call.integer("chunks")))))


def unbind(call: Call) -> Sequence[Value]:
    x, axis = call.flow(), call.integer("dim", 0)
    return tuple(operations.pick(call.builder, x, axis, i) for i in range(x.tensor.shape[x.feature(axis)]))


def flip(call: Call) -> Value:
    x = call.flow()
    for axis in call.integers("dims"):
        x = operations.cut(call.builder, x, axis, (1 << 62), -(1 << 62), -1)
    return x


def pad(call: Call) -> Value:
    """Widths come in pairs, the last axis first."""
    x, widths = call.flow(), call.integers("pad")
    modes = {"constant": PadMode.CONSTANT, "reflect": PadMode.REFLECT, "replicate": PadMode.EDGE}
    mode = call.get("mode", "constant")
    if mode not in modes or len(widths) % 2 or len(widths) > 2 * x.rank:
        raise Unsupported(f"mode {mode}")
    begin, end = [0] * x.rank, [0] * x.rank
    for position in range(len(widths) // 2):
        begin[-1 - position], end[-1 - position] = widths[2 * position], widths[2 * position + 1]
    return operations.pad(call.builder, x, begin, end, modes[mode], call.number("value", 0.0))


def upsample(call: Call) -> Value:
    """To the nearest element, by whole numbers."""
    x = call.flow("input" if call.get("input") is not None else "self")
    space = x.tensor.shape[1:]
    given = call.get("output_size")
    if given is not None:
        sizes = call.integers("output_size")
    else:
        factors = call.get("scale_factors")
        if not isinstance(factors, tuple):
            raise Unsupported("no size")
        sizes = [int(n * factor) for n, factor in zip(space, factors, strict=True)]
    if len(sizes) != len(space) or any(m % n for m, n in zip(sizes, space, strict=True)):
        raise Unsupported(f"from {space} to {sizes}")
    return compounds.repeated(call.builder, x, [m // n for m, n in zip(sizes, space, strict=True)])


CONVERTERS: dict[str, Converter] = {
    **{f"upsample_nearest{space}d": upsample for space in (1, 2, 3)},
    "sym_size": size,
    "view": view,
    "_unsafe_view": view,
    "reshape": partial(view, name="shape"),
    "flatten": flatten,
    "unflatten": unflatten,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "expand": expand,
    "expand_as": expand_as,
    "transpose": transpose,
    "t": transpose,
    "mT": partial(transpose, last=True),
    "permute": permute,
    "cat": cat,
    "concat": cat,
    "stack": stack,
    "slice": cut,
    "narrow": narrow,
    "select": select,
    "index_select": index_select,
    "index": index,
    "split": split,
    "split_with_sizes": split,
    "chunk": chunk,
    "unbind": unbind,
    "flip": flip,
    "pad": pad,
    "constant_pad_nd": pad,
}
