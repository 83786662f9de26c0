"""Proven regions against our own dense code on ACAS Xu: `python -m bench.regions [--json] [--models DIR]`.

Two questions: how fast inputs inside one proven box are answered (half-width 1 % and 3 % of the input range around
random centres), and what a guard tree gives on the traffic of property 3 (uniform over its box; the tree is grown from
other rows than those measured). Bare calls from C, one thread, in turns, CPU time; tree misses and boxes for which the
strategy declines are answered by the dense code and count as such.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ecompile_workers.certify.regions import hit_share
from ecompile_workers.codegen.abi import GuardBox
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.distill.outcome import Declined
from ecompile_workers.distill.regions import find_regions
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph
from ecompile_workers.ir.load import load_source
from numpy.typing import NDArray

from .bare_call import BareCaller

ROOT = Path(__file__).parent.parent
NETWORKS = ("1_1", "1_9", "2_9", "3_3", "4_5")
RANGE = (np.array([-0.3035, -0.5, -0.5, -0.5, -0.5]), np.array([0.6799, 0.5, 0.5, 0.5, 0.5]))
PROPERTY_3 = (np.array([-0.3035, -0.0095, 0.4934, 0.3, 0.3]), np.array([-0.2986, 0.0095, 0.5, 0.5, 0.5]))
BOXES = 3
"""Of each half-width and network."""
ROWS = 4000
GROWN_FROM = 3000
ROUNDS = 11
BATCHES = (1, 64)
PEER = "own dense code"

Box = tuple[NDArray[np.float64], NDArray[np.float64]]


def uniform(box: Box, rows: int, seed: int) -> NDArray[np.float32]:
    lower, upper = box
    rng = np.random.default_rng(seed)
    return (lower + (upper - lower) * rng.random((rows, len(lower)))).astype(np.float32)


def compare(graph: Graph, box: Box, seed: int) -> dict[str, Any]:
    """Nanoseconds per row of both, by batch, and the strategy's own figures."""
    grown, rows = uniform(box, GROWN_FROM, seed), uniform(box, ROWS, seed + 1)
    found = find_regions(graph, grown.reshape(len(grown), *graph.input.shape))
    tree = None if isinstance(found, Declined) else found.tree
    guard = GuardBox(lower=rows.min(axis=0) - 1, upper=rows.max(axis=0) + 1)
    level = cpu_levels()[0]
    libraries = [compile_graph(graph, guard, levels=[level], regions=each).libraries[level] for each in (tree, None)]
    caller = BareCaller(libraries)
    outputs = graph.output.size
    y = np.empty((ROWS, outputs), dtype=np.float32)
    caller.run(0, rows, y, 1)
    exact = interpreter.run(graph, rows).reshape(ROWS, -1)
    times = {batch: caller.seconds_per_row(rows, outputs, batch=batch, rounds=ROUNDS) for batch in BATCHES}
    share = hit_share(tree, rows) if tree is not None else 0.0
    return {
        "times": times,
        "error": float(np.abs(y - exact).max()),
        "miss": 1 - share,
        "regions": len(tree.regions) if tree is not None else 0,
        "bound": tree.bound if tree is not None else None,
    }


def rows_of(name: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table: medians over boxes and networks; the ratio is the median of ratios."""
    rows = []
    for batch in BATCHES:
        ours, dense = (np.array([each["times"][batch][side] for each in found]) * 1e9 for side in (0, 1))
        rows.append(
            {
                "name": name,
                "batch": batch,
                "ours": round(float(np.median(ours)), 1),
                "peer": PEER,
                "peer_value": round(float(np.median(dense)), 1),
                "unit": "ns per row",
                "ratio": round(float(np.median(dense / ours)), 2),
                "least_ratio": round(float((dense / ours).min()), 2),
                "max_error": max(each["error"] for each in found),
                "miss_share": round(max(each["miss"] for each in found), 4),
                "regions": max(each["regions"] for each in found),
                "proven_bound": max((each["bound"] for each in found if each["bound"] is not None), default=None),
            }
        )
    return rows


def box_around(seed: int, half_width: float) -> Box:
    lower, upper = RANGE
    reach = half_width * (upper - lower)
    centre = lower + reach + (upper - lower - 2 * reach) * np.random.default_rng(seed).random(5)
    return centre - reach, centre + reach


def measure(folder: Path) -> list[dict[str, Any]]:
    graphs = {name: load_source(folder / f"ACASXU_run2a_{name}_batch_2000.onnx").graph for name in NETWORKS}
    table = []
    for half_width in (0.01, 0.03):
        found = [
            compare(graph, box_around(10 * number + index, half_width), 100 + index)
            for number, graph in enumerate(graphs.values())
            for index in range(BOXES)
        ]
        table += rows_of(f"acas, proven box of half-width {half_width:.0%}", found)
    for name, graph in graphs.items():
        table += rows_of(f"acas {name}, guard tree over property 3", [compare(graph, PROPERTY_3, 7)])
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    shared = Path(os.environ.get("ECO_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--models", type=Path, default=shared / "models")
    arguments = parser.parse_args()
    folder = arguments.models / "acasxu"
    if not folder.is_dir():
        print(f"bench: {folder} is missing; give the folder of networks with --models.", file=sys.stderr)
        return 1
    table = measure(folder)
    if arguments.json:
        print(json.dumps(table, indent=1))
        return 0
    print(f"{platform.machine()} {cpu_levels()[0]}, bare calls, one thread; {PEER} beside it\n")
    print("| what | batch | ours, ns | dense, ns | ratio | least | misses | regions | max error | proven bound |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in table:
        bound = "-" if row["proven_bound"] is None else f"{row['proven_bound']:.1e}"
        print(
            f"| {row['name']} | {row['batch']} | {row['ours']} | {row['peer_value']} | {row['ratio']}x | "
            f"{row['least_ratio']}x | {row['miss_share']:.1%} | {row['regions']} | {row['max_error']:.1e} | {bound} |"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
