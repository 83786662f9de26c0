"""One ATen call with its arguments looked up: what a converter sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import Array
from ..importing.builder import Builder
from ..importing.values import Constant, Flow, Unsupported, Value, fixed, weight


@dataclass(frozen=True, kw_only=True)
class Call:
    """Arguments are values, numbers, text, None, or tuples of them."""

    builder: Builder
    target: str
    arguments: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        found = self.arguments.get(name, default)
        return default if found is None else found

    def flow(self, name: str = "self") -> Flow:
        found = self.get(name)
        if not isinstance(found, Flow):
            raise Unsupported(f"{name} does not depend on the input")
        return found

    def value(self, name: str) -> Value:
        """A tensor, or a number as a constant."""
        return as_value(self.get(name), name)

    def optional(self, name: str) -> Value | None:
        return None if self.get(name) is None else self.value(name)

    def weight(self, name: str) -> Array:
        found = self.value(name)
        if not isinstance(found, Constant):
            raise Unsupported(f"{name} is computed from the input")
        return weight(found, f"{name} of {self.target}")

    def optional_weight(self, name: str) -> Array | None:
        return None if self.get(name) is None else self.weight(name)

    def integer(self, name: str, default: int | None = None) -> int:
        return as_integer(self.get(name, default), name)

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        found = self.get(name, default)
        return [as_integer(v, name) for v in (found if isinstance(found, tuple | list | range) else (found,))]

    def number(self, name: str, default: float | None = None) -> float:
        found = self.get(name, default)
        if isinstance(found, Constant):
            return found.scalar
        if not isinstance(found, int | float):
            raise Unsupported(f"{name} is not a number")
        return float(found)

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.get(name, default))

    def sizes(self, name: str) -> Constant:
        """A list of sizes, some of which may depend on the batch, as an integer vector."""
        found = self.get(name)
        parts = [as_value(v, name) for v in (found if isinstance(found, tuple) else (found,))]
        if not all(isinstance(p, Constant) for p in parts):
            raise Unsupported(f"{name} depends on the input")
        constants = [p for p in parts if isinstance(p, Constant)]
        return Constant(
            first=np.asarray([int(c.first) for c in constants], dtype=np.int64),
            second=np.asarray([int(c.second) for c in constants], dtype=np.int64),
        )


def as_value(found: Any, name: str) -> Value:
    if isinstance(found, Flow | Constant):
        return found
    if isinstance(found, bool):
        return fixed(np.bool_(found))
    if isinstance(found, int):
        return fixed(np.int64(found))
    if isinstance(found, float):
        return fixed(np.float32(found))
    raise Unsupported(f"{name} is not a tensor")


def as_integer(found: Any, name: str) -> int:
    if isinstance(found, Constant):
        return int(found.fixed)
    if isinstance(found, bool) or not isinstance(found, int):
        raise Unsupported(f"{name} is not an integer")
    return found


Converter = Callable[[Call], Any]
"""From a call to its result, or a tuple of results. Raises Unsupported where our graph cannot express it."""
