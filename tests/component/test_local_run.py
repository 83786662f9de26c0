"""`ecompile run --local` and the first benchmark on real networks, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = Path(os.environ.get("ECO_SHARED", ROOT.parent / "shared")) / "models"
NETWORKS = sorted([*MODELS.glob("mlp/*[a-z].onnx"), *MODELS.glob("acasxu/*.onnx"), MODELS / "tiny" / "ad01.onnx"])
FIELDS = {"name", "batch", "ours", "peer", "peer_value", "unit", "ratio", "max_error"}

pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason=f"{MODELS} is missing: real networks are not part of this project"
)


def ecompile(directory: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "ecompile_workers.cli.main", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("network", NETWORKS, ids=lambda path: path.name)
def test_dense_networks_are_compiled_and_live_through_drift(network: Path, tmp_path: Path) -> None:
    data = network.with_suffix(".npz")
    rows = ["--calibration", f"{data}#x_train", "--held-out", f"{data}#x_test"] if data.exists() else []
    report = json.loads(ecompile(tmp_path, "run", str(network), "--local", "--json", *rows))
    (segment,) = report["segments"]
    assert segment["outcome"] == "compiled", segment
    assert segment["speedup"] > 1 and segment["delta"] < 1e-4 and segment["correlation"] > 0.9999
    assert [step["step"] for step in report["rollout"]][:2] == ["shadow", "canary"]
    assert all(step["passed"] for step in report["rollout"]), report["rollout"]


def test_first_benchmark_prints_what_is_promised() -> None:
    command = [sys.executable, str(ROOT / "bench" / "first.py"), "--json", "--models", str(MODELS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["name"] for row in rows} == {"digits", "acas", "ad01"}
    assert all(row.keys() >= FIELDS and row["max_error"] < 1e-5 for row in rows)
