"""An exported program as plain data, whether it comes from a file or from a live module. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import DType, Tensor
from ..importing.values import AnyArray


@dataclass(frozen=True)
class Reference:
    """A value by its name."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call. Arguments are named as in ATen's schema: numbers, text, None, references, and tuples of them."""

    target: str
    arguments: Mapping[str, Any]
    outputs: tuple[str | tuple[str, ...], ...]
    """A tuple of names where a result is a list of tensors."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """Calls in order of execution."""

    name: str
    """Of the file or module, for messages."""
    sources: tuple[Tensor, ...]
    static_batch: int | None
    """The batch size, where it is not symbolic."""
    constants: Mapping[str, tuple[AnyArray, str]]
    """Parameters, buffers and constants: value, and name in the module."""
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    """Shapes behind the batch of all tensors whose shapes are fixed."""


SCALAR_TYPES: dict[int, type[np.generic]] = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float16, 7: np.float32, 8: np.float64,
    12: np.bool_,
}  # fmt: skip
"""`ScalarType` of torch's export schema (torch/_export/serde/schema.py)."""
SCALAR_NAMES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float16": 6, "float32": 7, "float64": 8,
                "bool": 12}  # fmt: skip
DTYPES = {4: DType.INT64, 5: DType.INT64, 7: DType.FLOAT32, 12: DType.BOOL}
CONTROL_FLOW = ("cond", "while_loop", "scan", "map_impl", "associative_scan")
