"""Digits, ACAS Xu and ad01 against ONNX Runtime and OpenVINO: `python bench/first.py [--json] [--models DIR]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.networks import BATCHES, add_models_option, load
from bench.peers import compare, show

NETWORKS = ("digits", "acas", "ad01")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    add_models_option(parser)
    arguments = parser.parse_args()
    if not arguments.models.is_dir():
        print(f"bench: {arguments.models} is missing; give the folder of networks with --models.", file=sys.stderr)
        return 1
    rows = [
        row
        for name in NETWORKS
        for batch in BATCHES
        for row in compare(name, load(name, arguments.models).graph, batch)
    ]
    show(rows, as_json=arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
