"""The development cluster itself: it runs pods, resolves names, keeps its promises of storage, and leaves no trace.

The cluster of these tests has a directory of its own, and with it names and addresses of its own: one that runs
already is not disturbed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devcluster import api
from devcluster.addresses import slot_of
from devcluster.console import DevclusterError
from devcluster.paths import BIN, DEFAULT_STATE

pytestmark = pytest.mark.e2e
needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="a cluster needs root on Linux, for namespaces and control groups",
)
ROOT = Path(__file__).parents[2]
BASE_IMAGE = "ecompile.local/debian-python:1"


@dataclass(frozen=True)
class Cluster:
    """The cluster of one state directory, by its command line."""

    directory: Path

    @property
    def slot(self) -> int:
        return slot_of(str(self.directory), str(DEFAULT_STATE))

    def devcluster(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "ECO_CLUSTER_DIR": str(self.directory)}
        command = [sys.executable, "-m", "devcluster", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        command = [str(BIN / "kubectl"), "--kubeconfig", str(self.directory / "kubeconfig"), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def apply(self, *objects: dict[str, object]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def run_job(self, name: str, script: str, *, claim: str | None = None) -> str:
        """Run a shell script in a Job to Complete; returns what it printed. A claim is mounted at /volume."""
        self.apply(job(name, script, claim))
        self.kubectl("wait", "--for=condition=Complete", f"job/{name}", "--timeout=60s")
        return self.kubectl("logs", f"job/{name}")

    def outermost_process(self) -> int:
        return int((self.directory / "pid").read_text())


def job(name: str, script: str, claim: str | None) -> dict[str, object]:
    """A Job with one container, as a user who is not root."""
    container: dict[str, object] = {
        "name": "main",
        "image": BASE_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
    }
    pod: dict[str, object] = {
        "restartPolicy": "Never",
        "securityContext": {"runAsUser": 65532},
        "containers": [container],
    }
    if claim is not None:
        container["volumeMounts"] = [{"name": "volume", "mountPath": "/volume"}]
        pod["volumes"] = [{"name": "volume", "persistentVolumeClaim": {"claimName": claim}}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }


def volume_claim(name: str, storage_class: str | None = None) -> dict[str, object]:
    spec: dict[str, object] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def eventually(condition: Callable[[], bool], *, seconds: float = 60) -> bool:
    """Poll until the condition holds; False where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def traces(cluster: Cluster) -> set[str]:
    """What this machine has of a cluster: mounts, namespaces, links, routes, control groups, processes, files."""
    name, link = f"ecompile-{cluster.slot}", f"eco{cluster.slot}-host"
    words = re.compile(rf"{re.escape(str(cluster.directory))}\b|\b{name}\b|\b{link}\b")
    found = [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines()]
    for command in (["ip", "netns", "list"], ["ip", "-oneline", "link"], ["ip", "-oneline", "route"]):
        found += subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob("**/") if path.name == name]
    for process in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                content = (process / file).read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if process.name != str(os.getpid()):
                found.append(f"process {process.name} {content}")
    found += [f"file {cluster.directory}"] if cluster.directory.exists() else []
    return {entry for entry in found if words.search(entry)}


