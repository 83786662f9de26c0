"""A network with proven regions through its whole life: profiled, distilled, validated, loaded by a serving pod."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.plan import Plan
from ecompile_crds.routing import SegmentRoute
from ecompile_workers.certify.certificate import FILE
from ecompile_workers.codegen.bundle import read_bundle
from ecompile_workers.distill import orchestrator
from ecompile_workers.jobs import distill as distill_job
from ecompile_workers.jobs.__main__ import run
from ecompile_workers.serving.modules import ModuleStore

from ..networks import KEY, make_context
from .test_regions import LEVELS
from .times import told_times

ROWS = 1200


@pytest.fixture
def root(shared_models: Path, tmp_path: Path) -> Path:
    path = shared_models / "acasxu" / "ACASXU_run2a_3_3_batch_2000.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is missing")
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(path.read_bytes())
    lower, upper = np.array([-0.3035, -0.0095, 0.4934, 0.3, 0.3]), np.array([-0.2986, 0.0095, 0.5, 0.5, 0.5])
    for seed, name in enumerate(("calibration", "held_out")):
        share = np.random.default_rng(seed).random((ROWS, 5))
        rows = (lower + (upper - lower) * share).astype(np.float32).reshape(ROWS, 1, 1, 5)
        np.savez(folder / f"{name}.npz", inputs=rows)
    return tmp_path


def test_regions_are_distilled_validated_and_loaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = partial(orchestrator.distill, measure=told_times(2e-6, 1e-6))
    monkeypatch.setattr(distill_job, "distill", measured)
    profile = run(make_context(root), index=0).profile
    assert profile is not None
    told = {"planUri": profile.plan_uri, "distill": {"strategies": ["exact", "regions"], "targets": [LEVELS[0]]}}
    made = run(make_context(root, kind="distill", segments=(0,), **told), index=0).distill
    assert made is not None and made.pays, made
    assert made.strategy == "regions"
    assert made.bundle_uri is not None
    path = root / made.bundle_uri.removeprefix("file:///artifacts/")
    bundle = read_bundle(path.read_bytes(), [KEY.public_key()])
    assert FILE in bundle.files
    assert bundle.meta["proof"]["kind"] == "proven"
    assert bundle.meta["hitShare"] > 0.9
    asked = {"segment": 0, "bundleUri": made.bundle_uri, "bundleDigest": made.bundle_digest}
    report = run(make_context(root, kind="validate", planUri=profile.plan_uri, **asked), index=0).validation
    assert report is not None and report.passed, report
    plan = Plan.model_validate_json((root / profile.plan_uri.removeprefix("file:///artifacts/")).read_bytes())
    store = ModuleStore(plan, lambda: (KEY.public_key(),), read=lambda uri: path.read_bytes())
    loaded = store.load(SegmentRoute(segment=0, bundle_uri=made.bundle_uri, bundle_digest=made.bundle_digest))
    rows = np.load(root / "net" / "held_out.npz")["inputs"].reshape(ROWS, 5)
    assert loaded.run(rows, np.empty((ROWS, 5), np.float32)) == 0
