"""Packing a matrix that is computed at run time into panels, as weights are packed when code is made."""

from __future__ import annotations

from collections.abc import Sequence

from .maps import literal


def print_pack(
    depth: int, outputs: int, steps: tuple[int, int], widths: Sequence[int], *, scale: float, lanes: int
) -> str:
    """static void @(x, y): y is panels of scale * x[k * steps[0] + n * steps[1]], zeros past the last output."""
    along_k, along_n = steps
    factor = f" * {literal(scale)}" if scale != 1 else ""
    lines = ["static void @(const float *restrict x, float *restrict y) {"]
    start = 0
    for width in widths:
        lines.append(f"  for (int k = 0; k < {depth}; k++, y += {width * lanes}) {{")
        for n in range(width):
            first = start + n * lanes
            count = min(lanes, outputs - first)
            place = f"x + (long)k * {along_k} + {first * along_n}"
            if along_n == 1:
                load = f"LOADU({place})" if count == lanes else f"e_loadn({place}, {count}, 0.0f)"
            else:
                load = f"e_gather({place}, {along_n}, {count})"
            lines.append(f"    STOREU(y + {n * lanes}, {load}{factor});")
        lines.append("  }")
        start += width * lanes
    return "\n".join([*lines, "}", ""])