def firewall() -> list[str]:
    """This machine's firewall rules, without counters and dates."""
    listed = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return [re.sub(r"\[\d+:\d+\]", "", line) for line in listed.splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster with the base image."""
    made = Cluster(tmp_path_factory.mktemp("devcluster") / "state")
    made.devcluster("up")
    try:
        archive = made.devcluster("base-image").stdout.strip()
        made.devcluster("load-image", archive)
        yield made
    finally:
        made.devcluster("down")


@needs_root
class TestCluster:
    """In the order in which they are written: all but the last two share one cluster."""

    def test_second_up_reuses_the_cluster(self, cluster: Cluster) -> None:
        before = cluster.outermost_process()
        again = cluster.devcluster("up")
        assert "up already" in again.stderr
        assert again.stdout.strip() == str(cluster.directory / "kubeconfig")
        assert cluster.outermost_process() == before

    def test_job_runs_to_complete(self, cluster: Cluster) -> None:
        assert cluster.run_job("trivial", "echo done").strip() == "done"

    def test_service_name_resolves_in_a_pod(self, cluster: Cluster) -> None:
        script = "import socket; print(socket.gethostbyname('kubernetes'))"
        printed = cluster.run_job("names", f'python3 -c "{script}"')
        address = cluster.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
        assert printed.strip() == address

    def test_default_volume_can_be_written_by_any_user(self, cluster: Cluster) -> None:
        cluster.apply(volume_claim("ordinary"))
        assert cluster.run_job("writer", "echo kept >/volume/file && cat /volume/file", claim="ordinary") == "kept\n"

    def test_released_volume_is_emptied_and_free_again(self, cluster: Cluster) -> None:
        cluster.apply(volume_claim("passing"))
        cluster.run_job("filler", "echo old >/volume/file", claim="passing")
        volume = cluster.kubectl("get", "persistentvolumeclaim", "passing", "-o", "jsonpath={.spec.volumeName}")
        cluster.kubectl("delete", "job/filler", "persistentvolumeclaim/passing")
        phase = ["get", "persistentvolume", volume, "-o", "jsonpath={.status.phase}"]
        assert eventually(lambda: cluster.kubectl(*phase) == "Available")
        assert list((cluster.directory / "volumes" / volume).iterdir()) == []

    def test_tiny_volume_is_full_after_one_mebibyte(self, cluster: Cluster) -> None:
        cluster.apply(volume_claim("small", "tiny"))
        printed = cluster.run_job("too-much", "head -c 2M /dev/zero 2>&1 >/volume/file || true", claim="small")
        assert "No space left on device" in printed

    def test_pod_security_standard_is_enforced(self, cluster: Cluster) -> None:
        cluster.kubectl("create", "namespace", "strict")
        cluster.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
        refused = cluster.kubectl("-n", "strict", "run", "pod", f"--image={BASE_IMAGE}", check=False)
        assert "violates PodSecurity" in refused

    def test_paused_api_server_comes_back_with_its_data(self, cluster: Cluster) -> None:
        cluster.kubectl("create", "configmap", "before")
        cluster.devcluster("pause-api")
        assert cluster.devcluster("status", check=False).returncode == 3
        cluster.devcluster("resume-api")
        assert "before" in cluster.kubectl("get", "configmap", "before", "-o", "name")

    def test_other_directory_of_the_same_slot_is_refused(self, cluster: Cluster) -> None:
        number, twin = 0, cluster
        while twin.slot != cluster.slot or twin == cluster:
            number, twin = number + 1, Cluster(cluster.directory.with_name(f"twin-{number}"))
        for command in ("up", "down"):
            refused = twin.devcluster(command, check=False)
            assert refused.returncode == 1
            assert str(cluster.directory) in refused.stderr
        assert cluster.devcluster("status").returncode == 0

    def test_killed_node_can_be_brought_up_again(self, cluster: Cluster) -> None:
        outermost = cluster.outermost_process()
        init = Path(f"/proc/{outermost}/task/{outermost}/children").read_text().split()[0]
        os.kill(int(init), signal.SIGKILL)
        assert eventually(lambda: cluster.devcluster("status", check=False).returncode == 1)
        cluster.devcluster("up")
        assert cluster.kubectl("get", "nodes", "-o", "name") == "node/ecompile-node\n"

    def test_down_leaves_nothing_behind(self, cluster: Cluster) -> None:
        assert traces(cluster), "a running cluster is visible"
        before = firewall()
        cluster.devcluster("down")
        assert traces(cluster) == set()
        assert firewall() == before

    def test_killed_cluster_leaves_nothing_behind_after_down(self, cluster: Cluster) -> None:
        cluster.devcluster("up")
        os.kill(cluster.outermost_process(), signal.SIGKILL)
        cluster.devcluster("down")
        assert traces(cluster) == set()


@needs_root
def test_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    """`down` deletes the state directory, so a mistyped one must not be taken for it."""
    (tmp_path / "precious").touch()
    for command in ("up", "down"):
        refused = Cluster(tmp_path).devcluster(command, check=False)
        assert refused.returncode == 1
        assert "not a cluster's" in refused.stderr
    assert (tmp_path / "precious").exists()


class TestApiServer:
    """An API server alone, which needs no root."""

    def test_two_run_at_once_and_know_nothing_of_each_other(self, tmp_path: Path) -> None:
        with api.start(tmp_path / "one") as one, api.start(tmp_path / "two") as two:
            self.kubectl(one, "create", "namespace", "only-in-one")
            assert "only-in-one" not in self.kubectl(two, "get", "namespaces")

    def test_paused_one_keeps_its_data(self, tmp_path: Path) -> None:
        with api.start(tmp_path / "api") as server:
            self.kubectl(server, "create", "namespace", "kept")
            server.pause()
            server.resume()
            assert "kept" in self.kubectl(server, "get", "namespaces")

    def test_frozen_one_answers_nothing_until_thawed(self, tmp_path: Path) -> None:
        with api.start(tmp_path / "api") as server:
            server.freeze()
            silent = self.kubectl(server, "get", "namespaces", "--request-timeout=1s", check=False)
            server.thaw()
            assert "default" not in silent
            assert eventually(lambda: "default" in self.kubectl(server, "get", "namespaces", check=False))

    def test_stopping_leaves_no_process_and_no_file(self, tmp_path: Path) -> None:
        directory = tmp_path / "api"
        server = api.start(directory)
        pids = json.loads(server.describe())["pids"].values()
        server.stop()
        assert not directory.exists()
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)

    def test_starting_where_one_was_left_running_replaces_it(self, tmp_path: Path) -> None:
        left = api.start(tmp_path / "api")
        with api.start(tmp_path / "api") as server:
            assert server.server != left.server
            assert "default" in self.kubectl(server, "get", "namespaces")

    def test_command_line_starts_and_stops_one(self, tmp_path: Path) -> None:
        directory = tmp_path / "api"
        command = [sys.executable, "-m", "devcluster"]
        option = ["--dir", str(directory)]
        started = subprocess.run([*command, "api-up", *option], cwd=ROOT, capture_output=True, check=True)
        described = json.loads(started.stdout)
        assert Path(described["kubeconfig"]).is_file()
        assert b"kube-apiserver" in Path(f"/proc/{described['pid']}/cmdline").read_bytes()
        subprocess.run([*command, "api-down", *option], cwd=ROOT, capture_output=True, check=True)
        assert not directory.exists()

    def test_directory_with_other_files_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "precious").touch()
        with pytest.raises(DevclusterError, match="not an API server's"):
            api.start(tmp_path)
        assert (tmp_path / "precious").exists()

    @staticmethod
    def kubectl(server: api.ApiServer, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [BIN / "kubectl", "--kubeconfig", server.kubeconfig, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout
