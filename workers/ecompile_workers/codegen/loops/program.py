"""Nests in the making: buffers of one row, constants, and where each tensor is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...ir.graph import Array
from ..blob import Blob
from ..views import Place, Space, View, broadcast, is_row_major, product, row_major
from .nest import Expression, Fold, Folded, Load, Nest, Number


@dataclass
class Loops:
    """A program for one row. Views have no axis for the rows."""

    blob: Blob = field(default_factory=Blob)
    sizes: list[int] = field(default_factory=list)
    """Floats of each buffer."""
    nests: list[Nest] = field(default_factory=list)
    tensors: dict[str, View] = field(default_factory=dict)

    def operand(self, operand: str | Array) -> View:
        return self.tensors[operand] if isinstance(operand, str) else self.constant(operand)

    def constant(self, values: Array) -> View:
        place = Place(space=Space.WEIGHTS, offset=self.blob.put(values))
        return View(place=place, shape=values.shape, strides=row_major(values.shape))

    def fresh(self, shape: Sequence[int]) -> View:
        """A new row-major buffer."""
        self.sizes.append(product(shape))
        place = Place(space=Space.SCRATCH, buffer=len(self.sizes) - 1)
        return View(place=place, shape=tuple(shape), strides=row_major(shape))

    def put(
        self,
        target: View,
        value: Expression,
        *,
        reduced: Sequence[int] = (),
        fold: Fold = Fold.SUM,
        then: Expression | None = None,
    ) -> View:
        self.nests.append(
            Nest(target=target, value=value, reduced=tuple(reduced), fold=fold, then=then if then else Folded())
        )
        return target

    def copied(self, view: View) -> View:
        return self.put(self.fresh(view.shape), at(view, view.shape))

    def dense(self, view: View) -> View:
        return view if is_row_major(view) else self.copied(view)

    def padded(self, view: View, begin: Sequence[int], end: Sequence[int], value: float) -> View:
        """With a constant around it; the same view where nothing is added."""
        if not any((*begin, *end)):
            return view
        whole = self.fresh([b + n + e for b, n, e in zip(begin, view.shape, end, strict=True)])
        self.put(whole, Number(value))
        offset = sum(b * s for b, s in zip(begin, whole.strides, strict=True))
        inner = View(place=whole.place.moved(offset), shape=view.shape, strides=whole.strides)
        self.put(inner, at(view, view.shape))
        return whole


def at(view: View, shape: Sequence[int], *, reduced: int = 0) -> Load:
    """The element of a view, broadcast to a shape, whatever the reduced loops."""
    wide = broadcast(view, shape)
    return Load(place=wide.place, strides=(*wide.strides, *(0,) * reduced))
