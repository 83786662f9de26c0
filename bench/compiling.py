"""What compiling takes: `python bench/compiling.py [--json] [--models DIR] [--only NAME ...]`.

Each run is a process of its own: `compile` to a signed package (profile, distil, validate; one level of instructions),
the making of the library alone (import, print, compile), and AOTInductor (torch's export and package) of the same ONNX
graph as a module. Seconds are processor time of the process and its children; memory is the largest resident set less
that of the imports alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ecompile_crds.errors import ModelError

sys.path.insert(0, str(Path(__file__).parents[1]))
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.ir.to_onnx import export

from bench.networks import FILES, add_models_option, load
from bench.peers import machine

NETWORKS = (*FILES, "minilm")
ROWS = {"minilm": 120}
"""Calibration rows; by default 1000."""
SIDES = ("imports", "compile", "library", "aotinductor")


def run_side(side: str, model: Path, rows: Path, output: Path) -> None:
    """What the child process does."""
    from ecompile_crds.hybridmodel import Distill
    from ecompile_workers.codegen.compile import compile_graph
    from ecompile_workers.distill.guard import box
    from ecompile_workers.hybrid import compile
    from ecompile_workers.ir.load import load_source

    level = cpu_levels()[0]
    match side:
        case "compile":
            policy = Distill.model_validate({"targets": [level]})
            output.write_bytes(compile(model, rows, policy).content)
        case "library":
            guard = box(np.load(rows)["inputs"])
            compile_graph(load_source(model).graph, guard, levels=[level])
        case "aotinductor":
            aot_inductor(model, rows)


def aot_inductor(model: Path, rows: Path) -> None:
    """torch.export and aoti_compile_and_package of the networks that PyTorch can say in a line per operator."""
    import torch
    from torch import nn

    from bench.as_torch import module_of

    network: nn.Module = module_of(model).eval()
    x = torch.from_numpy(np.load(rows)["inputs"][:1].copy())
    with torch.no_grad():
        program = torch.export.export(network, (x,))
        torch._inductor.aoti_compile_and_package(program)


def measure(side: str, model: Path, rows: Path, folder: Path) -> dict[str, float]:
    """Processor seconds and MiB of one side."""
    command = [sys.executable, __file__, "--side", side, str(model), str(rows), str(folder / "out.eco")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise ModelError(5001, f"{side}: {done.stderr.strip().splitlines()[-1]}")  # type: ignore[arg-type]  # shown only
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compare(name: str, models: Path) -> dict[str, Any]:
    network = load(name, models)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        model, rows = folder / "model.onnx", folder / "rows.npz"
        model.write_bytes(network.model or export(network.graph).SerializeToString())
        count = ROWS.get(name, 1000)
        size = network.graph.input.size
        np.savez(rows, inputs=np.random.default_rng(0).normal(size=(count, size)).astype(np.float32))
        data = (model.stat().st_size + rows.stat().st_size) / 2**20
        found: dict[str, Any] = {"name": name, "modelAndCalibrationMiB": round(data, 1)}
        base = measure("imports", model, rows, folder)
        for side in SIDES[1:]:
            try:
                each = measure(side, model, rows, folder)
            except ModelError as error:
                found[side] = {"failed": error.message}
                continue
            memory = each["mib"] - base["mib"]
            found[side] = {
                "seconds": round(each["seconds"] - base["seconds"], 2),
                "mib": round(memory, 1),
                "timesTheData": round(memory / data, 1),
            }
        return found


def main() -> int:
    if len(sys.argv) > 2 and sys.argv[1] == "--side":
        run_side(sys.argv[2], *map(Path, sys.argv[3:6]))
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
        print(json.dumps({"seconds": seconds, "mib": max(own.ru_maxrss, children.ru_maxrss) / 1024}))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    add_models_option(parser)
    arguments = parser.parse_args()
    found = []
    for name in arguments.only:
        try:
            found.append(compare(name, arguments.models))
        except ModelError as error:
            print(f"bench: {name} is left out: {error.message}", file=sys.stderr)
            continue
        if not arguments.json:
            print(found[-1], flush=True)
    if arguments.json:
        print(json.dumps({"machine": machine(), "networks": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
