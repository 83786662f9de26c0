"""A program in the making: functions, calls with places as arguments, and the buffers between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .blob import Blob
from .levels import Level
from .memory import Buffer, allocate
from .views import Place, Space, View, row_major

NAME = "@"
"""Stands for the function's name in its text."""


@dataclass
class Functions:
    """Texts of static functions; equal texts are one function. Shared by all programs of a module."""

    texts: dict[str, str] = field(default_factory=dict)

    def define(self, text: str) -> str:
        """Returns the function's name."""
        return self.texts.setdefault(text, f"f{len(self.texts)}")

    def printed(self) -> str:
        return "\n".join(text.replace(NAME, name) for text, name in self.texts.items())


@dataclass(frozen=True, kw_only=True)
class Call:
    """One statement: a function and where its arguments are."""

    function: str
    arguments: tuple[Place, ...]


@dataclass
class Program:
    """What is done for a block of rows."""

    level: Level
    rows: int
    functions: Functions
    blob: Blob
    calls: list[Call] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)

    def call(self, text: str, *arguments: Place) -> None:
        """Call the function of that text; the buffers it is given are in use now."""
        position = len(self.calls)
        for place in arguments:
            if place.space is Space.SCRATCH:
                buffer = self.buffers[place.buffer]
                buffer.first, buffer.last = min(buffer.first, position), max(buffer.last, position)
        self.calls.append(Call(function=self.functions.define(text), arguments=arguments))

    def scratch(self, size: int) -> Place:
        """A new buffer of `size` floats, with room to store a full vector at its last element."""
        self.buffers.append(Buffer(size=size + self.level.lanes, first=1 << 60, last=-1))
        return Place(space=Space.SCRATCH, buffer=len(self.buffers) - 1)

    def dense(self, shape: Sequence[int]) -> View:
        """A new row-major tensor."""
        size = 1
        for each in shape:
            size *= each
        return View(place=self.scratch(size), shape=tuple(shape), strides=row_major(shape))

    def constant(self, offset: int) -> Place:
        return Place(space=Space.WEIGHTS, offset=offset)

    def printed(self) -> tuple[str, int]:
        """The statements as C, and the floats of scratch they need."""
        offsets, total = allocate(self.buffers)

        def address(place: Place) -> str:
            offset = place.offset + (offsets[place.buffer] if place.space is Space.SCRATCH else 0)
            return f"{place.space.value} + {offset}"

        lines = [f"  {call.function}({', '.join(map(address, call.arguments))});" for call in self.calls]
        return "\n".join(lines), total
