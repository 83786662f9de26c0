"""The roles in the Helm chart are enough for the operator's work."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from devcluster import build, paths
from devcluster.api import ApiServer

from .operator_world import ROOT, SYSTEM, World, eventually, operator
from .test_operator_life import to_serving

ACCOUNT = "ecompile-operator"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        found = World(server)
        found.install()
        yield found


def rendered_roles() -> str:
    helm = [str(paths.BIN / "helm"), "template", "ecompile", str(ROOT / "charts/ecompile"), "--namespace", SYSTEM]
    only = ["--show-only", "templates/rbac.yaml", "--kube-version", "1.34.0"]
    return subprocess.run([*helm, *only], capture_output=True, text=True, check=True).stdout


def restricted_kubeconfig(world: World, directory: Path, *, account: str = ACCOUNT) -> Path:
    """A kubeconfig that holds a ServiceAccount's token: the operator's, or another one's."""
    config = yaml.safe_load(world.server.kubeconfig.read_text())
    token = world.kubectl("create", "token", account, "-n", SYSTEM).strip()
    for user in config["users"]:
        user["user"] = {"token": token}
    target = directory / "restricted.kubeconfig"
    target.write_text(yaml.safe_dump(config))
    return target


def test_the_operator_works_with_the_chart_s_roles_alone(world: World, tmp_path: Path) -> None:
    world.kubectl("apply", "-f", "-", given=rendered_roles())
    namespace = world.namespace()
    with operator(world, tmp_path, kubeconfig=restricted_kubeconfig(world, tmp_path)) as started:
        to_serving(world, namespace)
        eventually("Service", lambda: world.get("service", namespace, "net"))
        eventually("routing table", lambda: world.get("configmap", namespace, "net-routing"))
        refused = [line["message"] for line in started.lines() if "forbidden" in line["message"].lower()]
        assert refused == []
