"""Installing, upgrading and uninstalling with Helm, while models are served."""

from __future__ import annotations

import copy
import time
from pathlib import Path

from demo import development
from demo.cluster import SYSTEM, Cluster, Manifest, wait_for

from .models import make_model, traffic_to, wait_serving, wait_stage

STEPS = [
    {"mode": "shadow", "compare": 1.0, "minComparisons": 50},
    {"mode": "canary", "weight": 0.5, "compare": 1.0, "minComparisons": 1500},
]


def changed_values() -> Manifest:
    """Values that replace the operator's Pod and turn on what was off."""
    values = copy.deepcopy(development.VALUES)
    values["operator"] = {"logLevel": "DEBUG", "podAnnotations": {"upgraded": "yes"}}
    values["alertmanager"] = {"enabled": True}
    return values


def test_helm_test_passes(cluster: Cluster) -> None:
    """Control stream, metrics, definitions, and a model that is decided on."""
    said = cluster.helm("test", "ecompile", "-n", SYSTEM, "--timeout", "120s")
    assert "Phase:          Succeeded" in said


def test_an_upgrade_in_the_middle_of_a_rollout_loses_nothing(cluster: Cluster, artifacts: Path) -> None:
    """The same modules, the same life, no Job twice, no request lost; the rollout goes on where it was."""
    cluster.apply(make_model("upgraded", steps=STEPS))
    wait_serving(cluster, "upgraded", seconds=300)
    with traffic_to(cluster, "upgraded", artifacts) as traffic:
        before = wait_stage(cluster, "upgraded", "Canary", seconds=120)
        generation = cluster.model("upgraded")["status"]["routing"]["generation"]
        jobs = {job["metadata"]["uid"] for job in cluster.objects("jobs", labels="ecompile.dev/model=upgraded")}
        cluster.install(changed_values())
        after = wait_stage(cluster, "upgraded", "Promoted", seconds=180)
    assert traffic.tally.failed == 0, traffic.tally.first_failure
    assert traffic.tally.wrong == 0
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"].get("rollbacks", 0) == 0
    assert cluster.model("upgraded")["status"]["routing"]["generation"] == generation + 1
    assert jobs == {job["metadata"]["uid"] for job in cluster.objects("jobs", labels="ecompile.dev/model=upgraded")}
    wait_for("the new operator leads", lambda: cluster.get("secrets", "ecompile-alertmanager", SYSTEM), seconds=60)
    cluster.kubectl("delete", "hm", "upgraded")


def test_uninstall_does_what_each_policy_says_and_orphans_answer_on_the_neural_path(
    cluster: Cluster, artifacts: Path
) -> None:
    """The orphaned Service answers all the while; a model of its name takes it over later."""
    cluster.apply(make_model("kept", deletionPolicy="Orphan"), make_model("removed"))
    wait_serving(cluster, "kept", seconds=300)
    wait_serving(cluster, "removed", seconds=300)
    kept = cluster.get("deployments", "kept")
    assert kept is not None
    with traffic_to(cluster, "kept", artifacts) as traffic:
        wait_stage(cluster, "kept", "Promoted", seconds=300)
        cluster.helm("uninstall", "ecompile", "-n", SYSTEM, "--wait", "--timeout", "280s")
        assert cluster.objects("hybridmodels") == []
        cluster.kubectl("get", "crd", "hybridmodels.ecompile.dev", "compiledmodules.ecompile.dev")
        wait_for("children of the deleted model gone", lambda: not cluster.get("deployments", "removed"), seconds=60)
        left = cluster.get("deployments", "kept")
        assert left is not None and "ownerReferences" not in left["metadata"]
        assert left["metadata"]["uid"] == kept["metadata"]["uid"]
        time.sleep(2)
        assert cluster.get("deployments", "kept") is not None
        sent, paths = traffic.tally.sent, dict(traffic.tally.paths)
        time.sleep(2)
        assert traffic.tally.sent > sent
        assert {path for path, n in traffic.tally.paths.items() if n > paths.get(path, 0)} == {"neural"}
        cluster.install(development.VALUES)
        cluster.apply(make_model("kept"))
        wait_stage(cluster, "kept", "Promoted", seconds=400)
    assert traffic.tally.failed == 0, traffic.tally.first_failure
    assert traffic.tally.wrong == 0
    again = cluster.get("deployments", "kept")
    assert again is not None and again["metadata"]["uid"] == kept["metadata"]["uid"]
    cluster.kubectl("delete", "hm", "kept", "--wait")
