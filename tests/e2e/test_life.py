"""One model's whole life on a real cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ecompile_crds import audit

from demo.cluster import Cluster, Manifest, wait_for
from demo.traffic import Rows, Traffic

from .models import held_out, make_model, traffic_to, wait_serving, wait_stage

TRIALS = 20


def drifted(artifacts: Path) -> Rows:
    """Inputs far outside the calibrated range."""
    rows: Rows = (held_out(artifacts) * 8).astype(np.float32)
    return rows


def assert_served(traffic: Traffic) -> None:
    """No request failed and no answer was wrong."""
    assert traffic.tally.failed == 0, traffic.tally.first_failure
    assert traffic.tally.wrong == 0
    assert traffic.tally.sent > 0


def test_life_drift_rollback_revalidation(cluster: Cluster, artifacts: Path) -> None:
    """To Promoted; drift rolls back; ordinary inputs pass revalidation. No request fails, no answer is wrong."""
    cluster.apply(make_model("life", replicas=3))
    wait_serving(cluster, "life", replicas=3)
    with traffic_to(cluster, "life", artifacts) as traffic:
        wait_stage(cluster, "life", "Promoted")
        traffic.use(drifted(artifacts))
        module = wait_for(
            "rollback",
            lambda: next((m for m in cluster.modules("life") if m["status"].get("rollbacks")), None),
            seconds=60,
        )
        assert module["status"]["lastRollback"]["reason"] == "Fallback"
        traffic.use(held_out(artifacts))
        wait_stage(cluster, "life", "Promoted", seconds=120)
    assert_served(traffic)
    assert traffic.tally.paths["compiled"] > 0
    status = cluster.model("life")["status"]
    log = cluster.get("configmaps", "life-audit")
    assert log is not None
    audit.verify(audit.parse(log["data"]["audit.jsonl"].splitlines()), head=status["auditHead"])
    jobs = cluster.objects("jobs", labels="ecompile.dev/model=life")
    kinds = sorted(j["metadata"]["labels"]["ecompile.dev/job"] for j in jobs)
    assert kinds == ["distill", "profile", "validate", "validate"]
    cluster.kubectl("wait", "--for=condition=Ready", "hm/life", "--timeout=30s")


@pytest.mark.timeout(900)
def test_rollback_reaches_all_replicas_quickly(
    cluster: Cluster, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a breaker that trips in one pod to all three replicas acknowledged neural: p99 over 20 trials."""
    seconds = []
    with traffic_to(cluster, "life", artifacts) as traffic:
        for trial in range(TRIALS):
            before = wait_stage(cluster, "life", "Promoted")["status"].get("rollbacks", 0)
            traffic.use(drifted(artifacts))

            def routed_neural(before: int = before) -> Manifest | None:
                status: Manifest = cluster.modules("life")[0]["status"]
                rollback: Manifest = status.get("lastRollback", {})
                return rollback if status.get("rollbacks", 0) > before and "routedNeuralInSeconds" in rollback else None

            seconds.append(wait_for("all pods neural", routed_neural, seconds=60)["routedNeuralInSeconds"])
            traffic.use(held_out(artifacts))
            wait_stage(cluster, "life", "Shadow", seconds=90)
            cluster.annotate_command("life", f"promote trial-{trial}")
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[-1]
    with capsys.disabled():
        print(f"\nrollback, alert to all 3 replicas neural: p50 {p50:.3f} s, p99 {p99:.3f} s over {TRIALS} trials")
    assert p99 <= 2.0
    assert_served(traffic)


def test_persistent_drift_ends_in_held(cluster: Cluster, artifacts: Path) -> None:
    """Revalidation fails while the drift lasts; after the attempts are used up a human is asked."""
    cluster.apply(make_model("lasting"))
    wait_serving(cluster, "lasting")
    with traffic_to(cluster, "lasting", artifacts) as traffic:
        wait_stage(cluster, "lasting", "Promoted")
        traffic.use(drifted(artifacts))
        module = wait_stage(cluster, "lasting", "Held", seconds=180)
    assert "retry" in module["status"]["message"]
    assert_served(traffic)
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
        cluster.apply(make_model("moving", source={"uri": "file:///artifacts/second/model.onnx", "format": "onnx"}))
        wait_for(
            "new life served",
            lambda: cluster.model("moving")["status"]["serving"]["key"] != old,
            seconds=120,
        )
        wait_stage(cluster, "moving", "Promoted", seconds=120)
        wait_stage(cluster, "moving", "Retired", seconds=90)
    assert_served(traffic)
    cluster.kubectl("delete", "hm", "moving", "--wait=true")
