"""What every family of operators needs when it is lowered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.graph import Array, DType, Node, Op, Tensor
from ..kernels.maps import print_fill, print_map
from ..program import Program
from ..views import Place, Space, View, broadcast, collapsed, is_row_major, product, row_major


class Unsupported(Exception):
    """The code generator cannot do this; the message is part of a sentence."""


EXACT = frozenset({Op.CAST, Op.RESHAPE, Op.EXPAND, Op.TRANSPOSE, Op.CONCAT, Op.SLICE, Op.GATHER})
"""Operators that give integers as float32 exactly, from what is exact: they move them, or cut a fraction off."""


def inexact(node: Node) -> bool:
    """Whether a node computes with integers: beyond 2**24 float32 would round."""
    return node.output.dtype is DType.INT64 and node.op not in EXACT


@dataclass(frozen=True, kw_only=True)
class Halo:
    """Zeros around the spatial dimensions of a channels-last tensor."""

    begin: tuple[int, ...]
    end: tuple[int, ...]

    def covers(self, other: Halo) -> bool:
        return all(a >= b for a, b in zip((*self.begin, *self.end), (*other.begin, *other.end), strict=True))


def no_halo(dimensions: int) -> Halo:
    return Halo(begin=(0,) * dimensions, end=(0,) * dimensions)


@dataclass
class Lowering:
    """Tensors that exist so far."""

    program: Program
    output: Tensor
    wanted: Mapping[str, Halo] = field(default_factory=dict)
    """Tensors that convolutions read, with the zeros they want around them."""
    views: dict[str, View] = field(default_factory=dict)
    halos: dict[str, Halo] = field(default_factory=dict)

    @property
    def lanes(self) -> int:
        return self.program.level.lanes

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """With the rows as leading axis."""
        return (self.program.rows, *tensor.shape)

    def constant(self, values: Array) -> View:
        """A constant as a tensor of one row."""
        place = self.program.constant(self.program.blob.put(values))
        shape = (1, *values.shape)
        return View(place=place, shape=shape, strides=row_major(shape))

    def operand(self, operand: str | Array) -> View:
        return self.views[operand] if isinstance(operand, str) else self.constant(operand)

    def result(self, tensor: Tensor, *, like: View | None = None, exact: bool = True) -> View:
        """Where to put a tensor: as its readers want it, straight into the output, or laid out like another one.

        `exact`: the kernel stores no element past the last one of a row.
        """
        shape = self.shape(tensor)
        if tensor.name in self.wanted:
            return self.channels_last(tensor.name, shape, self.wanted[tensor.name])
        direct = exact or (shape[-1] % self.lanes == 0)
        if tensor.name == self.output.name and direct:
            return View(place=Place(space=Space.OUTPUT), shape=shape, strides=row_major(shape))
        if like is not None and like.shape == shape and len(shape) > 2 and like.strides[1] == 1:
            return self.channels_last(tensor.name, shape, no_halo(len(shape) - 2))
        return self.program.dense(shape) if exact else self.padded_rows(shape)

    def padded_rows(self, shape: Sequence[int]) -> View:
        """A new row-major tensor whose last axis has room for full vectors."""
        pitch = -(-shape[-1] // self.lanes) * self.lanes
        whole = self.program.dense((*shape[:-1], pitch))
        return View(place=whole.place, shape=tuple(shape), strides=whole.strides)

    def channels_last(self, name: str | None, shape: Sequence[int], halo: Halo, *, tight: bool = False) -> View:
        """A new tensor [rows, channels, *spatial] with channels contiguous and zeros around it."""
        rows, channels, *spatial = shape
        pitch = channels if tight else -(-channels // self.lanes) * self.lanes
        sizes = [b + n + e for b, n, e in zip(halo.begin, spatial, halo.end, strict=True)]
        steps = [pitch * each for each in row_major(sizes)]
        total = rows * product(sizes) * pitch
        place = self.program.scratch(total)
        if any((*halo.begin, *halo.end)):
            self.program.call(print_fill(total, 0.0), place)
        if name is not None:
            self.halos[name] = halo
        whole = View(place=place, shape=tuple(shape), strides=(product(sizes) * pitch, 1, *steps))
        return whole.moved(sum(b * s for b, s in zip(halo.begin, steps, strict=True)))

    def map(self, expression: str, operands: Sequence[View], target: View) -> None:
        """target = expression, elementwise with broadcasting."""
        wide = [broadcast(view, target.shape) for view in operands]
        sizes, steps = collapsed(target.shape, [*(view.strides for view in wide), target.strides])
        text = print_map(sizes, steps, expression, lanes=self.lanes)
        self.program.call(text, *(view.place for view in wide), target.place)

    def copied(self, view: View) -> View:
        """The same tensor in row-major order."""
        target = self.program.dense(view.shape)
        self.map("{0}", [view], target)
        return target

    def row_major(self, view: View) -> View:
        return view if is_row_major(view) else self.copied(view)

    def finish(self) -> None:
        """Bring the output to where it belongs."""
        view = self.views[self.output.name]
        if view.place.space is not Space.OUTPUT:
            shape = self.shape(self.output)
            self.map("{0}", [view], View(place=Place(space=Space.OUTPUT), shape=shape, strides=row_major(shape)))
