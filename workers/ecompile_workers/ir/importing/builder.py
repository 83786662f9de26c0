"""Makes our graph from operations of a source program, whose axes include the batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from ecompile_crds.errors import Code, ModelError

from ..attributes import NOTHING, Attributes, Axis, Cast, Order, Ranges, Target
from ..graph import Array, DType, Graph, Node, Op, Tensor, inferred, problems
from ..operators import OPERATORS, ShapeError
from ..operators.spec import product
from .values import BATCH_PROBES, AnyArray, Constant, Flow, Unsupported, Value, float32


class Builder:
    """Nodes so far. One source operator after the other: `begin`, operations, then `finish`, `discard` or `opaque`."""

    def __init__(self, model: str, sources: Sequence[Tensor], *, static_batch: int | None = None) -> None:
        """`sources`: the inputs; several become one row of all of them, which `flows` takes apart."""
        self.model = model
        self.source = sources[0] if len(sources) == 1 else _side_by_side(sources)
        self.static = static_batch
        self.probes = BATCH_PROBES if static_batch is None else (static_batch, static_batch)
        self._nodes: list[Node] = []
        self._known: dict[str, Tensor] = {self.source.name: self.source}
        self._mark = 0
        self._operator = ""
        self._sources = tuple(sources) if len(sources) > 1 else ()
        self.flows: dict[str, Value] = {}
        """The inputs, by name."""
        whole = Flow(tensor=self.source)
        start = 0
        for tensor in sources:
            self.flows |= self._taken(whole, tensor, start) if self._sources else {tensor.name: whole}
            start += tensor.size

    def _taken(self, whole: Flow, tensor: Tensor, start: int) -> dict[str, Value]:
        """One input out of the row of all of them."""
        self.begin("input")
        ranges = Ranges(starts=(start,), stops=(start + tensor.size,), steps=(1,))
        value = self.relaid(self.emit(Op.SLICE, [whole], ranges), tensor.shape, batch=0)
        if tensor.dtype is not DType.FLOAT32:
            value = self.emit(Op.CAST, [value], Cast(to=tensor.dtype))
        return self.finish({tensor.name: value})

    def begin(self, operator: str) -> None:
        self._operator = operator
        self._mark = len(self._nodes)

    def emit(
        self, op: Op, operands: Sequence[Flow | Array], attributes: Attributes = NOTHING, *, like: Flow | None = None
    ) -> Flow:
        """One node. The result has the layout of `like`, or of the first operand that flows.

        Raises Unsupported where the operands do not fit.
        """
        flows = [o for o in operands if isinstance(o, Flow)]
        name = self._free(f"#{len(self._nodes)}")
        try:
            names = OPERATORS[op].names(len(operands))
            node = Node(
                op=op,
                inputs=tuple(f.tensor.name for f in flows),
                output=Tensor(name=name, shape=(), internal=True),
                constants={n: o for n, o in zip(names, operands, strict=True) if not isinstance(o, Flow)},
                attributes=attributes,
                source=self._operator,
            )
            shape, dtype = inferred(node, self._known)
        except ShapeError as error:
            raise Unsupported(str(error)) from error
        output = Tensor(name=name, shape=shape, dtype=dtype, internal=True)
        self._nodes.append(replace(node, output=output))
        self._known[name] = output
        return replace(like or flows[0], tensor=output)

    def finish(self, outputs: Mapping[str, Value]) -> dict[str, Value]:
        """Names the nodes made since `begin`: a result by its name in the source, what lies between by a number."""
        fresh = [node.output.name for node in self._nodes[self._mark :]]
        final: dict[str, Tensor] = {}
        stem = next(iter(outputs), self._operator)
        for name, value in outputs.items():
            if isinstance(value, Flow) and value.tensor.name in fresh and value.tensor.name not in final:
                final[value.tensor.name] = replace(value.tensor, name=name, internal=not value.plain)
        for count, old in enumerate(name for name in fresh if name not in final):
            final[old] = replace(self._known[old], name=self._free(f"{stem}.{count}"))
        for position, node in enumerate(self._nodes[self._mark :], self._mark):
            inputs = tuple(final[i].name if i in final else i for i in node.inputs)
            self._nodes[position] = replace(node, inputs=inputs, output=final[node.output.name])
        for old, tensor in final.items():
            del self._known[old]
            if tensor.name in self._known:
                raise ModelError(Code.MODEL_MALFORMED, f"{self.model}: tensor {tensor.name} is computed twice.")
            self._known[tensor.name] = tensor
        return {name: self._renamed(value, final) for name, value in outputs.items()}

    def _renamed(self, value: Value, final: Mapping[str, Tensor]) -> Value:
        if isinstance(value, Flow) and value.tensor.name in final:
            return replace(value, tensor=final[value.tensor.name])
        return value

    def _free(self, name: str) -> str:
        while name in self._known:
            name += "'"
        return name

    def discard(self) -> None:
        """Forget the nodes made since `begin`."""
        for node in self._nodes[self._mark :]:
            del self._known[node.output.name]
        del self._nodes[self._mark :]

    def opaque(self, inputs: Sequence[Flow], outputs: Sequence[Tensor], reason: str) -> list[Flow]:
        """One opaque node per output, in place of what was made since `begin`.

        Raises ModelError where the batch is not the first axis of an input.
        """
        self.discard()
        if any(not flow.plain for flow in inputs):
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self.model}: operator {self._operator} is not supported here ({reason}), and it cannot stay neural "
                "because the batch is not the first dimension of its input; move the batch to the front.",
            )
        names = tuple(dict.fromkeys(flow.tensor.name for flow in inputs))
        for output in outputs:
            self._nodes.append(Node(op=Op.OPAQUE, inputs=names, output=output, source=self._operator))
            self._known[output.name] = output
        return [Flow(tensor=output) for output in outputs]

    def graph(self, outputs: Mapping[str, Value | None]) -> Graph:
        """The whole graph, without nodes that the outputs do not need; several outputs become one row of all of them.

        Raises ModelError.
        """
        flows = {name: self._result(name, value) for name, value in outputs.items()}
        parts = tuple(replace(flow.tensor, name=name) for name, flow in flows.items()) if len(flows) > 1 else ()
        output = self._joined(flows.values(), parts) if parts else next(iter(flows.values()))
        needed = {output.tensor.name}
        kept: list[Node] = []
        for node in reversed(self._nodes):
            if node.output.name in needed:
                kept.append(node)
                needed.update(node.inputs)
        graph = Graph(
            input=self.source,
            output=output.tensor,
            nodes=tuple(reversed(kept)),
            inputs=self._sources,
            outputs=parts,
        )
        wrong = problems(graph)
        if wrong:
            raise ModelError(Code.MODEL_MALFORMED, f"{self.model}: {wrong[0]}.")
        return graph

    def _joined(self, flows: Iterable[Flow], parts: Sequence[Tensor]) -> Flow:
        self.begin("output")
        flat = [self.relaid(flow, [flow.tensor.size], batch=0) for flow in flows]
        name = _side_by_side(parts).name
        joined = self.finish({name: self.emit(Op.CONCAT, flat, Axis(axis=0))})[name]
        assert isinstance(joined, Flow)
        return joined

    def _result(self, name: str, output: Value | None) -> Flow:
        """An output of the source, by the name that the source has for it.

        Raises ModelError where it cannot be one.
        """
        if not isinstance(output, Flow):
            raise ModelError(
                Code.MODEL_UNSUPPORTED, f"{self.model}: the output {name} does not depend on the input; leave it out."
            )
        if not output.plain:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self.model}: the batch is not the first dimension of the output {name}; move it to the front.",
            )
        if output.tensor.dtype is not DType.FLOAT32:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self.model}: the output {name} is {output.tensor.dtype}; only float32 outputs are supported.",
            )
        return output

    # Layout: where the batch is.

    def plain(self, x: Flow) -> Flow:
        """`x`, which must have its batch in front.

        Raises Unsupported where it does not.
        """
        if not x.plain:
            raise Unsupported("the batch is not the first dimension")
        return x

    def relaid(
        self, x: Flow, shape: Sequence[int], *, batch: int, before: int | None = None, after: int | None = None
    ) -> Flow:
        """The same elements as features of `shape`, with the batch elsewhere; a node only where the shape changes."""
        shape = tuple(shape)
        y = x if shape == x.tensor.shape else self.emit(Op.RESHAPE, [x], Target(shape=shape))
        return Flow(
            tensor=y.tensor,
            batch=batch,
            before=x.before if before is None else before,
            after=x.after if after is None else after,
        )

    def rearranged(self, x: Flow, dims: Sequence[int | None]) -> Flow:
        """The same elements with the sizes `dims` of the source; None where the batch's axis stays."""
        batch = list(dims).index(None)
        shape = [n for d in dims for n in (x.merged if d is None else (d,))]
        return self.relaid(x, shape, batch=batch)

    def unsqueeze(self, x: Flow, axes: Sequence[int]) -> Flow:
        """Axes of size 1 at positions of the result."""
        rank = x.rank + len(axes)
        places = {a % rank for a in axes}
        if len(places) != len(axes) or any(not -rank <= a < rank for a in axes):
            raise Unsupported(f"axes {list(axes)} of {rank}")
        rest = iter(x.dims())
        return self.rearranged(x, [1 if i in places else next(rest) for i in range(rank)])

    def squeeze(self, x: Flow, axes: Sequence[int] | None) -> Flow:
        """Without axes of size 1; None for all of them but the batch."""
        dims = x.dims()
        drop = {i for i, n in enumerate(dims) if n == 1} if axes is None else {x.source_axis(a) for a in axes}
        if any(dims[i] != 1 for i in drop):
            raise Unsupported("squeezes an axis that is not of size 1")
        return self.rearranged(x, [n for i, n in enumerate(dims) if i not in drop])

    def transpose(self, x: Flow, order: Sequence[int]) -> Flow:
        """Axis order[i] of the source becomes axis i."""
        order = [x.source_axis(a) for a in order]
        if sorted(order) != list(range(x.rank)):
            raise Unsupported(f"{order} is not an order of the axes")
        moved = [feature for axis in order for feature in x.features(axis)]
        y = x if moved == sorted(moved) else self.emit(Op.TRANSPOSE, [x], Order(order=tuple(moved)))
        return replace(y, batch=order.index(x.batch))

    def reshape(self, x: Flow, target: Constant) -> Flow:
        """A shape of the source, with at most one -1.

        Raises Unsupported where the batch does not stay together.
        """
        shapes = [
            _resolved([int(v) for v in dims.reshape(-1)], x.shape(rows))
            for dims, rows in zip((target.first, target.second), self.probes, strict=True)
        ]
        axis, before, after = self._batch_axis(x, *shapes)
        sizes = shapes[0]
        merged = [n for n in (before, after) if n > 1]
        return self.relaid(
            x, [*sizes[:axis], *merged, *sizes[axis + 1 :]], batch=axis, before=int(before > 1), after=int(after > 1)
        )

    def _batch_axis(self, x: Flow, first: Sequence[int], second: Sequence[int]) -> tuple[int, int, int]:
        """(axis, sizes merged before and after) of the batch in a new shape of `x`.

        In row-major order, as many elements of the features must lie before the batch as until now.
        """
        ahead = product(x.tensor.shape[: x.batch + x.before])
        if self.static is not None:
            return _static_batch_axis(first, ahead, self.static)
        differing = [i for i, (m, n) in enumerate(zip(first, second, strict=True)) if m != n]
        if len(differing) == 1:
            axis = differing[0]
            count, rest = divmod(first[axis], self.probes[0])
            outer = product(first[:axis])
            if rest == 0 and second[axis] == count * self.probes[1] and ahead % outer == 0:
                before = ahead // outer
                if before and count % before == 0:
                    return axis, before, count // before
        raise Unsupported("tears the batch apart")

    # Operands side by side.

    def beside(self, constant: Constant, like: Flow, what: str) -> Array:
        """A constant that is broadcast against `like`, without the batch's axis.

        Raises Unsupported where its values differ along the batch.
        """
        behind = like.rank - like.batch
        value = float32(self.uniform(constant, behind), what)
        if value.ndim > like.rank:
            if any(n != 1 for n in value.shape[: value.ndim - like.rank]):
                raise Unsupported("a constant has more axes than the tensor beside it")
            value = value.reshape(value.shape[value.ndim - like.rank :])
        axis = value.ndim - behind
        if axis < 0:
            return value
        shape = (*value.shape[:axis], *(1,) * len(like.merged), *value.shape[axis + 1 :])
        return value.reshape(shape)

    def uniform(self, constant: Constant, behind: int) -> Constant:
        """With one of the equal rows along the batch's axis, which is the `behind`-th from the end.

        Raises Unsupported where they differ.
        """
        rows = []
        for value, size in zip((constant.first, constant.second), self.probes, strict=True):
            axis = value.ndim - behind
            if axis >= 0 and value.shape[axis] != 1:
                row: AnyArray = np.take(value, [0], axis=axis)
                if value.shape[axis] % size or not np.array_equal(np.broadcast_to(row, value.shape), value):
                    raise Unsupported("a constant differs along the batch")
                value = row
            rows.append(value)
        return Constant(first=rows[0], second=rows[1], name=constant.name)

    def common(self, flows: Sequence[Flow]) -> Flow:
        """The flow with the most axes; all must have their batch in the same place, counted from the last axis.

        Raises Unsupported where they do not.
        """
        widest = max(flows, key=lambda f: f.rank)
        for flow in flows:
            same = flow.rank - flow.batch == widest.rank - widest.batch
            if not same or (flow.before, flow.after, flow.merged) != (widest.before, widest.after, widest.merged):
                raise Unsupported("the batch is not in the same place in all operands")
        return widest

    def broadcast(self, op: Op, *values: Value, attributes: Attributes = NOTHING) -> Flow:
        """An elementwise operator on tensors and constants."""
        widest = self.common([v for v in values if isinstance(v, Flow)])
        operands = [v if isinstance(v, Flow) else self.beside(v, widest, op) for v in values]
        return self.emit(op, operands, attributes, like=widest)


