"""Elementwise work over strided operands: one loop per axis, the innermost one in vectors."""

from __future__ import annotations

from collections.abc import Sequence


def print_map(sizes: Sequence[int], steps: Sequence[Sequence[int]], expression: str, *, lanes: int) -> str:
    """static void @(a0, a1, ..., y): y = expression over all axes.

    `steps`: floats per axis for each operand, the output last. `{0}`, `{1}` in the expression are the operands.
    """
    inner = _innermost(sizes, steps[-1])
    outer = [axis for axis in range(len(sizes)) if axis != inner]
    operands = [f"a{n}" for n in range(len(steps) - 1)]
    arguments = ", ".join([*(f"const float *restrict {name}" for name in operands), "float *restrict y"])
    lines = [f"static void @({arguments}) {{"]
    for axis in outer:
        lines.append(f"  for (int i{axis} = 0; i{axis} < {sizes[axis]}; i{axis}++)")
    lines.append("  {")
    for name, each in zip([*operands, "y"], steps, strict=True):
        offset = " + ".join(f"(long)i{axis} * {each[axis]}" for axis in outer if each[axis])
        kind = "float" if name == "y" else "const float"
        lines.append(f"    {kind} *{name}_ = {name}{f' + {offset}' if offset else ''};")
    size = sizes[inner] if sizes else 1
    strides = [each[inner] if sizes else 0 for each in steps]
    whole = size // lanes * lanes
    if whole:
        values = [_load(f"{name}_", stride, "i", lanes, lanes) for name, stride in zip(operands, strides, strict=False)]
        store = _store(strides[-1], "i", expression.format(*values), lanes, lanes)
        lines.append(f"    for (int i = 0; i < {whole}; i += LANES) {store}")
    if size > whole:
        rest = size - whole
        values = [_load(f"{name}_", s, str(whole), rest, lanes) for name, s in zip(operands, strides, strict=False)]
        lines.append(f"    {_store(strides[-1], str(whole), expression.format(*values), rest, lanes)}")
    return "\n".join([*lines, "  }", "}", ""])


def _innermost(sizes: Sequence[int], output: Sequence[int]) -> int:
    """The axis along which the output is contiguous; the last one where there is none."""
    found = [axis for axis, step in enumerate(output) if step == 1]
    return found[-1] if found else len(sizes) - 1


def _load(pointer: str, stride: int, index: str, count: int, lanes: int) -> str:
    if stride == 0:
        return f"e_splat(*{pointer})"
    if stride != 1:
        return f"e_gather({pointer} + (long)({index}) * {stride}, {stride}, {count})"
    return f"LOADU({pointer} + {index})" if count == lanes else f"e_loadn({pointer} + {index}, {count}, 0.0f)"


def _store(stride: int, index: str, value: str, count: int, lanes: int) -> str:
    if stride not in (0, 1):
        return f"e_scatter(y_ + (long)({index}) * {stride}, {value}, {stride}, {count});"
    return f"STOREU(y_ + {index}, {value});" if count == lanes else f"e_storen(y_ + {index}, {value}, {count});"


def print_fill(count: int, value: float) -> str:
    """static void @(y): `count` times a value."""
    return f"static void @(float *y) {{ for (long i = 0; i < {count}; i++) y[i] = {literal(value)}; }}\n"


def literal(value: float) -> str:
    """A float constant in C that reads back as the same float32."""
    if value == float("inf"):
        return "__builtin_inff()"
    if value == float("-inf"):
        return "-__builtin_inff()"
    if value != value:
        return '__builtin_nanf("")'
    return f"{value:.9g}f" if "." in f"{value:.9g}" or "e" in f"{value:.9g}" else f"{value:.9g}.0f"
