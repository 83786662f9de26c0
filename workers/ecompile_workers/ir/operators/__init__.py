"""The table of operators: operands, settings, shape rule, float64 evaluation and cost of each, by family."""

from __future__ import annotations

from typing import Any

from ..op import Op
from . import convolution, dense, elementwise, normalization, recurrent, reductions, shaping
from .spec import Operator, Shape, ShapeError, Values

OPERATORS: dict[Op, Operator[Any]] = {
    **dense.TABLE,
    **convolution.TABLE,
    **normalization.TABLE,
    **elementwise.TABLE,
    **reductions.TABLE,
    **shaping.TABLE,
    **recurrent.TABLE,
}
"""Every operator but OPAQUE."""

__all__ = ["OPERATORS", "Operator", "Shape", "ShapeError", "Values"]
