"""What `helm test` runs, against a real API server and a real operator, whole and broken."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import build
from devcluster.api import ApiServer

from .operator_world import Operator, World, eventually, operator
from .test_operator_alertmanager import secret


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        found = World(server)
        found.install()
        yield found


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("", 0))
        return str(found.getsockname()[1])


def selftest(world: World, directory: Path, namespace: str, *, control: str, metrics: str) -> tuple[int, list[str]]:
    authority = directory / "ca.crt"
    authority.write_bytes(secret(world, "ecompile-control-tls", "ca.crt"))
    done = subprocess.run(
        [sys.executable, "-m", "ecompile_operator.selftest"],
        env={
            **os.environ,
            "KUBECONFIG": str(world.server.kubeconfig),
            "ECO_CONTROL_ADDRESS": control,
            "ECO_METRICS_URL": metrics,
            "ECO_TEST_NAMESPACE": namespace,
            "ECO_CA_FILE": str(authority),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout.splitlines()


def address(started: Operator) -> str:
    return f"localhost:{started.control_port()}"


def test_a_whole_installation_passes_and_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    namespace, port = world.namespace(), free_port()
    with operator(world, tmp_path, environ={"ECO_METRICS_PORT": port}) as started:
        eventually("deciding", lambda: started.says("deciding"))
        metrics = f"http://localhost:{port}/metrics"
        status, said = selftest(world, tmp_path, namespace, control=address(started), metrics=metrics)
    assert status == 0, said
    assert [line[:4] for line in said] == ["ok  "] * 4
    assert world.list("hybridmodels", namespace) == []


def test_each_broken_part_is_named(world: World, tmp_path: Path) -> None:
    namespace, elsewhere = world.namespace(), free_port()
    with operator(world, tmp_path) as started:
        eventually("deciding", lambda: started.says("deciding"))
        metrics = f"http://localhost:{elsewhere}/metrics"
        status, said = selftest(world, tmp_path, namespace, control=f"localhost:{elsewhere}", metrics=metrics)
    assert status == 1
    failed = [line for line in said if line.startswith("FAIL")]
    assert len(failed) == 2
    assert "control stream" in failed[0] and "metrics" in failed[1]
