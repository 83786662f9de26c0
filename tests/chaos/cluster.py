"""What a cluster has besides its API server: Job and Deployment controllers, kubelet, garbage collector, serving pods.

Serving pods speak the control stream's messages with the operator's real servicer, without a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from ecompile_crds.control import control_pb2
from ecompile_crds.errors import Code
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.jobs import (
    DistillReport,
    Failure,
    JobInput,
    JobKind,
    JobResult,
    ProfileReport,
    SegmentReport,
    ValidateReport,
)
from ecompile_crds.names import ROUTING_KEY, routing_configmap
from ecompile_crds.routing import RouteMode, RoutingTable
from ecompile_operator.control.server import ControlServicer
from ecompile_operator.kube.client import Manifest

from .memory_api import Fault, MemoryApi, Place

POLL_SECONDS = 0.25
READY_SECONDS = 1.0
"""From a serving pod's creation to its readiness."""
JOB_SECONDS = 2.0
RECONNECT_SECONDS = 0.5
MOUNT_SECONDS = 5.0
"""How often the kubelet brings a mounted ConfigMap up to date."""
DIGEST = "sha256:" + "a" * 64


def bundle_digest(segment: int) -> str:
    return f"sha256:{segment + 1:064x}"


def job_input(job: Manifest) -> JobInput:
    """What the Job is told."""
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    text = next(v["value"] for v in variables if v["name"] == "ECO_JOB_INPUT")
    return JobInput.model_validate_json(text)


def results_of(told: JobInput, segments: int) -> dict[int, JobResult]:
    """What a Job finds where all is well."""
    match told.kind:
        case JobKind.PROFILE:
            found = tuple(
                SegmentReport(index=i, name=f"segment-{i}", compilable=True, macs=100) for i in range(segments)
            )
            plan = f"{told.artifacts_uri}/{told.namespace}/{told.model}/{told.life}/plan.json"
            return {0: JobResult(profile=ProfileReport(source_digest=DIGEST, plan_uri=plan, segments=found))}
        case JobKind.DISTILL:
            return {
                index: JobResult(
                    distill=DistillReport(
                        segment=segment,
                        pays=True,
                        bundle_uri=f"{told.artifacts_uri}/{told.namespace}/{told.model}/{told.life}/{segment}.eco",
                        bundle_digest=bundle_digest(segment),
                        strategy="exact",
                        evidence=Evidence(kind=EvidenceKind.SAMPLED, samples=1100, bound=2.7e-3),
                        speedup=5.0,
                    )
                )
                for index, segment in enumerate(told.segments)
            }
        case JobKind.VALIDATE:
            assert told.segment is not None
            report = ValidateReport(segment=told.segment, attempt=told.attempt, passed=True, reason="measured")
            return {0: JobResult(validation=report)}


class Refused(Exception):
    """The servicer ended a call with a status."""


class StreamContext:
    """As much of a gRPC context as the servicer uses."""

    def __init__(self, token: str) -> None:
        self._token = token

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token}"),)

    async def send_initial_metadata(self, metadata: object) -> None:
        """Nobody here reads it."""

    async def abort(self, code: object, details: str = "") -> None:
        raise Refused(f"{code}: {details}")


