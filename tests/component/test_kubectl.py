"""`kubectl ecompile` against a real API server and a real operator."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devcluster import build
from devcluster.api import ApiServer

from .operator_world import ROOT, World, operator
from .test_operator_life import ServingPod, phase, to_serving

Plugin = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        found = World(server)
        found.install()
        yield found


@pytest.fixture
def plugin(world: World) -> Plugin:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        path = f"{ROOT / 'crds'}:{ROOT / 'operator'}"
        return subprocess.run(
            [sys.executable, "-m", "ecompile_kubectl", *words],
            env={**os.environ, "PYTHONPATH": path, "KUBECONFIG": str(world.server.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_promoted_model_is_shown_explained_and_rolled_back(world: World, plugin: Plugin, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path) as started:
        to_serving(world, namespace)
        pod = ServingPod(world, started, namespace, "net", "net-0")
        try:
            phase(world, namespace, "Promoted")
            shown = plugin("status", "net", "-n", namespace)
            assert shown.returncode == 0, shown.stderr
            assert f"HybridModel {namespace}/net: Promoted" in shown.stdout
            assert "evidence sampled(n=1100, <=2.7e-03), speed-up 5x" in shown.stdout

            explained = plugin("explain", "net", "-n", namespace)
            assert explained.returncode == 0, explained.stderr
            assert "when a pod raises an alert" in explained.stdout
            assert "Promoted -> RollingBack" in explained.stdout

            refused = plugin("promote", "net", "-n", namespace, "--token", "a")
            assert "no module is in a stage to which it applies" in refused.stdout
            done = plugin("rollback", "net", "-n", namespace, "--token", "b")
            assert done.returncode == 0 and done.stdout.startswith("rollback b: rollback: net-s0-"), done.stderr
            repeated = plugin("rollback", "net", "-n", namespace, "--token", "b")
            assert repeated.returncode == 1 and "has been used before" in repeated.stderr
            earlier = plugin("rollback", "net", "-n", namespace, "--token", "a")
            assert earlier.returncode == 1 and "has been used before" in earlier.stderr
            phase(world, namespace, "Degraded")
            assert "retry" in plugin("explain", "net", "-n", namespace).stdout

            archive = tmp_path / "bundle.tar.gz"
            assert plugin("support-bundle", "net", "-n", namespace, "-o", str(archive)).returncode == 0
            with tarfile.open(archive) as found:
                assert {"bundle/explain.txt", "bundle/events.yaml", "bundle/jobs.yaml"} <= set(found.getnames())
            assert plugin("pause", "net", "-n", namespace).stdout.startswith("net is paused")
            assert plugin("resume", "net", "-n", namespace).stdout == "net is running again\n"
        finally:
            pod.stop()


def test_what_is_not_there_is_a_sentence(world: World, plugin: Plugin) -> None:
    namespace = world.namespace()
    missing = plugin("status", "net", "-n", namespace)
    assert missing.returncode == 1 and "There is no HybridModel named net" in missing.stderr
    unknown = plugin("statsu", "net")
    assert unknown.returncode == 2 and "Did you mean status?" in unknown.stderr
    assert plugin("__complete", "roll").stdout == "rollback\n"
