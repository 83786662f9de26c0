"""Compiled code against the best peers: `python bench/distill.py [--json] [--models DIR] [--only NAME ...]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ecompile_crds.errors import ModelError

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.networks import BATCHES, FILES, add_models_option, load
from bench.peers import compare, show

MINILM_BATCHES = (1, 8)
"""A call with 64 rows of 128 words takes seconds."""
NETWORKS = (*FILES, "block", "minilm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    add_models_option(parser)
    arguments = parser.parse_args()
    if not arguments.models.is_dir():
        print(f"bench: {arguments.models} is missing; give the folder of networks with --models.", file=sys.stderr)
        return 1
    rows = []
    for name in arguments.only:
        try:
            network = load(name, arguments.models)
        except ModelError as error:
            print(f"bench: {name} is left out: {error.message}", file=sys.stderr)
            continue
        for batch in BATCHES if name != "minilm" else MINILM_BATCHES:
            rows += compare(name, network.graph, batch, model=network.model)
    show(rows, as_json=arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
