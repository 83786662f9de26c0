"""A guard tree and the reduced networks of its regions as C.

Small regions are straight-line code: no branch is left to mispredict. Larger ones are data that one routine walks, so
that a hundred regions compile in no time. A region's data is, for each step, a header of `HEADER` int32 (inputs,
vectors of outputs, place of its inputs and outputs in the state, whether a ReLU follows, whether it is the last) and
its numbers: bias, then weights, outputs innermost and padded to full vectors. What a store leaves past the last unit
is overwritten by the next step before it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import numpy as np

from ..certify.reduction import Step
from ..certify.regions import Hit, Miss, RegionTree, Split, TreeNode
from ..ir.graph import Array
from .blob import Blob
from .levels import Level

HEADER = 16
"""int32 before each step: one cache line, so that what follows is aligned."""
BLOCKS = ((4, 2), (2, 2), (1, 4))
"""Vectors of outputs and chains of k that are worked on at a time: they hide the latency of a fused multiply-add and
fit 16 registers."""
STRAIGHT_VECTORS = 320
"""Vectors of weights up to which a region is straight-line code: about 4 KiB of it."""


def print_guard_tree(tree: RegionTree, level: Level, blob: Blob) -> str:
    """static int32_t route(x): the region of a row, or -1 where the dense code has to answer.
    static void answer(x, out, region): one row by that code. It stores full vectors at `out`, so rows go in order.
    """
    inputs = tree.lower.size
    places = [blob.put(_region(region.steps, tree, level)) for region in tree.regions]
    box = blob.put(np.concatenate([tree.lower, tree.upper]).astype(np.float32))
    nodes = blob.put(_nodes(tree.nodes))
    small = [index for index, region in enumerate(tree.regions) if _vectors(region.steps, level) <= STRAIGHT_VECTORS]
    straight = [_straight(index, tree, places[index], level) for index in small]
    state = max(_state_size(region.steps, inputs, level) for region in tree.regions)
    blocks = "\n".join(_block(width, chains) for width, chains in BLOCKS)
    walk = TEXT.format(inputs=inputs, box=box, nodes=nodes, state=state, header=HEADER, blocks=blocks)
    return "\n".join([walk, *straight, _answer(small, places)])


def _answer(small: Sequence[int], places: Sequence[int]) -> str:
    cases = "".join(f"    case {index}: region_{index}(x, out); return;\n" for index in small)
    return (
        f"static const int32_t places[] = {{{', '.join(map(str, places))}}};\n"
        "static void answer(const float *x, float *out, int32_t region) {\n"
        f"  switch (region) {{\n{cases}    default: walk(x, out, eco_weights + places[region]);\n  }}\n}}\n"
    )


def _vectors(steps: Sequence[Step], level: Level) -> int:
    return sum(len(step.weight) * -(-step.bias.size // level.lanes) for step in steps)


def _straight(index: int, tree: RegionTree, place: int, level: Level) -> str:
    """static void region_<index>(x, out): all steps of a region without a loop, in four chains of k."""
    inputs, steps = tree.lower.size, tree.regions[index].steps
    lines = [
        f"static void region_{index}(const float *x, float *out) {{",
        f"  const float *p = eco_weights + {place};",
        f"  float s[{_state_size(steps, inputs, level)}] __attribute__((aligned(64)));",
    ]
    at, size = 0, inputs
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        length, pitch = len(step.weight), _padded(step.bias.size, level)
        at += HEADER
        for n in range(pitch // level.lanes):
            chains = ["(v){0}"] * min(4, length)
            chains[0] = f"LOAD(p + {at + n * level.lanes})"
            for k in range(length):
                value = f"x[{step.start + k}]" if step.start + k < inputs else f"s[{step.start + k - inputs}]"
                term = f"LOAD(p + {at + (k + 1) * pitch + n * level.lanes}) * {value}"
                chains[k % len(chains)] += f" + {term}"
            lines += [f"  {{ const v {', '.join(f'c{i} = {text}' for i, text in enumerate(chains))};"]
            total = " + ".join(f"c{i}" for i in range(len(chains)))
            total = f"e_relu({total})" if not last or tree.last_relu else total
            target = f"out + {n * level.lanes}" if last else f"s + {size - inputs + n * level.lanes}"
            lines.append(f"    STOREU({target}, {total}); }}")
        at += -(-(length + 1) * pitch // HEADER) * HEADER
        size += step.bias.size
    return "\n".join([*lines, "  (void)s;", "}", ""])


def _block(width: int, chains: int) -> str:
    """As many times `width` vectors of outputs as there are, k split into chains that are added in the end."""
    vectors, parts = range(width), range(chains)

    def add(chain: int) -> list[str]:
        at = "" if chain == 0 else f" + {chain} * pitch"
        loads = [f"LOAD(w{at} + {n} * LANES)" for n in vectors]
        return [f"        a{n}_{chain} += {loads[n]} * e[k + {chain}];" for n in vectors]

    starts = [
        f"a{n}_{c} = {f'LOAD(w + {n} * LANES)' if c == 0 else '(v){0}'}"  # The bias comes before the weights.
        for n in vectors
        for c in parts
    ]
    lines = [
        f"    for (; n + {width} <= vectors; n += {width}) {{",
        "      const float *w = p + n * LANES;",
        f"      v {', '.join(starts)};",
        "      w += pitch;",
        "      int k = 0;",
        f"      for (; k + {chains} <= length; k += {chains}, w += {chains} * pitch) {{",
        *(line for chain in parts for line in add(chain)),
        "      }",
        "      for (; k < length; k++, w += pitch) {",
        *add(0),
        "      }",
    ]
    for n in vectors:
        total = " + ".join(f"a{n}_{c}" for c in parts)
        lines.append(f"      STOREU(to + (n + {n}) * LANES, relu ? e_relu({total}) : {total});")
    return "\n".join([*lines, "    }"])


def _padded(count: int, level: Level) -> int:
    return -(-count // level.lanes) * level.lanes


def _state_size(steps: Sequence[Step], inputs: int, level: Level) -> int:
    """Floats, with room for the padding of the last unit."""
    return _padded(inputs + sum(step.bias.size for step in steps), level) + level.lanes


def _nodes(nodes: Sequence[TreeNode]) -> Array:
    """Four 32-bit words a node: threshold, feature, left, right. Feature -1 is an end: `left` is the region, or -1."""
    words = np.zeros((len(nodes), 4), dtype=np.int32)
    for index, node in enumerate(nodes):
        match node:
            case Split():
                threshold = np.array(node.threshold, dtype=np.float32).view(np.int32)
                words[index] = (int(threshold), node.feature, node.left, node.right)
            case Hit():
                words[index] = (0, -1, node.region, 0)
            case Miss():
                words[index] = (0, -1, -1, 0)
            case _:
                assert_never(node)
    return words.reshape(-1).view(np.float32)


def _region(steps: Sequence[Step], tree: RegionTree, level: Level) -> Array:
    """Steps one after the other, the last one marked."""
    parts = []
    size = tree.lower.size
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        length, units = step.weight.shape
        wide = np.zeros((length + 1, _padded(units, level)), dtype=np.float32)
        wide[0, :units] = step.bias
        wide[1:, :units] = step.weight
        header = np.zeros(HEADER, dtype=np.int32)
        header[:6] = (length, wide.shape[1] // level.lanes, step.start, size, not last or tree.last_relu, last)
        numbers = wide.reshape(-1)
        gap = np.zeros(-numbers.size % HEADER, dtype=np.float32)
        parts += [header.view(np.float32), numbers, gap]
        size += units
    return np.concatenate(parts)


TEXT = """\
static int32_t route(const float *x) {{
  const float *lo = eco_weights + {box}, *hi = lo + {inputs};
  int inside = 1;
  for (int i = 0; i < {inputs}; i++) inside &= (x[i] >= lo[i]) & (x[i] <= hi[i]);
  if (!inside) return -1;
  const float *nodes = eco_weights + {nodes};
  for (int32_t at = 0;;) {{
    const float *node = nodes + 4 * at;
    int32_t w[4];
    __builtin_memcpy(w, node, sizeof w);
    if (w[1] < 0) return w[2];
    at = x[w[1]] <= node[0] ? w[2] : w[3];
  }}
}}
static void walk(const float *x, float *out, const float *p) {{
  float s[{state}] __attribute__((aligned(64)));
  for (int i = 0; i < {inputs}; i++) s[i] = x[i];
  for (;;) {{
    int32_t h[6];
    __builtin_memcpy(h, p, sizeof h);
    const int length = h[0], vectors = h[1], relu = h[4], last = h[5];
    const float *e = s + h[2];
    const long pitch = (long)vectors * LANES;
    float *to = last ? out : s + h[3];
    p += {header};
    int n = 0;
{blocks}
    if (last) return;
    p += ((length + 1) * pitch + {header} - 1) / {header} * {header};
  }}
}}
"""
