"""One translation unit of portable C11, with GCC/Clang vector extensions, for one level."""

from __future__ import annotations

from dataclasses import dataclass

from ..certify.regions import RegionTree
from ..ir.graph import Graph, Op
from .abi import ABI_VERSION, MAX_ROWS, GuardBox
from .blob import Blob
from .guard_tree import print_guard_tree
from .kernels.prelude import prelude
from .levels import Level
from .lowering.lower import lower
from .program import Functions, Program
from .steps import plan

MAX_STAGED_FLOATS = 1 << 18
"""Outputs are kept back until all rows have been checked; a module takes fewer rows at a time where they are large."""

POSITIONED = frozenset({Op.CONV, Op.MAX_POOL, Op.AVERAGE_POOL, Op.MATMUL, Op.ATTENTION, Op.LSTM, Op.GRU})
"""Operators that have several positions in one row already."""


@dataclass(frozen=True, kw_only=True)
class Printed:
    """Source text and the bytes that it includes."""

    source: str
    weights: bytes


def is_flat(graph: Graph) -> bool:
    """Whether all matrices are applied to vectors: then several rows are worked on as one matrix."""
    matrices = [node for node in graph.nodes if node.op is Op.GEMM]
    return not any(node.op in POSITIONED for node in graph.nodes) and all(len(m.output.shape) == 1 for m in matrices)


def print_c(graph: Graph, guard: GuardBox, level: Level, *, regions: RegionTree | None = None) -> Printed:
    """Equal input gives equal bytes. Rows that lie in one of `regions` are answered by its code.

    Raises Unsupported where an operator cannot be compiled.
    """
    steps = plan(graph)
    functions, blob = Functions(), Blob()
    inputs, outputs = graph.input.size, graph.output.size
    lower_bound, upper_bound = blob.put(guard.lower.reshape(-1)), blob.put(guard.upper.reshape(-1))
    blocks = [lower(steps, graph, level, rows, functions, blob) for rows in _blocks(graph, level)]
    texts, totals = zip(*(program.printed() for program in blocks), strict=True)
    bodies = [_block(program, text) for program, text in zip(blocks, texts, strict=True)]
    scratch = max(totals)
    max_rows = max(1, min(MAX_ROWS, MAX_STAGED_FLOATS // outputs))
    staged = max_rows * outputs + level.lanes
    if regions is None:
        body = _all_rows(inputs, outputs, blocks)
    else:
        body = _rows_with_regions(inputs, outputs, blocks, covered=_covered(regions, guard))
    tree = print_guard_tree(regions, level, blob) if regions is not None else ""
    printed = functions.printed()
    parts = [
        prelude(level, printed + tree),
        _guard(inputs, lower_bound, upper_bound, level.lanes),
        printed,
        *bodies,
        FINITE,
        tree,
        _run(inputs, outputs, body, scratch, max_rows),
    ]
    meta = (
        f'{{\\"abi\\":{ABI_VERSION},\\"inputs\\":{inputs},\\"outputs\\":{outputs},\\"max_rows\\":{max_rows},'
        f'\\"scratch_bytes\\":{4 * (scratch + staged)},\\"level\\":\\"{level.name}\\"}}'
    )
    parts.append(f'__attribute__((visibility("default"))) const char *eco_meta(void) {{ return "{meta}"; }}\n')
    return Printed(source="\n".join(parts), weights=blob.content())


def _covered(regions: RegionTree, guard: GuardBox) -> bool:
    above = regions.lower >= guard.lower.reshape(-1)
    return bool((above & (regions.upper <= guard.upper.reshape(-1))).all())


def _blocks(graph: Graph, level: Level) -> list[int]:
    """Rows of each block that is printed, largest first."""
    return [level.rows, 1] if is_flat(graph) else [1]


def _block(program: Program, text: str) -> str:
    return (
        f"static void block_{program.rows}(const float *x, float *out, float *s) {{\n"
        f"{text}\n  (void)x; (void)out; (void)s;\n}}\n"
    )


def _guard(inputs: int, lower_bound: int, upper_bound: int, lanes: int) -> str:
    whole = inputs // lanes * lanes
    return f"""\
static int guard(const float *x) {{
  const float *lo = eco_weights + {lower_bound}, *hi = eco_weights + {upper_bound};
  vi ok = ~(vi){{0}};
  for (int i = 0; i < {whole}; i += LANES) {{
    v a = LOADU(x + i);
    ok &= (a >= LOADU(lo + i)) & (a <= LOADU(hi + i));
  }}
  int32_t all = -1;
  for (int i = 0; i < LANES; i++) all &= ok[i];
  for (int i = {whole}; i < {inputs}; i++) all &= -((x[i] >= lo[i]) & (x[i] <= hi[i]));
  return all != 0;
}}
"""


def _loops(inputs: int, outputs: int, blocks: list[Program], end: str) -> str:
    """The dense code for all rows from r to `end`."""
    return "\n".join(
        f"  for (; r + {p.rows} <= {end}; r += {p.rows}) block_{p.rows}(x + r * {inputs}, out + r * {outputs}, s);"
        for p in blocks
    )


def _all_rows(inputs: int, outputs: int, blocks: list[Program]) -> str:
    """Statements that compute `out` for n rows, or return with a reason."""
    return f"""\
{_GUARDED.format(inputs=inputs)}
  int64_t r = 0;
{_loops(inputs, outputs, blocks, "n")}
  if (!finite(out, n * {outputs})) return *reason = 3;"""


def _rows_with_regions(inputs: int, outputs: int, blocks: list[Program], *, covered: bool) -> str:
    """The same where code of regions answers what it can. `covered`: all regions lie in the guard's box.

    Then a row that a region answers needs no second look: it has passed a narrower test, and its output is proven to be
    finite.
    """
    return f"""\
{"" if covered else _GUARDED.format(inputs=inputs)}
  for (int64_t r = 0; r < n;) {{
    const int32_t found = route(x + r * {inputs});
    if (found >= 0) {{
      answer(x + r * {inputs}, out + r * {outputs}, found);
      r++;
      continue;
    }}
    const int64_t first = r;
    int64_t end = r + 1;
    while (end < n && route(x + end * {inputs}) < 0) end++;
    for (int64_t k = r; k < end; k++)
      if (!guard(x + k * {inputs})) return *reason = 1;
{_loops(inputs, outputs, blocks, "end")}
    if (!finite(out + first * {outputs}, (end - first) * {outputs})) return *reason = 3;
  }}"""


_GUARDED = """\
  for (int64_t r = 0; r < n; r++)
    if (!guard(x + r * {inputs})) return *reason = 1;"""


FINITE = """\
static int finite(const float *p, int64_t n) {
  vi bad = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) { const v z = LOADU(p + i) * 0.0f; bad |= z != z; }
  int32_t any = 0;
  for (int l = 0; l < LANES; l++) any |= bad[l];
  for (; i < n; i++) { const float z = p[i] * 0.0f; any |= z != z; }
  return any == 0;
}
"""


def _run(inputs: int, outputs: int, body: str, scratch: int, max_rows: int) -> str:
    return f"""\
__attribute__((visibility("default")))
int eco_run(const float *x, float *y, int64_t n, void *scratch, uint32_t *reason) {{
  float *s = scratch, *out = s + {scratch};
  if (n < 1 || n > {max_rows}) return *reason = 2;
{body}
  if (n == 1) __builtin_memcpy(y, out, {4 * outputs});
  else memcpy(y, out, n * {4 * outputs});
  return *reason = 0;
}}
"""
