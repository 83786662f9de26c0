"""The cost model against measurements: `python bench/segments.py [--json] [--models DIR] [--only NAME ...]`.

The model knows the probes of `distill/calibrate.py` only. Rank correlation (Spearman) is over all networks, and over
parts into which they can be cut that have something to multiply.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ecompile_crds.errors import ModelError

sys.path.insert(0, str(Path(__file__).parents[1]))
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.codegen.loader import CompiledFunction
from ecompile_workers.codegen.support import obstacle
from ecompile_workers.distill.calibrate import calibrate
from ecompile_workers.distill.costs import CostModel
from ecompile_workers.distill.guard import box
from ecompile_workers.distill.measure import measured
from ecompile_workers.ir.graph import Graph
from ecompile_workers.ir.segments import blocks
from ecompile_workers.ir.to_onnx import export

from bench.networks import FILES, add_models_option, load
from bench.peers import machine

NETWORKS = (*FILES, "block", "minilm")
MAX_PARTS = 12
"""Parts per network that are compiled and measured."""


def compare(name: str, graph: Graph, model: CostModel) -> dict[str, Any]:
    """Predicted and measured microseconds of compiled code and of ONNX Runtime."""
    rows = np.random.default_rng(0).normal(size=(2, graph.input.size)).astype(np.float32)
    level = cpu_levels()[0]
    made = compile_graph(graph, box(rows), levels=[level])
    module = CompiledFunction(made.libraries[level], macs=made.macs)
    (timing,), neural = measured([module], export(graph).SerializeToString(), rows)
    return {
        "name": name,
        "predicted": round(model.compiled_seconds(graph) * 1e6, 2),
        "measured": round(timing.seconds * 1e6, 2),
        "neuralPredicted": round(model.neural_seconds(graph) * 1e6, 2),
        "neuralMeasured": round(neural * 1e6, 2),
    }


def parts(name: str, graph: Graph) -> Iterator[tuple[str, Graph]]:
    """Some of what a network can be cut into, from first to last."""
    useful = [part for part in blocks(graph) if part.macs > 0 and obstacle(part) is None]
    if len(useful) > 1:
        for index in sorted({round(i) for i in np.linspace(0, len(useful) - 1, MAX_PARTS)}):
            yield f"{name}/{useful[index].output.name}", useful[index]


def rank_correlation(rows: list[dict[str, Any]], predicted: str, found: str) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr([row[predicted] for row in rows], [row[found] for row in rows]).statistic)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    add_models_option(parser)
    arguments = parser.parse_args()
    if not arguments.models.is_dir():
        print(f"bench: {arguments.models} is missing; give the folder of networks with --models.", file=sys.stderr)
        return 1
    model = calibrate()
    whole, cut = [], []
    for name in arguments.only:
        try:
            graph = load(name, arguments.models).graph
        except ModelError as error:
            print(f"bench: {name} is left out: {error.message}", file=sys.stderr)
            continue
        whole.append(compare(name, graph, model))
        cut += [compare(part, each, model) for part, each in parts(name, graph)]
    summary = {
        f"{kind} {side}": round(rank_correlation(rows, predicted, found), 3)
        for kind, rows in (("networks", whole), ("parts", cut))
        for side, predicted, found in (
            ("compiled", "predicted", "measured"),
            ("neural", "neuralPredicted", "neuralMeasured"),
        )
        if len(rows) > 2
    }
    if arguments.json:
        print(json.dumps({"networks": whole, "parts": cut, "rankCorrelation": summary}, indent=1))
        return 0
    print(f"{machine()}, {cpu_levels()[0]}, one thread, batch 1\n")
    print("| network | predicted, us | measured, us | ONNX Runtime predicted, us | measured, us |")
    print("| --- | --- | --- | --- | --- |")
    for row in whole:
        print(
            f"| {row['name']} | {row['predicted']} | {row['measured']} | {row['neuralPredicted']} | "
            f"{row['neuralMeasured']} |"
        )
    print(f"\nrank correlation over {len(whole)} networks and {len(cut)} parts: {summary}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
