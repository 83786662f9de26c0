"""The roles in the Helm chart are enough for the operator's work."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from devcluster import build, paths
from devcluster.api import ApiServer

from .operator_world import ROOT, SYSTEM, Operator, World, eventually, hybrid_model, operator
from .test_operator_life import to_serving

ACCOUNT = "ecompile-operator"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        found = World(server)
        found.install()
        yield found


def rendered_roles(*options: str) -> str:
    helm = [str(paths.BIN / "helm"), "template", "ecompile", str(ROOT / "charts/ecompile"), "--namespace", SYSTEM]
    only = ["--show-only", "templates/rbac.yaml", "--kube-version", "1.34.0"]
    return subprocess.run([*helm, *only, *options], capture_output=True, text=True, check=True).stdout


def restricted_kubeconfig(world: World, directory: Path, *, account: str = ACCOUNT) -> Path:
    """A kubeconfig that holds a ServiceAccount's token: the operator's, or another one's."""
    config = yaml.safe_load(world.server.kubeconfig.read_text())
    token = world.kubectl("create", "token", account, "-n", SYSTEM).strip()
    for user in config["users"]:
        user["user"] = {"token": token}
    target = directory / "restricted.kubeconfig"
    target.write_text(yaml.safe_dump(config))
    return target


def whole_life(world: World, started: Operator, namespace: str) -> None:
    """Everything that the operator does for a model, its end as an orphan included."""
    to_serving(world, namespace)
    eventually("Service", lambda: world.get("service", namespace, "net"))
    eventually("routing table", lambda: world.get("configmap", namespace, "net-routing"))
    patch = '{"spec": {"deletionPolicy": "Orphan"}}'
    world.kubectl("patch", "hybridmodel", "net", "-n", namespace, "--type=merge", "-p", patch)

    def held() -> bool:
        return "finalizers" in (world.get("hybridmodel", namespace, "net") or {})["metadata"]

    eventually("finalizer", held)
    world.kubectl("delete", "hybridmodel", "net", "-n", namespace, "--timeout=60s")
    service = world.get("service", namespace, "net")
    assert service is not None and "ownerReferences" not in service["metadata"]
    refused = [line["message"] for line in started.lines() if "forbidden" in line["message"].lower()]
    assert refused == []


def test_with_rights_in_one_namespace_it_works_there_and_looks_nowhere_else(world: World, tmp_path: Path) -> None:
    namespace, other = world.namespace(), world.namespace()
    world.kubectl("apply", "-f", "-", given=rendered_roles("--set", f"watchNamespaces={{{namespace}}}"))
    world.apply(hybrid_model(other, "net"))
    kubeconfig = restricted_kubeconfig(world, tmp_path)
    with operator(world, tmp_path, kubeconfig=kubeconfig, environ={"ECO_WATCH_NAMESPACES": namespace}) as started:
        whole_life(world, started, namespace)
    assert world.status(other, "net") == {}
    assert world.list("jobs", other) == []
    world.kubectl("delete", "hybridmodel", "net", "-n", other)


def test_with_rights_in_the_whole_cluster_it_works_everywhere(world: World, tmp_path: Path) -> None:
    world.kubectl("apply", "-f", "-", given=rendered_roles())
    with operator(world, tmp_path, kubeconfig=restricted_kubeconfig(world, tmp_path)) as started:
        for _ in range(2):
            whole_life(world, started, world.namespace())
