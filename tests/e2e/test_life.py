"""One model's whole life on a real cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ecompile_crds import audit

from demo.cluster import Cluster, wait_for

from .models import held_out, make_model, traffic_to, wait_serving, wait_stage


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
