"""Deleting a HybridModel on a real API server: what stays, what goes, and who owns it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ecompile_crds import audit
from ecompile_crds.routing import RouteMode, RoutingTable

from devcluster import build, paths
from devcluster.api import ApiServer

from .operator_world import SYSTEM, Manifest, World, eventually, hybrid_model, operator
from .test_operator_life import (
    ServingPod,
    distill_result,
    phase,
    profile_result,
    validate_result,
)
from .test_operator_permissions import restricted_kubeconfig

KEPT = (("deployment", "net"), ("service", "net"), ("configmap", "net-routing"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        found = World(server)
        found.install()
        yield found


def delete(world: World, namespace: str) -> subprocess.Popen[bytes]:
    command = [str(paths.BIN / "kubectl"), "--kubeconfig", str(world.server.kubeconfig)]
    return subprocess.Popen([*command, "delete", "hybridmodel", "net", "-n", namespace, "--timeout=60s"])


def to_promoted(world: World, namespace: str, **spec: object) -> None:
    world.apply(hybrid_model(namespace, "net", **spec))
    world.finish_job(world.job(namespace, "profile"), {0: profile_result()})
    world.finish_job(world.job(namespace, "distill"), {0: distill_result()})
    world.finish_job(world.job(namespace, "validate"), {0: validate_result()})


def test_orphan_leaves_what_serves_on_the_neural_path_and_a_new_model_takes_it_over(
    world: World, tmp_path: Path
) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path) as started:
        to_promoted(world, namespace, deletionPolicy="Orphan")
        pod = ServingPod(world, started, namespace, "net", "net-0")
        try:
            phase(world, namespace, "Promoted")
            eventually("compiled", lambda: pod.table is not None and pod.table.segments[0].mode is RouteMode.COMPILED)
            model = world.get("hybridmodel", namespace, "net")
            assert model is not None and model["metadata"]["finalizers"] == ["ecompile.dev/orphan"]
            assert delete(world, namespace).wait(timeout=60) == 0
            assert pod.table is not None and pod.table.segments[0].mode is RouteMode.NEURAL
            left = pod.table.generation
            for kind, name in KEPT:
                found = world.get(kind, namespace, name)
                assert found is not None and "ownerReferences" not in found["metadata"], kind
            routing = world.get("configmap", namespace, "net-routing")
            assert routing is not None
            assert RoutingTable.model_validate_json(routing["data"]["routing.json"]) == pod.table

            before = world.get("deployment", namespace, "net")
            world.collect(model)
            to_promoted(world, namespace, deletionPolicy="Orphan")
            eventually("the new model's table", lambda: pod.table is not None and pod.table.generation > left)
            new = world.get("hybridmodel", namespace, "net")
            assert new is not None

            def taken_over() -> Manifest | None:
                found = world.get("deployment", namespace, "net")
                owners = (found or {})["metadata"].get("ownerReferences", [])
                return found if [o["uid"] for o in owners] == [new["metadata"]["uid"]] else None

            after = eventually("new owner", taken_over)
            assert before is not None and before["metadata"]["uid"] == after["metadata"]["uid"]
            assert before["spec"]["template"] == after["spec"]["template"]
        finally:
            pod.stop()
        log = world.get("configmap", namespace, "net-audit")
        assert log is not None
        records = audit.parse(log["data"]["audit.jsonl"].splitlines())
        audit.verify(records, head=records[-1].hash)
        assert any(r.after == "neural" and "Orphan" in r.reason for r in records)


def test_delete_has_no_finalizer_and_leaves_the_owner_on_what_is_to_be_collected(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path):
        to_promoted(world, namespace)
        eventually("Service", lambda: world.get("service", namespace, "net"))
        model = world.get("hybridmodel", namespace, "net")
        assert model is not None and "finalizers" not in model["metadata"]
        assert delete(world, namespace).wait(timeout=60) == 0
        for kind, name in KEPT[:2]:
            found = world.get(kind, namespace, name)
            assert found is not None
            assert [o["uid"] for o in found["metadata"]["ownerReferences"]] == [model["metadata"]["uid"]]


def test_a_policy_that_changes_back_takes_the_finalizer_off(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path):
        world.apply(hybrid_model(namespace, "net", deletionPolicy="Orphan"))

        def finalizers() -> list[str]:
            return (world.get("hybridmodel", namespace, "net") or {})["metadata"].get("finalizers", [])

        eventually("finalizer", lambda: finalizers() == ["ecompile.dev/orphan"])
        world.apply(hybrid_model(namespace, "net", deletionPolicy="Delete"))
        eventually("no finalizer", lambda: finalizers() == [])
        world.apply(hybrid_model(namespace, "net", deletionPolicy="Orphan"))
        eventually("finalizer", lambda: finalizers() == ["ecompile.dev/orphan"])
        assert delete(world, namespace).wait(timeout=60) == 0


def test_uninstalling_does_what_each_policy_says_with_the_hook_s_rights_alone(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    world.kubectl("create", "serviceaccount", "ecompile-uninstall", "-n", SYSTEM)
    world.kubectl("create", "clusterrole", "uninstall", "--verb=list,delete", "--resource=hybridmodels.ecompile.dev")
    subject = f"--serviceaccount={SYSTEM}:ecompile-uninstall"
    world.kubectl("create", "rolebinding", "uninstall", "-n", namespace, "--clusterrole=uninstall", subject)
    kubeconfig = restricted_kubeconfig(world, tmp_path, account="ecompile-uninstall")

    def hook() -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "KUBECONFIG": str(kubeconfig), "ECO_WATCH_NAMESPACES": namespace}
        command = [sys.executable, "-m", "ecompile_operator.uninstall"]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)

    with operator(world, tmp_path):
        to_promoted(world, namespace, deletionPolicy="Orphan")
        eventually("Service", lambda: world.get("service", namespace, "net"))
        world.apply(hybrid_model(namespace, "other"))
        done = hook()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{namespace}/net (deletionPolicy Orphan" in done.stdout
    assert f"{namespace}/other (deletionPolicy Delete" in done.stdout
    assert world.list("hybridmodels", namespace) == []
    service = world.get("service", namespace, "net")
    assert service is not None and "ownerReferences" not in service["metadata"]
