"""One ONNX node with its operands looked up: what a converter sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import Array
from ..importing.builder import Builder
from ..importing.values import Constant, Flow, Unsupported, Value, fixed, weight


@dataclass(frozen=True, kw_only=True)
class Call:
    """A node. Operands that are left out are None."""

    builder: Builder
    operator: str
    opset: int
    operands: Sequence[Value | None]
    attributes: dict[str, Any]
    outputs: Sequence[str]
    """Names; empty where an output is not wanted."""

    def operand(self, index: int) -> Value | None:
        return self.operands[index] if index < len(self.operands) else None

    def value(self, index: int) -> Value:
        found = self.operand(index)
        if found is None:
            raise Unsupported(f"operand {index} is missing")
        return found

    def flow(self, index: int = 0) -> Flow:
        found = self.value(index)
        if not isinstance(found, Flow):
            raise Unsupported(f"operand {index} is constant")
        return found

    def constant(self, index: int) -> Constant:
        found = self.value(index)
        if not isinstance(found, Constant):
            raise Unsupported(f"operand {index} is not constant")
        return found

    def weight(self, index: int) -> Array:
        return weight(self.constant(index), f"operand {index} of {self.operator}")

    def optional_weight(self, index: int) -> Array | None:
        return None if self.operand(index) is None else self.weight(index)

    def integer(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        return [int(v) for v in self.attributes.get(name, default)]

    def number(self, name: str, default: float) -> float:
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        found = self.attributes.get(name, default)
        return found.decode() if isinstance(found, bytes) else str(found)

    def told(self, name: str, index: int) -> Constant | None:
        """A setting that was an attribute in old opsets and is an operand in newer ones."""
        if name in self.attributes:
            return fixed(np.asarray(self.attributes[name], dtype=np.int64))
        return None if self.operand(index) is None else self.constant(index)


Converter = Callable[[Call], Value | Sequence[Value | None]]
"""From a node to its outputs. Raises Unsupported where our graph cannot express it."""
