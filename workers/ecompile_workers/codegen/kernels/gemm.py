"""Matrix products over positions, with convolutions among them: y[o, i, :] = act(W x[o, i, :] + b + residual).

Weights are packed in panels of a few vectors of outputs: panel p holds, for each k, the weights of its outputs. A tile
of positions takes one panel at a time with named accumulators, as many as the level has registers for. A single row
takes several panels at a time, and where the outputs are few splits k into chains: enough accumulators to hide the
latency of a fused multiply-add. A tile adds the same chains one after the other, so that a row gets the same bits
whether it is alone or among others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.graph import Array
from ..levels import Level

LATENCY = 4.0
"""Cycles of a fused multiply-add; two are started in each."""
ENOUGH_ACCUMULATORS = 8
LEAST_CHAIN = 8
"""Elements of k that a chain has at least."""


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """Shape of a product; steps are in floats."""

    outer: int
    inner: int
    x_steps: tuple[int, int]
    y_steps: tuple[int, int]
    residual_steps: tuple[int, int] | None = None
    runs: tuple[tuple[int, int], ...] = ()
    """Nested (count, step) of runs of k, outermost first: the rows and columns of a convolution's window."""
    length: int
    """Contiguous elements in a run."""
    outputs: int
    chains: int = 1
    activation: str = "{}"

    @property
    def depth(self) -> int:
        """Elements of k in all."""
        total = self.length
        for count, _ in self.runs:
            total *= count
        return total


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Positions and vectors of outputs that are worked on at a time."""

    rows: int
    vectors: int


def vectors_of(outputs: int, level: Level) -> int:
    return -(-outputs // level.lanes)


def choose_tile(level: Level, positions: int, outputs: int) -> Tile:
    """The tile with the fewest cycles: bound by multiply-adds, loads or latency, whichever is most."""
    total = vectors_of(outputs, level)

    def step(rows: int, vectors: int) -> float:
        return max(rows * vectors / 2, (rows + vectors) / 2, LATENCY)

    def cycles(tile: Tile) -> float:
        panels = [tile.vectors] * (total // tile.vectors) + [total % tile.vectors] * (total % tile.vectors > 0)
        tiles = [tile.rows] * (positions // tile.rows) + [positions % tile.rows] * (positions % tile.rows > 0)
        return sum(step(rows, vectors) for rows in set(tiles) for vectors in panels for _ in range(tiles.count(rows)))

    options = [
        Tile(rows=rows, vectors=vectors)
        for vectors in range(1, min(4, total) + 1)
        for rows in range(1, positions + 1)
        if rows * vectors + vectors + 1 <= level.registers
    ]
    return min(options, key=lambda tile: (cycles(tile), -tile.rows * tile.vectors))


def choose_chains(level: Level, depth: int, outputs: int) -> int:
    """How many chains k is split into, so that one row alone has enough accumulators."""
    wanted = -(-ENOUGH_ACCUMULATORS // vectors_of(outputs, level))
    return max(1, min(wanted, depth // LEAST_CHAIN))


def panel_widths(level: Level, outputs: int, vectors: int) -> list[int]:
    """Vectors of each panel; the last one may be narrower."""
    total = vectors_of(outputs, level)
    return [vectors] * (total // vectors) + ([total % vectors] if total % vectors else [])


def pack(weight: Array, level: Level, vectors: int) -> Array:
    """[depth, outputs] -> panels one after the other, each [depth, its vectors * lanes], outputs padded with zeros."""
    depth, outputs = weight.shape
    wide = np.zeros((depth, vectors_of(outputs, level) * level.lanes), dtype=np.float32)
    wide[:, :outputs] = weight
    parts, start = [], 0
    for width in panel_widths(level, outputs, vectors):
        stop = start + width * level.lanes
        parts.append(np.ascontiguousarray(wide[:, start:stop]).reshape(-1))
        start = stop
    return np.concatenate(parts)


def padded_bias(bias: Array, level: Level) -> Array:
    wide = np.zeros(vectors_of(bias.size, level) * level.lanes, dtype=np.float32)
    wide[: bias.size] = bias
    return wide


def print_gemm(gemm: Gemm, tile: Tile, level: Level) -> str:
    """static void @(x, w, b, [residual,] y)."""
    residual = "const float *restrict r, " if gemm.residual_steps else ""
    lines = [
        "static void @(const float *restrict x, const float *restrict w, const float *restrict b, "
        f"{residual}float *restrict y) {{"
    ]
    widths = panel_widths(level, gemm.outputs, tile.vectors)
    alone = gemm.outer * gemm.inner == 1 and not gemm.runs
    full = sum(width == tile.vectors for width in widths)
    if alone:
        together = max(1, min(full, -(-ENOUGH_ACCUMULATORS // (tile.vectors * gemm.chains))))
        lines += _panels(gemm, level, full // together, [tile.vectors] * together, tile, alone=True)
        rest = [tile.vectors] * (full % together) + widths[full:]
        lines += _panels(gemm, level, 1, rest, tile, alone=True) if rest else []
    else:
        lines += _panels(gemm, level, full, [tile.vectors], tile, alone=False)
        lines += _panels(gemm, level, 1, widths[full:], tile, alone=False) if widths[full:] else []
    return "\n".join([*lines, "}", ""])


def _panels(gemm: Gemm, level: Level, count: int, widths: list[int], tile: Tile, *, alone: bool) -> list[str]:
    """`count` times the panels of `widths` together."""
    if count == 0:
        return []
    lanes = sum(widths) * level.lanes
    steps = [f"w += {lanes * gemm.depth}", f"b += {lanes}", f"y += {lanes}"]
    steps += [f"r += {lanes}"] if gemm.residual_steps else []
    lines = [f"  for (int p = 0; p < {count}; p++, {', '.join(steps)}) {{"]
    lines += _row(gemm, level, widths) if alone else _positions(gemm, level, widths[0], tile.rows)
    return [*lines, "  }"]


def _positions(gemm: Gemm, level: Level, vectors: int, rows: int) -> list[str]:
    """All positions for one panel."""
    xo, xi = gemm.x_steps
    yo, yi = gemm.y_steps
    ro, ri = gemm.residual_steps or (0, 0)
    has = gemm.residual_steps is not None
    lines = ["    const float *xo = x; float *yo = y;"]
    lines += ["    const float *ro = r;"] if has else []
    lines.append(
        f"    for (int o = 0; o < {gemm.outer}; o++, xo += {xo}, yo += {yo}{f', ro += {ro}' if has else ''}) {{"
    )
    lines.append("      const float *xi = xo; float *yi = yo;")
    lines += ["      const float *ri = ro;"] if has else []
    whole, rest = divmod(gemm.inner, rows)
    if whole:
        step = f"xi += {rows * xi}, yi += {rows * yi}" + (f", ri += {rows * ri}" if has else "")
        lines.append(f"      for (int i = 0; i < {whole}; i++, {step}) {{")
        lines += _tile(gemm, level, vectors, rows)
        lines.append("      }")
    if rest:
        lines += ["      {", *_tile(gemm, level, vectors, rest), "      }"]
    return [*lines, "    }"]


def chain_bounds(depth: int, chains: int) -> list[tuple[int, int]]:
    """Range of k of each chain: equal, the last one takes what is left."""
    size = depth // chains
    return [(c * size, depth if c == chains - 1 else (c + 1) * size) for c in range(chains)]


def _tile(gemm: Gemm, level: Level, vectors: int, rows: int) -> list[str]:
    """`rows` positions of one panel; chains one after the other."""
    names = [(m, n) for m in range(rows) for n in range(vectors)]
    lines: list[str] = []
    for number, (start, stop) in enumerate(chain_bounds(gemm.length, gemm.chains) if not gemm.runs else [(0, 0)]):
        lines.append("        {")
        for m, n in names:
            lines.append(f"        v a{m}_{n} = {f'LOAD(b + {n * level.lanes})' if number == 0 else '(v){0}'};")
        lines += _walk(gemm, level, vectors, rows, start, stop)
        for m, n in names:
            place = f"{m * gemm.y_steps[1] + n * level.lanes}"
            total = f"a{m}_{n}" if number == 0 else f"LOADU(yi + {place}) + a{m}_{n}"
            if number == gemm.chains - 1:
                total = _finished(gemm, total, f"ri + {m * (gemm.residual_steps or (0, 0))[1] + n * level.lanes}")
            lines.append(f"        STOREU(yi + {place}, {total});")
        lines.append("        }")
    return lines


def _finished(gemm: Gemm, total: str, residual: str) -> str:
    if gemm.residual_steps:
        total = f"{total} + LOADU({residual})"
    return gemm.activation.format(total)


def _walk(gemm: Gemm, level: Level, vectors: int, rows: int, start: int, stop: int) -> list[str]:
    """Multiply and add along k."""
    width = vectors * level.lanes
    lines = [f"        const float *wk = w + {start * width};"]
    pointer = "xi"
    for depth, (count, step) in enumerate(gemm.runs):
        inner = f"x{depth}_"
        lines.append(f"        const float *{inner} = {pointer};")
        lines.append(f"        for (int k{depth}_ = 0; k{depth}_ < {count}; k{depth}_++, {inner} += {step}) {{")
        pointer = inner
    begin, end = (0, gemm.length) if gemm.runs else (start, stop)
    lines.append(f"        for (int k = {begin}; k < {end}; k++, wk += {width}) {{")
    lines += [f"          const v u{n} = LOAD(wk + {n * level.lanes});" for n in range(vectors)]
    for m in range(rows):
        lines.append(f"          {{ const float e = {pointer}[{m * gemm.x_steps[1]} + k];")
        lines += [f"            a{m}_{n} += u{n} * e;" for n in range(vectors)]
        lines.append("          }")
    lines.append("        }")
    return lines + ["        }"] * len(gemm.runs)


def _row(gemm: Gemm, level: Level, widths: list[int]) -> list[str]:
    """One row: several panels and all chains at a time."""
    bounds = chain_bounds(gemm.length, gemm.chains)
    size = bounds[0][1]
    vectors: list[tuple[int, int, int]] = []
    """(start of the panel, its width, place in it) of each vector, in floats."""
    start = 0
    for width in widths:
        vectors += [(start, width * level.lanes, n * level.lanes) for n in range(width)]
        start += width * level.lanes * gemm.depth
    lines = []
    for n in range(len(vectors)):
        for c in range(gemm.chains):
            lines.append(f"    v a{n}_{c} = {f'LOAD(b + {n * level.lanes})' if c == 0 else '(v){0}'};")

    def step(chain: int, k: str) -> list[str]:
        found = [f"      {{ const float e = x[{k}];"]
        for n, (panel, width, place) in enumerate(vectors):
            found.append(f"        a{n}_{chain} += LOAD(w + {panel + place} + (long)({k}) * {width}) * e;")
        return [*found, "      }"]

    lines.append(f"    for (int k = 0; k < {size}; k++) {{")
    for c, (begin, _) in enumerate(bounds):
        lines += step(c, f"k + {begin}")
    lines.append("    }")
    last, end = bounds[-1]
    if last + size < end:
        lines += [f"    for (int k = {last + size}; k < {end}; k++) {{", *step(gemm.chains - 1, "k"), "    }"]
    for n in range(len(vectors)):
        total = " + ".join(f"a{n}_{c}" for c in range(gemm.chains))
        lines.append(f"    STOREU(y + {n * level.lanes}, {_finished(gemm, total, f'r + {n * level.lanes}')});")
    return lines
