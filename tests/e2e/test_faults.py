"""Faults on the way: the final state is that of an undisturbed life, and nothing is done twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from demo import development
from demo.cluster import SYSTEM, Cluster, wait_for
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


def test_api_server_away_while_serving_fails_no_request(cluster: Cluster, artifacts: Path) -> None:
    """Twenty seconds without an API server."""
    wait_stage(cluster, "killed", "Promoted")
    with traffic_to(cluster, "killed", artifacts) as traffic:
        time.sleep(1)
        node.pause_api()
        time.sleep(20)
        node.resume_api()
        time.sleep(2)
    assert traffic.tally.sent > 100
    assert traffic.tally.failed == 0, traffic.tally.first_failure
    assert traffic.tally.wrong == 0
    wait_for("operator back", lambda: cluster.model("killed")["status"]["phase"] == "Promoted", seconds=60)


def test_serving_pod_killed_during_canary_recovers(cluster: Cluster, artifacts: Path) -> None:
    """Its successor is Unknown until it acknowledges; the rollout then ends as usual."""
    steps = [
        {"mode": "shadow", "compare": 1.0, "minComparisons": 20},
        {"mode": "canary", "weight": 0.5, "compare": 1.0, "minComparisons": 400},
    ]
    cluster.apply(make_model("canary", replicas=2, steps=steps))
    wait_serving(cluster, "canary", replicas=2)
    with traffic_to(cluster, "canary", artifacts) as traffic:
        wait_stage(cluster, "canary", "Canary", seconds=120)
        pod = cluster.objects("pods", labels="ecompile.dev/model=canary,app.kubernetes.io/component=serving")[0]
        cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
        wait_stage(cluster, "canary", "Promoted", seconds=180)
    assert traffic.tally.wrong == 0
    cluster.kubectl("delete", "hm", "canary")


def test_uninstall_and_reinstall_with_a_promoted_module(cluster: Cluster, artifacts: Path) -> None:
    """Serving goes on without the operator, and the new one finds everything again."""
    before = wait_stage(cluster, "killed", "Promoted")
    with traffic_to(cluster, "killed", artifacts) as traffic:
        cluster.helm("uninstall", "ecompile", "-n", SYSTEM, "--wait", "--no-hooks")
        time.sleep(5)
        cluster.install(development.VALUES)
        after = wait_stage(cluster, "killed", "Promoted")
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        time.sleep(5)
        assert cluster.stages("killed") == ["Promoted"]
    assert traffic.tally.failed == 0, traffic.tally.first_failure
    assert traffic.tally.wrong == 0


def test_altered_bundle_fails_revalidation_and_stays_neural(cluster: Cluster, artifacts: Path) -> None:
    """A bundle changed after it was signed is refused by its digest; the neural path serves on."""
    module = wait_stage(cluster, "killed", "Promoted")
    path = artifacts / module["spec"]["bundle"]["uri"].removeprefix("file:///artifacts/")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    with traffic_to(cluster, "killed", artifacts) as traffic:
        cluster.annotate_command("killed", "rollback altered-1")
        wait_stage(cluster, "killed", "Held", seconds=30)
        path.write_bytes(bytes(content))
        cluster.annotate_command("killed", "retry altered-2")
        held = wait_for(
            "held again",
            lambda: next(
                (
                    m
                    for m in cluster.modules("killed")
                    if "altered" in m["status"]["message"] and m["status"]["phase"] == "Held"
                ),
                None,
            ),
            seconds=120,
        )
    assert "digest" in held["status"]["message"]
    assert traffic.tally.failed == 0 and traffic.tally.wrong == 0


@pytest.mark.parametrize("text", ["explode now-1", "rollback"])
def test_bad_commands_are_answered(cluster: Cluster, text: str) -> None:
    """In the status, once; nothing else changes."""
    cluster.annotate_command("killed", text)

    def answer() -> str:
        found = str(cluster.model("killed")["status"].get("lastCommand", {}).get("answer", ""))
        return found if "refused" in found else ""

    assert "refused" in wait_for("answer", answer, seconds=30)