@dataclass
class Cluster:
    """The stand-ins, and what tests may break."""

    api: MemoryApi
    clock: Callable[[], float]
    control: Callable[[], ControlServicer | None]
    """The servicer behind the control Service: the leader's, where there is one."""
    adopted: Callable[[ServingPod, RoutingTable], None]
    """Told of each table that a pod brings into force."""
    segments: int = 2
    job_failures: dict[tuple[JobKind, int], list[Failure]] = field(default_factory=dict)
    """Failures that Jobs of a kind and segment (-1: not of one segment) meet before they succeed."""
    finished: list[JobInput] = field(default_factory=list)
    """Jobs that succeeded, in order."""
    drifting: int | None = None
    """Segment whose module is wrong on the traffic there is now."""
    corrupt: set[str] = field(default_factory=set)
    """Digests of bundles that are damaged in the artifact store now."""
    pods: dict[str, ServingPod] = field(default_factory=dict)
    stream_delay: Callable[[], float] = lambda: 0.005
    _number: int = 0
    _started: dict[str, float] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self.step()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()

    def step(self) -> None:
        """Bring everything on by what is due now."""
        for job in self.api.all("jobs"):
            self._job(job)
        for deployment in self.api.all("deployments"):
            self._deployment(deployment)
        for name in [n for n, p in self.pods.items() if self.api.get("pods", p.namespace, n) is None]:
            self.pods.pop(name).stop()
        self.api.collect_garbage()

    def kill_pod(self, name: str) -> None:
        """It is gone at once; its controller makes another."""
        with contextlib.suppress(Fault):
            self.api.delete(("pods", self.pods[name].namespace, name))
        self.pods.pop(name).stop()

    def lose_node(self) -> None:
        """All serving pods, and what ran of Jobs."""
        for name in list(self.pods):
            self.kill_pod(name)
        for uid in self._started:
            self._started[uid] = self.clock()

    # Jobs

    def _job(self, job: Manifest) -> None:
        meta = job["metadata"]
        done = {c["type"] for c in job.get("status", {}).get("conditions", [])}
        if done & {"Complete", "Failed"}:
            return
        began = self._started.setdefault(meta["uid"], self.clock())
        if self.clock() - began < JOB_SECONDS:
            return
        told = job_input(job)
        planned = self.job_failures.get((told.kind, told.segment if told.segment is not None else -1), [])
        failure = planned.pop(0) if planned else self._damage(told)
        if failure is not None:
            self._end(job, {0: JobResult(failure=failure)}, "Failed")
            return
        self._end(job, results_of(told, self.segments), "Complete")
        self.finished.append(told)

    def _damage(self, told: JobInput) -> Failure | None:
        """A validate Job checks the bundle's digest before it opens it."""
        if told.kind is JobKind.VALIDATE and told.bundle_digest in self.corrupt:
            message = f"{told.bundle_uri}: its digest is not {told.bundle_digest}"
            return Failure(code=Code.BUNDLE_ALTERED, message=message, retryable=False)
        return None

    def _end(self, job: Manifest, results: dict[int, JobResult], condition: str) -> None:
        now = self.api.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        meta = job["metadata"]
        for index, result in results.items():
            labels = {
                **job["spec"]["template"]["metadata"]["labels"],
                "batch.kubernetes.io/job-name": meta["name"],
            }
            pod = self._make_pod(f"{meta['name']}-{index}", labels, job)
            if pod is None:
                continue
            state = {"terminated": {"exitCode": 0, "reason": "Completed", "message": result.to_message()}}
            self._status(
                ("pods", meta["namespace"], pod["metadata"]["name"]),
                {"phase": "Succeeded", "containerStatuses": [{"name": "c", "state": state}]},
            )
            self.api.update(
                ("pods", meta["namespace"], pod["metadata"]["name"]),
                lambda p, i=index: p["metadata"].update(  # type: ignore[misc]  # the loop's variable is bound on purpose
                    annotations={"batch.kubernetes.io/job-completion-index": str(i)}
                ),
            )
        ended = [{"type": condition, "status": "True", "lastTransitionTime": now}]
        self._status(("jobs", meta["namespace"], meta["name"]), {"startTime": now, "conditions": ended})

    # Deployments

    def _deployment(self, deployment: Manifest) -> None:
        meta, spec = deployment["metadata"], deployment["spec"]
        namespace, replicas = meta["namespace"], spec.get("replicas", 1)
        life = spec["template"]["metadata"]["labels"]["ecompile.dev/life"]
        mine = [p for p in self.pods.values() if (p.namespace, p.model) == (namespace, meta["name"])]
        current = [p for p in mine if p.life == life]
        for _ in range(replicas - len(current)):
            self._number += 1
            name = f"{meta['name']}-{life[:4]}-{self._number}"
            if self._make_pod(name, spec["template"]["metadata"]["labels"], deployment) is not None:
                pod = ServingPod(self, namespace, meta["name"], name, life)
                self.pods[name] = pod
                task = asyncio.get_running_loop().create_task(pod.run())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        ready = [p for p in current if p.ready]
        if len(ready) >= replicas:
            for pod in [p for p in mine if p.life != life] + current[replicas:]:
                self.kill_pod(pod.name)
        status = {
            "observedGeneration": meta["generation"],
            "replicas": len(mine),
            "updatedReplicas": len(current),
            "readyReplicas": sum(1 for p in mine if p.ready),
        }
        self._status(("deployments", namespace, meta["name"]), status)

    def _make_pod(self, name: str, labels: dict[str, str], owner: Manifest) -> Manifest | None:
        meta = owner["metadata"]
        reference = {
            "apiVersion": owner.get("apiVersion", ""),
            "kind": owner.get("kind", ""),
            "name": meta["name"],
            "uid": meta["uid"],
            "controller": True,
        }
        made = {"name": name, "labels": dict(labels), "ownerReferences": [reference]}
        with contextlib.suppress(Fault):
            return self.api.create("pods", meta["namespace"], {"metadata": made, "spec": {}})
        return None

    def _status(self, place: Place, status: dict[str, Any]) -> None:
        known = self.api.get(*place)
        if known is not None and known.get("status") == status:
            return

        def change(found: Manifest) -> None:
            found["status"] = json.loads(json.dumps(status))

        with contextlib.suppress(Fault):
            self.api.update(place, change, verb="status")

    def pod_ready(self, pod: ServingPod) -> None:
        condition = {"type": "Ready", "status": "True"}
        self._status(("pods", pod.namespace, pod.name), {"phase": "Running", "conditions": [condition]})


