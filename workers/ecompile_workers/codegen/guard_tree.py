"""A guard tree and the reduced networks of its regions as C: data that one small routine walks.

Data rather than code per region: a hundred regions stay a few hundred kilobytes, compile in no time, and share the
branch predictor. A region is, for each step, a header of `HEADER` int32 (inputs, vectors of outputs, place of its
inputs and outputs in the state, whether a ReLU follows) and its numbers: bias, then weights, outputs innermost and
padded to full vectors. Padding is zero, so what a store leaves past the last unit is never read as a unit: the next
step overwrites it.
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
"""Vectors of outputs and chains of k that are worked on at a time: they hide the latency of a fused multiply-add and fit
16 registers. Most regions have a few units per step and few k: more chains only lengthen the end (measured)."""


def print_guard_tree(tree: RegionTree, level: Level, blob: Blob) -> str:
    """static int32_t route(x): where the code of the row's region lies, or -1 where the dense code has to answer.
    static void answer(x, out, place): one row by that code. It stores full vectors at `out`, so rows go in order.
    """
    inputs = tree.lower.size
    places = [blob.put(_region(region.steps, tree, level)) for region in tree.regions]
    box = blob.put(np.concatenate([tree.lower, tree.upper]).astype(np.float32))
    nodes = blob.put(_nodes(tree.nodes, places))
    state = max(_state_size(region.steps, inputs, level) for region in tree.regions)
    blocks = "\n".join(_block(width, chains) for width, chains in BLOCKS)
    return TEXT.format(inputs=inputs, box=box, nodes=nodes, state=state, header=HEADER, blocks=blocks)


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


def _nodes(nodes: Sequence[TreeNode], places: Sequence[int]) -> Array:
    """Four 32-bit words a node: threshold, feature, left, right. Feature -1 is an end: `left` is the region's place."""
    words = np.zeros((len(nodes), 4), dtype=np.int32)
    for index, node in enumerate(nodes):
        match node:
            case Split():
                threshold = np.array(node.threshold, dtype=np.float32).view(np.int32)
                words[index] = (int(threshold), node.feature, node.left, node.right)
            case Hit():
                words[index] = (0, -1, places[node.region], 0)
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
static void answer(const float *x, float *out, int32_t place) {{
  float s[{state}] __attribute__((aligned(64)));
  for (int i = 0; i < {inputs}; i++) s[i] = x[i];
  for (const float *p = eco_weights + place;;) {{
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
