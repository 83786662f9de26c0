"""A real API server, operator processes, and stand-ins for what a bare API server lacks: kubelet and Job controller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ecompile_crds.jobs import JobResult
from ecompile_crds.names import TOKEN_AUDIENCE

from devcluster import paths
from devcluster.api import ApiServer

ROOT = Path(__file__).parents[2]
SYSTEM = "ecompile-system"
Manifest = dict[str, Any]
Manifests = list[Manifest]
Found = TypeVar("Found")


def eventually(what: str, look: Callable[[], Found | None], *, seconds: float = 30.0) -> Found:
    """The first answer that is not None or False, within a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.1)


class World:
    """The API server through kubectl."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.count = 0

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [str(paths.BIN / "kubectl"), "--kubeconfig", str(self.server.kubeconfig), *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def install(self) -> None:
        """The CRDs and the operator's namespace."""
        self.kubectl("apply", "--server-side", "-f", str(ROOT / "charts/ecompile/files"))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        self.kubectl("create", "namespace", SYSTEM)

    def namespace(self) -> str:
        """A new namespace with the ServiceAccount that controllers would make."""
        self.count += 1
        name = f"test-{self.count}"
        self.kubectl("create", "namespace", name)
        self.kubectl("create", "serviceaccount", "default", "-n", name)
        return name

    def apply(self, manifest: Manifest) -> None:
        self.kubectl("apply", "-f", "-", given=json.dumps(manifest))

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        text = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found", check=False)
        found: Manifest | None = json.loads(text) if text else None
        return found

    def list(self, kind: str, namespace: str, labels: str = "") -> Manifests:
        text = self.kubectl("get", kind, "-n", namespace, "-l", labels, "-o", "json", check=False)
        found: Manifests = json.loads(text)["items"] if text else []
        return found

    def status(self, namespace: str, name: str) -> Manifest:
        model = self.get("hybridmodel", namespace, name)
        status: Manifest = (model or {}).get("status", {})
        return status

    def job(self, namespace: str, kind: str) -> Manifest:
        """The one Job of a kind, once it exists."""
        return eventually(
            f"{kind} Job",
            lambda: next(iter(self.list("jobs", namespace, f"ecompile.dev/job={kind}")), None),
        )

    def patch_status(self, kind: str, namespace: str, name: str, status: Manifest) -> None:
        patch = json.dumps({"status": status})
        self.kubectl("patch", kind, name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)

    def make_pod(self, namespace: str, name: str, template: Manifest, owner: Manifest) -> Manifest:
        """A Pod as a controller would make it from a template."""
        meta = {
            "name": name,
            "namespace": namespace,
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                    "controller": True,
                }
            ],
        }
        spec = {"serviceAccountName": "default", **template["spec"]}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        found = self.get("pod", namespace, name)
        assert found is not None
        return found

    def finish_job(self, job: Manifest, results: dict[int, JobResult]) -> None:
        """What kubelet and Job controller would write: terminated Pods with their messages, then the Job's end."""
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for index, result in results.items():
            template = job["spec"]["template"]
            template["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": str(index)}
            pod = self.make_pod(namespace, f"{name}-{index}", template, job)
            container = template["spec"]["containers"][0]
            ended = {"exitCode": 0, "reason": "Completed", "message": result.to_message(), "finishedAt": now}
            self.patch_status(
                "pod",
                namespace,
                pod["metadata"]["name"],
                {
                    "phase": "Succeeded",
                    "containerStatuses": [
                        {
                            "name": container["name"],
                            "image": container["image"],
                            "imageID": "",
                            "ready": False,
                            "restartCount": 0,
                            "state": {"terminated": {**ended, "startedAt": now}},
                        }
                    ],
                },
            )
        condition = {"status": "True", "lastProbeTime": now, "lastTransitionTime": now}
        started = {"startTime": now, "conditions": [{"type": "SuccessCriteriaMet", **condition}]}
        indexed = job["spec"]["completionMode"] == "Indexed"
        indexes = {"completedIndexes": ",".join(map(str, sorted(results)))} if indexed else {}
        self.patch_status("job", namespace, name, {**started, "succeeded": len(results), **indexes})
        ended_job = {
            "completionTime": now,
            "conditions": [*started["conditions"], {"type": "Complete", **condition}],
        }
        self.patch_status("job", namespace, name, ended_job)

    def start_serving_pod(self, namespace: str, model: str, name: str) -> str:
        """A ready serving Pod of the model's Deployment, and a finished roll-out. Returns its token."""
        deployment = eventually("Deployment", lambda: self.get("deployment", namespace, model))
        pod = self.make_pod(namespace, name, deployment["spec"]["template"], deployment)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        self.patch_status("pod", namespace, name, {"phase": "Running", "conditions": [ready]})
        replicas = deployment["spec"]["replicas"]
        self.patch_status(
            "deployment",
            namespace,
            model,
            {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": replicas,
                "updatedReplicas": replicas,
                "readyReplicas": replicas,
                "availableReplicas": replicas,
            },
        )
        return self.token(namespace, pod)

    def token(self, namespace: str, pod: Manifest, *, audience: str = TOKEN_AUDIENCE) -> str:
        """A token bound to the Pod, as the kubelet would project it."""
        bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod['metadata']['name']}"]
        uid = f"--bound-object-uid={pod['metadata']['uid']}"
        return self.kubectl("create", "token", "default", "-n", namespace, "--audience", audience, *bound, uid).strip()

    def collect(self, owner: Manifest) -> None:
        """What the garbage collector would do: delete everything whose owner is gone."""
        namespace, uid = owner["metadata"]["namespace"], owner["metadata"]["uid"]
        for kind in ("deployments", "services", "configmaps", "jobs", "compiledmodules", "pods"):
            for found in self.list(kind, namespace):
                if uid in {o["uid"] for o in found["metadata"].get("ownerReferences", [])}:
                    self.kubectl("delete", kind, found["metadata"]["name"], "-n", namespace)

    def events(self, namespace: str, reason: str) -> Manifests:
        return [e for e in self.list("events", namespace) if e["reason"] == reason]


