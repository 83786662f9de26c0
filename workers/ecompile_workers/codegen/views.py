"""Where the elements of a tensor are: strided views of buffers. Moving axes about costs nothing in this form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Space(StrEnum):
    """What a place is in; its name is the C pointer."""

    INPUT = "x"
    OUTPUT = "out"
    SCRATCH = "s"
    WEIGHTS = "eco_weights"


@dataclass(frozen=True, kw_only=True)
class Place:
    """An address: a space, in scratch one buffer of it, and an offset in floats."""

    space: Space
    offset: int = 0
    buffer: int = -1

    def moved(self, offset: int) -> Place:
        """`offset` floats further on."""
        return replace(self, offset=self.offset + offset)


@dataclass(frozen=True, kw_only=True)
class View:
    """A tensor with its rows as leading axis; strides in floats, one per axis."""

    place: Place
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        return product(self.shape)

    def moved(self, offset: int) -> View:
        """The same, `offset` floats further on."""
        return replace(self, place=self.place.moved(offset))


def product(values: Sequence[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense array whose last axis is contiguous."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def is_row_major(view: View) -> bool:
    expected = row_major(view.shape)
    return all(n == 1 or s == e for n, s, e in zip(view.shape, view.strides, expected, strict=True))


def reshaped(view: View, shape: Sequence[int]) -> View | None:
    """The same elements in row-major order under another shape; None where no strides can say that."""
    axes = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
    strides: list[int] = []
    position, left, stride = 0, 1, 0
    for size in reversed(shape):
        if size == 1:
            strides.append(0)
            continue
        if left == 1:
            if position == len(axes):
                return None
            left, stride = axes[-1 - position]
            position += 1
        while left % size and position < len(axes) and axes[-1 - position][1] == stride * left:
            left *= axes[-1 - position][0]
            position += 1
        if left % size:
            return None
        strides.append(stride)
        left, stride = left // size, stride * size
    return View(place=view.place, shape=tuple(shape), strides=tuple(reversed(strides)))


def collapsed(shapes: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Fewer axes over which several operands walk in the same order: ones dropped, neighbours joined."""
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shapes):
        if size == 1:
            continue
        joins = bool(sizes) and all(s[-1] == each[axis] * size for s, each in zip(steps, strides, strict=True))
        if joins:
            sizes[-1] *= size
            for s, each in zip(steps, strides, strict=True):
                s[-1] = each[axis]
        else:
            sizes.append(size)
            for s, each in zip(steps, strides, strict=True):
                s.append(each[axis])
    return sizes, steps


def broadcast(view: View, shape: Sequence[int]) -> View:
    """Aligned from the right, axes of size 1 repeated."""
    missing = len(shape) - len(view.shape)
    sizes = (*(1,) * missing, *view.shape)
    strides = (*(0,) * missing, *view.strides)
    return View(
        place=view.place,
        shape=tuple(shape),
        strides=tuple(0 if n == 1 else s for n, s in zip(sizes, strides, strict=True)),
    )
