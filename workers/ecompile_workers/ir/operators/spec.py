"""What the table of operators says about each of them.

A rule sees every operand in the same form, whether it flows or is constant: shapes without a batch, and in evaluation
arrays [rows, *shape] for tensors that flow and [1, *shape] for constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..attributes import Attributes
from ..op import DType

Values = NDArray[np.float64]
"""Integers and truth values too, which float64 holds exactly up to 2**53."""
Shape = tuple[int, ...]
A = TypeVar("A", bound=Attributes)


class ShapeError(ValueError):
    """Operands that do not fit; the message is part of a sentence."""


def no_macs(attributes: Attributes, shapes: Sequence[Shape], output: Shape) -> int:
    return 0


def first_dtype(attributes: Attributes, dtypes: Sequence[DType | None]) -> DType:
    """That of the first operand that flows."""
    return next((d for d in dtypes if d is not None), DType.FLOAT32)


def always(dtype: DType) -> Callable[[Attributes, Sequence[DType | None]], DType]:
    return lambda attributes, dtypes: dtype


@dataclass(frozen=True, kw_only=True)
class Operator(Generic[A]):
    """One row of the table."""

    operands: tuple[str, ...]
    """Names in order. Those that are constant are keys of `Node.constants`; the others are `Node.inputs`, in order."""
    optional: int = 0
    """How many of the last operands may be missing."""
    variadic: bool = False
    """Any number of operands, named "0", "1" and so on."""
    attributes: type[A]
    shape: Callable[[A, Sequence[Shape]], Shape]
    """Shape of the output. Raises ShapeError."""
    evaluate: Callable[..., Values]
    """(attributes, *operands) -> output in float64."""
    macs: Callable[[A, Sequence[Shape], Shape], int] = no_macs
    """(attributes, operand shapes, output shape) -> multiply-adds per row, of matrix products only."""
    dtype: Callable[[A, Sequence[DType | None]], DType] = first_dtype
    """Element type of the output; that of a constant operand is None."""

    def names(self, count: int) -> tuple[str, ...]:
        """Names of `count` operands.

        Raises ShapeError where there cannot be so many.
        """
        if self.variadic:
            if count < 1:
                raise ShapeError("takes at least one operand")
            return tuple(str(i) for i in range(count))
        if not len(self.operands) - self.optional <= count <= len(self.operands):
            raise ShapeError(f"takes {', '.join(self.operands)}, not {count} operands")
        return self.operands[:count]


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """numpy's rule.

    Raises ShapeError.
    """
    try:
        return tuple(int(n) for n in np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise ShapeError(f"shapes {', '.join(map(str, shapes))} do not broadcast") from error


def aligned(*operands: Values) -> tuple[Values, ...]:
    """The same arrays with axes of size 1 after the first one, so that features line up from the right."""
    rank = max(o.ndim for o in operands)
    return tuple(o.reshape(o.shape[0], *(1,) * (rank - o.ndim), *o.shape[1:]) for o in operands)


def feature_axis(axis: int, rank: int) -> int:
    """A feature axis counted from 0.

    Raises ShapeError where there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is not one of {rank} axes")
    return axis % rank


def array_axis(axis: int) -> int:
    """A feature axis as one of an array with a leading batch."""
    return axis if axis < 0 else axis + 1


def product(values: Sequence[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result