class Operator:
    """One operator process."""

    def __init__(self, world: World, log: Path, name: str, kubeconfig: Path, environ: Mapping[str, str]) -> None:
        self.log = log
        self.name = name
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ecompile_operator"],
                env={
                    **os.environ,
                    "KUBECONFIG": str(kubeconfig),
                    "PYTHONPATH": f"{ROOT / 'crds'}:{ROOT / 'operator'}",
                    "POD_NAME": name,
                    "ECO_NAMESPACE": SYSTEM,
                    "ECO_CONTROL_ADDRESS": "localhost:8443",
                    "ECO_CONTROL_PORT": "0",
                    "ECO_METRICS_PORT": "0",
                    "ECO_HEALTH_PORT": "0",
                    **environ,
                },
                stdout=sink,
                stderr=sink,
            )

    def lines(self) -> Manifests:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def says(self, text: str) -> Manifest | None:
        """The newest log line that contains the text."""
        return next((line for line in reversed(self.lines()) if text in line["message"]), None)

    def control_port(self) -> int:
        line = eventually("control stream", lambda: self.says("control stream on port"))
        return int(line["message"].rsplit(" ", 1)[1])

    def kill(self) -> None:
        """As a lost node would: no farewell."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=20)


@contextmanager
def operator(
    world: World,
    directory: Path,
    name: str = "operator-0",
    *,
    kubeconfig: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Operator]:
    """An operator process for the length of a block; its log is shown where the test fails."""
    world.count += 1
    log = directory / f"{name}-{world.count}.log"
    started = Operator(world, log, name, kubeconfig or world.server.kubeconfig, environ or {})
    try:
        yield started
        assert started.process.poll() in (None, 0, -9), "the operator ended by itself"
    except BaseException:
        print(started.log.read_text()[-6000:])
        raise
    finally:
        if started.process.poll() is None:
            started.process.terminate()  # gives its lease up, so that the next test need not wait for it to run out
            try:
                started.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                started.kill()


def hybrid_model(namespace: str, name: str, **spec: Any) -> Manifest:
    """A small valid HybridModel."""
    return {
        "apiVersion": "ecompile.dev/v1alpha1",
        "kind": "HybridModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "source": {"uri": "file:///artifacts/net.onnx"},
            "calibration": {"uri": "file:///artifacts/data.npz"},
            **spec,
        },
    }
