"""Values of a source program: tensors that flow, with the axis where the batch is, and constants.

A source may move its batch (sequence-first layers) or merge it with other axes (attention heads as rows). Our tensors
keep it in front and leave it out; a Flow remembers where the source sees it, so that axes of the source can be told
apart from axes of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, ModelError
from numpy.typing import NDArray

from ..graph import Array, Tensor
from ..operators.spec import product

AnyArray = NDArray[Any]
BATCH_PROBES = (7, 11)
"""Two batch sizes that stand for the symbolic one: what differs between them depends on the batch."""
MAX_FOLDED_ELEMENTS = 1 << 28
"""Largest constant that folding may make (1 GiB of float32); a hostile file could ask for any."""
MAX_EXACT_INTEGER = 1 << 24
"""Integers up to this are exact in float32."""


WRONG_FORM = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What a converter raises on operands or settings of a form that no exporter writes: the file is damaged."""


class Unsupported(Exception):
    """A use of an operator that our graph cannot express; the operator becomes opaque."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A value that does not depend on the input, for each of the two batch sizes."""

    first: AnyArray
    second: AnyArray
    name: str = ""
    """Of a weight in the source; empty for what was folded."""

    @property
    def fixed(self) -> AnyArray:
        """The value, where it does not depend on the batch.

        Raises Unsupported where it does.
        """
        if self.first is not self.second and not _same(self.first, self.second):
            raise Unsupported("a constant depends on the batch size")
        return self.first

    @property
    def integers(self) -> list[int]:
        """The elements of an integer vector or scalar that is fixed."""
        return [int(v) for v in self.fixed.reshape(-1)]

    @property
    def scalar(self) -> float:
        """The one element.

        Raises Unsupported where there are more.
        """
        if self.fixed.size != 1:
            raise Unsupported("a single number is needed")
        return float(self.fixed.reshape(-1)[0])


def _same(first: AnyArray, second: AnyArray) -> bool:
    return first.shape == second.shape and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")


def fixed(value: Any, name: str = "") -> Constant:
    """A constant that does not depend on the batch."""
    array = np.asarray(value)
    return Constant(first=array, second=array, name=name)


def folded(function: Callable[..., Any], *operands: Constant) -> Constant:
    """`function` of the arrays, for both batch sizes; once where they are the same."""
    first = np.asarray(function(*(o.first for o in operands)))
    if all(o.first is o.second for o in operands):
        return Constant(first=first, second=first)
    return Constant(first=first, second=np.asarray(function(*(o.second for o in operands))))


def bounded(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a constant to be made.

    Raises ModelError where it is too large to be meant.
    """
    sizes = tuple(int(n) for n in shape)
    if any(n < 0 for n in sizes) or product(sizes) > MAX_FOLDED_ELEMENTS:
        raise ModelError(
            Code.MODEL_UNSAFE, f"a constant of shape {sizes} is computed in the model; it is too large to be folded."
        )
    return sizes


def weight(constant: Constant, what: str) -> Array:
    """A weight as float32.

    Raises ModelError where it is of another precision or not finite, naming it.
    """
    value = float32(constant, what)
    if not np.isfinite(value).all():
        raise ModelError(
            Code.MODEL_MALFORMED,
            f"{named(constant, what)} has values that are not finite; the training diverged or the file is damaged.",
        )
    return value


def float32(constant: Constant, what: str) -> Array:
    """A constant operand as float32; infinities are allowed, as in masks.

    Raises ModelError where its precision is not float32's, Unsupported where an integer is too large.
    """
    value = constant.fixed
    if value.dtype.kind not in "iub":
        if value.dtype != np.float32:
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{named(constant, what)} is {value.dtype}; only float32 is supported. Convert the model to float32 "
                "before exporting it.",
            )
        if np.isnan(value).any():
            raise ModelError(
                Code.MODEL_MALFORMED,
                f"{named(constant, what)} has values that are not finite; the training diverged or the file is "
                "damaged.",
            )
    elif value.dtype.kind in "iu" and value.size and int(np.abs(value).max()) > MAX_EXACT_INTEGER:
        raise Unsupported("an integer constant is too large for float32")
    return np.ascontiguousarray(value, dtype=np.float32).reshape(value.shape)


def named(constant: Constant, what: str) -> str:
    return f"weight {constant.name}" if constant.name else f"the constant {what}"


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A tensor that depends on the input.

    The source sees the axes of `tensor.shape` with one more, the batch, as axis `batch`; that axis may also hold
    `before` feature axes in front of the batch and `after` behind it, merged in row-major order.
    """

    tensor: Tensor
    batch: int = 0
    before: int = 0
    after: int = 0

    @property
    def rank(self) -> int:
        """Number of axes in the source."""
        return len(self.tensor.shape) - self.before - self.after + 1

    @property
    def plain(self) -> bool:
        """Whether the batch is the first axis, alone."""
        return self.batch == self.before == self.after == 0

    @property
    def merged(self) -> tuple[int, ...]:
        """Sizes of the features that share the batch's axis."""
        return self.tensor.shape[self.batch : self.batch + self.before + self.after]

    def source_axis(self, axis: int) -> int:
        """An axis of the source, counted from 0."""
        if not -self.rank <= axis < self.rank:
            raise Unsupported(f"axis {axis} of a tensor with {self.rank}")
        return axis % self.rank

    def features(self, axis: int) -> list[int]:
        """Feature axes that an axis of the source holds."""
        axis = self.source_axis(axis)
        extra = self.before + self.after
        if axis == self.batch:
            return list(range(axis, axis + extra))
        return [axis if axis < self.batch else axis - 1 + extra]

    def feature(self, axis: int) -> int:
        """The feature axis for an axis of the source.

        Raises Unsupported for the batch.
        """
        if self.source_axis(axis) == self.batch:
            raise Unsupported("works along the batch")
        return self.features(axis)[0]

    def dims(self) -> list[int | None]:
        """Sizes in the source; None for the batch's axis."""
        sizes = self.tensor.shape
        extra = self.before + self.after
        return [*sizes[: self.batch], None, *sizes[self.batch + extra :]]

    def shape(self, rows: int) -> tuple[int, ...]:
        """Sizes in the source for a batch of `rows`."""
        return tuple(rows * product(self.merged) if n is None else n for n in self.dims())


Value = Flow | Constant
