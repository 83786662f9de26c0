"""The operator's process against a real API server: no kubelet, so Jobs are created and stay."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.cluster import Cluster, load_example, wait_for
from devcluster.api import ApiServer, free_ports


def start_operator(server: ApiServer, name: str, log: Path) -> subprocess.Popen[bytes]:
    """One operator process."""
    health, control = free_ports(2)
    env = {
        **os.environ,
        "KUBECONFIG": str(server.kubeconfig),
        "POD_NAME": name,
        "ECO_METRICS_PORT": "0",
        "ECO_HEALTH_PORT": str(health),
        "ECO_CONTROL_PORT": str(control),
    }
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-m", "ecompile_operator"], env=env, stdout=out, stderr=out)


@pytest.fixture
def operator(server: ApiServer, cluster: Cluster, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    cluster.kubectl("create", "namespace", "ecompile-system", "--dry-run=client", "-o", "yaml")
    if cluster.get("namespaces", "ecompile-system") is None:
        cluster.kubectl("create", "namespace", "ecompile-system")
    process = start_operator(server, "first", tmp_path / "operator.log")
    yield process
    process.kill()
    process.wait()


def test_apply_creates_one_profile_job_and_a_restart_creates_no_second(
    server: ApiServer, cluster: Cluster, operator: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    cluster.apply(load_example())
    jobs = wait_for("profile Job", lambda: cluster.objects("jobs", labels="ecompile.dev/model=digits"), seconds=40)
    pod = jobs[0]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["python", "-m", "ecompile_workers.jobs"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert cluster.model("digits")["status"]["phase"] == "Profiling"
    operator.kill()
    operator.wait()
    second = start_operator(server, "first", tmp_path / "second.log")
    try:
        time.sleep(6)
        assert len(cluster.objects("jobs", labels="ecompile.dev/model=digits")) == 1
        server.pause()
        time.sleep(3)
        server.resume()
        cluster.annotate_command("digits", "explode after-restart")

        def refused() -> bool:
            answer = cluster.model("digits")["status"].get("lastCommand", {}).get("answer", "")
            return "unknown command" in answer

        wait_for("the operator to answer after the API server came back", refused, seconds=60)
    finally:
        second.kill()
        second.wait()
