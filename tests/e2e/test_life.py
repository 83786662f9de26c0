"""One model's whole life on a real cluster."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ecompile_crds import audit

from demo.cluster import Cluster, Manifest, wait_for

from .models import held_out, make_model, traffic_to, wait_message, wait_serving, wait_stage

TRIALS = 20


def test_life_drift_rollback_revalidation(cluster: Cluster, artifacts: Path) -> None:
    """To Promoted; drift rolls back; ordinary inputs pass revalidation. No request fails, no answer is wrong."""
    cluster.apply(make_model("life", replicas=3))
    wait_serving(cluster, "life", replicas=3)
    with traffic_to(cluster, "life", artifacts) as traffic:
        wait_stage(cluster, "life", "Promoted")
        traffic.use((held_out(artifacts) * 8).astype(np.float32))
        module = wait_for(
            "rollback",
            lambda: next((m for m in cluster.modules("life") if m["status"].get("rollbacks")), None),
            seconds=60,
        )
        assert module["status"]["lastRollback"]["reason"] == "Fallback"
        traffic.use(held_out(artifacts))
        wait_stage(cluster, "life", "Promoted", seconds=120)
    assert traffic.tally.failed == 0, traffic.tally.first_failure
    assert traffic.tally.wrong == 0
    assert traffic.tally.paths["compiled"] > 0
    status = cluster.model("life")["status"]
    log = cluster.get("configmaps", "life-audit")
    assert log is not None
    audit.verify(audit.parse(log["data"]["audit.jsonl"].splitlines()), head=status["auditHead"])
    jobs = cluster.objects("jobs", labels="ecompile.dev/model=life")
    kinds = sorted(j["metadata"]["labels"]["ecompile.dev/job"] for j in jobs)
    assert kinds == ["distill", "profile", "validate", "validate"]
    cluster.kubectl("wait", "--for=condition=Ready", "hm/life", "--timeout=30s")


def test_rollback_reaches_all_replicas_quickly(cluster: Cluster, artifacts: Path) -> None:
    """Alert in one pod to all three replicas acknowledged neural: p99 over 20 trials."""
    wait_stage(cluster, "life", "Promoted")
    seconds = []
    with traffic_to(cluster, "life", artifacts) as traffic:
        for trial in range(TRIALS):
            before = wait_stage(cluster, "life", "Promoted")["status"].get("rollbacks", 0)
            cluster.annotate_command("life", f"rollback trial-{trial}-{time.time_ns()}")

            def acknowledged(before: int = before) -> Manifest | None:
                status = cluster.modules("life")[0]["status"]
                done = status.get("rollbacks", 0) > before and status["phase"] == "Held"
                return status if done and "routedNeuralInSeconds" in status["lastRollback"] else None

            status = wait_for("all pods neural", acknowledged, seconds=30, every=0.1)
            seconds.append(status["lastRollback"]["routedNeuralInSeconds"])
            cluster.annotate_command("life", f"retry trial-{trial}-{time.time_ns()}")
            wait_stage(cluster, "life", "Shadow", seconds=60)
            cluster.annotate_command("life", f"promote trial-{trial}-{time.time_ns()}")
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[-1]
    print(f"\nrollback to all replicas neural: p50 {p50:.3f} s, p99 {p99:.3f} s over {TRIALS} trials")
    assert p99 <= 2.0
    assert traffic.tally.failed == 0 and traffic.tally.wrong == 0


def test_persistent_drift_ends_in_held(cluster: Cluster, artifacts: Path) -> None:
    """Revalidation fails while the drift lasts; after the attempts are used up a human is asked."""
    cluster.apply(make_model("lasting"))
    wait_serving(cluster, "lasting")
    with traffic_to(cluster, "lasting", artifacts) as traffic:
        wait_stage(cluster, "lasting", "Promoted")
        traffic.use((held_out(artifacts) * 8).astype(np.float32))
        module = wait_stage(cluster, "lasting", "Held", seconds=180)
    assert "retry" in module["status"]["message"]
    assert traffic.tally.failed == 0 and traffic.tally.wrong == 0
    cluster.kubectl("delete", "hm", "lasting", "--wait=true")
    wait_for(
        "children gone",
        lambda: not cluster.objects("pods", labels="ecompile.dev/model=lasting"),
        seconds=90,
    )


def test_changed_source_mid_rollout_starts_a_new_life(cluster: Cluster, artifacts: Path) -> None:
    """The old network keeps serving until the new one's modules have been validated."""
    second = artifacts / "second"
    second.mkdir(exist_ok=True)
    for name in ("model.onnx", "calibration.npz", "held_out.npz"):
        (second / name).write_bytes((artifacts / "digits" / name).read_bytes())
    cluster.apply(make_model("moving", steps=[{"mode": "shadow", "compare": 1.0, "minComparisons": 1_000_000}]))
    wait_stage(cluster, "moving", "Shadow")
    with traffic_to(cluster, "moving", artifacts) as traffic:
        old = cluster.model("moving")["status"]["serving"]["key"]
        manifest = make_model("moving", source={"uri": "file:///artifacts/second/model.onnx", "format": "onnx"})
        cluster.apply(manifest)
        wait_for(
            "new life served",
            lambda: cluster.model("moving")["status"]["serving"]["key"] != old,
            seconds=120,
        )
        wait_stage(cluster, "moving", "Promoted", seconds=120)
        wait_stage(cluster, "moving", "Retired", seconds=90)
    assert traffic.tally.wrong == 0
    assert traffic.tally.failed == 0, traffic.tally.first_failure
    cluster.kubectl("delete", "hm", "moving", "--wait=true")


def test_bad_inputs_are_named_and_harm_nobody(cluster: Cluster, artifacts: Path) -> None:
    """Each fault is a sentence in the status of its own model; the others go on."""
    bad = artifacts / "bad"
    bad.mkdir(exist_ok=True)
    (bad / "model.onnx").write_bytes(b"this is not a network")
    np.savez(bad / "shape.npz", inputs=np.zeros((10, 7), np.float32))
    np.savez(bad / "nan.npz", inputs=np.full((10, 64), np.nan, np.float32))
    np.savez(bad / "empty.npz", inputs=np.zeros((0, 64), np.float32))
    digits = {"uri": "file:///artifacts/digits/model.onnx", "format": "onnx"}
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "missing": ({"source": {"uri": "file:///artifacts/nowhere.onnx"}}, "does not exist"),
        "notamodel": ({"source": {"uri": "file:///artifacts/bad/model.onnx"}}, "not a readable ONNX model"),
        "digest": ({"source": {**digits, "digest": "sha256:" + "0" * 64}}, "has digest"),
        "shape": ({"calibration": {"uri": "file:///artifacts/bad/shape.npz"}}, "rows have shape"),
        "nan": ({"calibration": {"uri": "file:///artifacts/bad/nan.npz"}}, "not finite"),
        "empty": ({"calibration": {"uri": "file:///artifacts/bad/empty.npz"}}, "no rows"),
    }
    jobs = {"retries": 0}
    cluster.apply(*(make_model(name, **{"jobs": jobs, **spec}) for name, (spec, _) in cases.items()))
    for name, (_, text) in cases.items():
        wait_message(cluster, name, text, seconds=180)
    cluster.kubectl("delete", "hm", *cases)
    pods = json.loads(cluster.kubectl("-n", "ecompile-system", "get", "pods", "-o", "json"))["items"]
    assert all(c["restartCount"] == 0 for p in pods for c in p["status"]["containerStatuses"])
    assert cluster.model("life")["status"]["readyReplicas"] == 3