def common_batch(leading: Mapping[str, object], *, name: str) -> int | None:
    """The batch size that is written into a model called `name`, from the first sizes of its inputs; None where they
    are symbolic.

    Raises ModelError where they differ.
    """
    sizes = {size if isinstance(size, int) else None for size in leading.values()}
    if len(sizes) > 1:
        told = ", ".join(f"{each} has {size if isinstance(size, int) else 'any'}" for each, size in leading.items())
        raise ModelError(
            Code.MODEL_UNSUPPORTED,
            f"{name}: the first dimension of every input must be the batch, but {told}; export the model so.",
        )
    return sizes.pop()


def _side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """One row of all of them, flattened. Its name is of no tensor of a source: exporters write no commas."""
    return Tensor(name=",".join(t.name for t in tensors), shape=(sum(t.size for t in tensors),))


def _resolved(target: list[int], shape: tuple[int, ...]) -> list[int]:
    """A target shape with -1 replaced."""
    if target.count(-1) > 1 or any(n < -1 for n in target):
        raise Unsupported(f"the shape {target}")
    total, known = product(shape), product([n for n in target if n != -1])
    if -1 in target:
        if known == 0 or total % known:
            raise Unsupported(f"{shape} does not fit into {target}")
        return [total // known if n == -1 else n for n in target]
    if known != total:
        raise Unsupported(f"{shape} does not fit into {target}")
    return target


def _static_batch_axis(sizes: Sequence[int], ahead: int, rows: int) -> tuple[int, int, int]:
    """(axis, sizes merged before and after) of a batch of `rows` with `ahead` elements before it.

    With one row, several places fit. All of them compute the same for each row; they differ in what our graph can
    express later: alone before merged, and merged behind the batch before merged in front of it, which would need the
    last axis.
    """
    fitting = []
    for axis, size in enumerate(sizes):
        outer = product(sizes[:axis])
        if size % rows or outer == 0 or ahead % outer:
            continue
        before, after = ahead // outer, size // rows
        if before and after % before == 0:
            after //= before
            last = axis == len(sizes) - 1
            fitting.append((before * after > 1, after > 1 and last, before > 1, axis, before, after))
    if not fitting:
        raise Unsupported("tears the batch apart")
    return min(fitting)[3:]