@dataclass
class ServingPod:
    """The client side of Attach. Its traffic is good unless its segment drifts."""

    cluster: Cluster
    namespace: str
    model: str
    name: str
    life: str
    ready: bool = False
    table: RoutingTable | None = None
    refused: int = 0
    requests: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _stopped: bool = False
    _stream: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Become ready, stay attached, look at the mounted table while not."""
        await asyncio.sleep(READY_SECONDS)
        if self._stopped:
            return
        self.ready = True
        self.cluster.pod_ready(self)
        mounted = 0.0
        while not self._stopped:
            servicer = self.cluster.control()
            if servicer is not None:
                self._stream = asyncio.get_running_loop().create_task(self._attach(servicer))
                await asyncio.wait({self._stream})
                if not self._stream.cancelled():
                    self._stream.exception()
            if self.cluster.clock() - mounted >= MOUNT_SECONDS:
                mounted = self.cluster.clock()
                self._read_mounted()
            await asyncio.sleep(RECONNECT_SECONDS)

    def stop(self) -> None:
        self._stopped = True
        self.cut()

    def cut(self) -> None:
        """The control stream breaks."""
        if self._stream is not None:
            self._stream.cancel()

    def refuses(self) -> bool:
        """Whether it keeps an older table than the one that it was sent."""
        return self.refused > (self.table.generation if self.table is not None else 0)

    async def _attach(self, servicer: ControlServicer) -> None:
        context: Any = StreamContext(f"{self.namespace}/{self.name}")
        with contextlib.suppress(Refused):
            async for message in servicer.Attach(self._reports(), context):
                await asyncio.sleep(self.cluster.stream_delay())
                if self.cluster.control() is not servicer or self._stopped:
                    return
                self._take(RoutingTable.model_validate_json(message.table_json))

    async def _reports(self) -> AsyncIterator[control_pb2.Report]:
        while not self._stopped:
            self._news.clear()
            await asyncio.sleep(self.cluster.stream_delay())
            yield self._report()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._news.wait()

    def _read_mounted(self) -> None:
        found = self.cluster.api.get("configmaps", self.namespace, routing_configmap(self.model))
        if found is not None:
            self._take(RoutingTable.model_validate_json(found["data"][ROUTING_KEY]))

    def _take(self, table: RoutingTable) -> None:
        known = self.table.generation if self.table is not None else 0
        if table.generation <= known or table.life != self.life:
            return
        if any(s.mode is not RouteMode.NEURAL and s.bundle_digest in self.cluster.corrupt for s in table.segments):
            self.refused = table.generation
        else:
            self.table = table
            self.requests = 0
            self.cluster.adopted(self, table)
        self._news.set()

    def _report(self) -> control_pb2.Report:
        generation = self.table.generation if self.table is not None else 0
        self.requests += 500
        report = control_pb2.Report(
            namespace=self.namespace,
            model=self.model,
            pod=self.name,
            life=self.life,
            acknowledged_generation=generation,
            refused_generation=self.refused if self.refuses() else 0,
            refused_reason="the bundle's digest is wrong" if self.refuses() else "",
        )
        for route in self.table.segments if self.table is not None else ():
            served = route.mode is not RouteMode.NEURAL
            report.counters.add(
                segment=route.segment,
                requests=self.requests,
                compiled=self.requests if served else 0,
                guard_checked=self.requests if served else 0,
                comparisons=self.requests if served else 0,
                delta_sum=1e-9 * self.requests,
                delta_max=1e-9,
                latency_samples=self.requests,
                compiled_p50_seconds=1e-5,
                neural_p50_seconds=5e-5,
            )
            if served and self.cluster.drifting == route.segment:
                report.alerts.add(
                    kind=control_pb2.DRIFT,
                    segment=route.segment,
                    value=0.5,
                    limit=2e-3,
                    detail="mean delta",
                    generation=generation,
                )
        return report
