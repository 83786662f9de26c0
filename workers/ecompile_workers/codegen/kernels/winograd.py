"""Winograd's F(2x2, 3x3): 3x3 convolutions with 2.25 times fewer multiplications (Lavin and Gray, arXiv:1509.09308).

Y = A^T [(G g G^T) * (B^T d B)] A for 2x2 outputs from 4x4 inputs. The products are 16 matrix products over tiles.
Channels are in vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.graph import Array

POINTS = 16
"""Elements of a transformed tile."""
LINE = 16
"""Floats of a cache line."""
G = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """A block of 2x2 output tiles; steps in floats."""

    rows: int
    columns: int

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def plane(self, channels: int) -> int:
        """Floats from one point's products to the next: a cache line more than a power of two may be, or all points of
        a tile would fall into one set of the cache."""
        return self.count * channels + LINE


def transformed_weights(kernel: Array) -> Array:
    """[outputs, channels, 3, 3] -> G g G^T as [16, channels, outputs], computed in float64."""
    moved = np.einsum("ik,ockl,jl->ijco", G, kernel.astype(np.float64), G)
    return np.ascontiguousarray(moved.reshape(POINTS, kernel.shape[1], kernel.shape[0]), dtype=np.float32)


def print_input(tiles: Tiles, steps: tuple[int, int], channels: int, *, lanes: int) -> str:
    """static void @(x, y): B^T d B of each tile; y is [16, tiles, channels]. Channels are whole vectors."""
    row, column = steps
    plane = tiles.plane(channels)
    lines = [
        "static void @(const float *restrict x, float *restrict y) {",
        f"  for (int i = 0; i < {tiles.rows}; i++) for (int j = 0; j < {tiles.columns}; j++)",
        f"  for (int c = 0; c < {channels}; c += LANES) {{",
        f"    const float *p = x + (long)i * {2 * row} + (long)j * {2 * column} + c;",
        f"    float *q = y + (long)(i * {tiles.columns} + j) * {channels} + c;",
    ]
    for j in range(4):
        for i in range(4):
            lines.append(f"    const v d{i}{j} = LOADU(p + {i * row + j * column});")
        lines.append(f"    const v t0{j} = d0{j} - d2{j}, t1{j} = d1{j} + d2{j};")
        lines.append(f"    const v t2{j} = d2{j} - d1{j}, t3{j} = d1{j} - d3{j};")
    for i in range(4):
        results = (f"t{i}0 - t{i}2", f"t{i}1 + t{i}2", f"t{i}2 - t{i}1", f"t{i}1 - t{i}3")
        lines += [f"    STOREU(q + {(4 * i + j) * plane}, {value});" for j, value in enumerate(results)]
    return "\n".join([*lines, "  }", "}", ""])


def print_output(
    tiles: Tiles,
    steps: tuple[int, int],
    outputs: int,
    *,
    residual: tuple[int, int] | None,
    activation: str,
    lanes: int,
) -> str:
    """static void @(x, b, [residual,] y): A^T m A of each tile, bias, residual and activation."""
    row, column = steps
    plane = tiles.plane(outputs)
    argument = "const float *restrict r, " if residual else ""
    lines = [
        f"static void @(const float *restrict x, const float *restrict b, {argument}float *restrict y) {{",
        f"  for (int i = 0; i < {tiles.rows}; i++) for (int j = 0; j < {tiles.columns}; j++)",
        f"  for (int c = 0; c < {outputs}; c += LANES) {{",
        f"    const float *p = x + (long)(i * {tiles.columns} + j) * {outputs} + c;",
        f"    float *q = y + (long)i * {2 * row} + (long)j * {2 * column} + c;",
        "    const v bias = LOAD(b + c);",
    ]
    if residual:
        lines.append(f"    const float *s = r + (long)i * {2 * residual[0]} + (long)j * {2 * residual[1]} + c;")
    for j in range(4):
        for i in range(4):
            lines.append(f"    const v m{i}{j} = LOADU(p + {(4 * i + j) * plane});")
        lines.append(f"    const v t0{j} = m0{j} + m1{j} + m2{j}, t1{j} = m1{j} - m2{j} - m3{j};")
    for i in range(2):
        for j, value in enumerate((f"t{i}0 + t{i}1 + t{i}2", f"t{i}1 - t{i}2 - t{i}3")):
            total = f"({value} + bias)"
            if residual:
                total = f"({total} + LOADU(s + {i * residual[0] + j * residual[1]}))"
            lines.append(f"    STOREU(q + {i * row + j * column}, {activation.format(total)});")
    return "\n".join([*lines, "  }", "}", ""])
