"""Faults on the way: the final state is that of an undisturbed life, and nothing is done twice."""

from __future__ import annotations

import time
from pathlib import Path

from demo.cluster import Cluster, wait_for
from devcluster import node

from .models import make_model, traffic_to, wait_serving, wait_stage


def kill_operator() -> None:
    """SIGKILL the process; the kubelet restarts the container."""
    node.inside(["pkill", "-9", "-f", "python -m ecompile_operator"], what="killing the operator")


def test_operator_killed_at_five_points_changes_nothing(cluster: Cluster, artifacts: Path) -> None:
    """Killed while profiling, distilling, validating, in shadow and after promotion."""
    name = "killed"
    cluster.apply(make_model(name))
    labels = f"ecompile.dev/model={name}"
    wait_for(
        "the profile Job", lambda: cluster.objects("jobs", labels=f"{labels},ecompile.dev/job=profile"), seconds=60
    )
    kill_operator()
    wait_for(
        "the distill Job", lambda: cluster.objects("jobs", labels=f"{labels},ecompile.dev/job=distill"), seconds=120
    )
    kill_operator()
    wait_for(
        "the validate Job", lambda: cluster.objects("jobs", labels=f"{labels},ecompile.dev/job=validate"), seconds=120
    )
    kill_operator()
    wait_serving(cluster, name)
    wait_stage(cluster, name, "Shadow", seconds=120)
    kill_operator()
    with traffic_to(cluster, name, artifacts) as traffic:
        wait_stage(cluster, name, "Promoted", seconds=180)
        kill_operator()
        time.sleep(3)
        wait_stage(cluster, name, "Promoted", seconds=60)
    assert traffic.tally.failed == 0 and traffic.tally.wrong == 0
    kinds = sorted(j["metadata"]["labels"]["ecompile.dev/job"] for j in cluster.objects("jobs", labels=labels))
    assert kinds == ["distill", "profile", "validate"]
