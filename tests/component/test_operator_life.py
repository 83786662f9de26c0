"""The operator process against a real API server: a HybridModel's whole life, with a stand-in for kubelet and pods."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from ecompile_crds import audit
from ecompile_crds.control import control_pb2, control_pb2_grpc
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.jobs import (
    DistillReport,
    JobResult,
    ProfileReport,
    SegmentReport,
    ValidateReport,
)
from ecompile_crds.routing import RouteMode, RoutingTable

from devcluster import build
from devcluster.api import ApiServer

from .operator_world import SYSTEM, Manifest, Operator, World, eventually, hybrid_model, operator

ROLLBACK_SECONDS = 5.0
"""The promise is 2 s at the 99th percentile on a quiet machine; this one may be busy with other tests."""
DIGEST = "sha256:" + "1" * 64
BUNDLE = "sha256:" + "b" * 64


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        found = World(server)
        found.install()
        yield found


class ServingPod:
    """The client side of Attach: acknowledges every table and reports good traffic, until told otherwise."""

    def __init__(self, world: World, started: Operator, namespace: str, model: str, name: str) -> None:
        self.token = world.start_serving_pod(namespace, model, name)
        labels = (world.get("pod", namespace, name) or {})["metadata"]["labels"]
        self.identity = {"namespace": namespace, "model": model, "pod": name, "life": labels["ecompile.dev/life"]}
        self.table: RoutingTable | None = None
        self.drifting = False
        self.tables: list[RoutingTable] = []
        self._stop = threading.Event()
        self.channel = channel(world, started)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _reports(self) -> Iterator[control_pb2.Report]:
        while not self._stop.is_set():
            yield self._report()
            time.sleep(0.1)

    def _report(self) -> control_pb2.Report:
        generation = self.table.generation if self.table is not None else 0
        report = control_pb2.Report(acknowledged_generation=generation, **self.identity)
        report.counters.add(
            segment=0, requests=500, compiled=500, guard_checked=500, comparisons=300, delta_sum=1e-4, delta_max=1e-6
        )
        counted = report.counters[0]
        counted.latency_samples, counted.compiled_p50_seconds, counted.neural_p50_seconds = 300, 1e-5, 5e-5
        if self.drifting and self.table is not None and self.table.segments[0].mode is not RouteMode.NEURAL:
            report.alerts.add(
                kind=control_pb2.DRIFT, segment=0, value=0.5, limit=2e-3, detail="mean delta", generation=generation
            )
        return report

    def _run(self) -> None:
        stub = control_pb2_grpc.ControlStub(self.channel)
        try:
            for message in stub.Attach(self._reports(), metadata=bearer(self.token)):
                self.table = RoutingTable.model_validate_json(message.table_json)
                self.tables.append(self.table)
        except grpc.RpcError:
            return

    def stop(self) -> None:
        self._stop.set()
        self.channel.close()
        self._thread.join(timeout=5)


def bearer(token: str) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata of a call with a token."""
    return (("authorization", f"Bearer {token}"),)


def channel(world: World, started: Operator) -> grpc.Channel:
    secret = world.get("secret", SYSTEM, "ecompile-control-tls")
    assert secret is not None
    authority = base64.b64decode(secret["data"]["ca.crt"])
    credentials = grpc.ssl_channel_credentials(root_certificates=authority)
    return grpc.secure_channel(f"localhost:{started.control_port()}", credentials)


def profile_result() -> JobResult:
    segments = (SegmentReport(index=0, name="dense", compilable=True, macs=100),)
    return JobResult(
        profile=ProfileReport(source_digest=DIGEST, plan_uri="file:///artifacts/p.json", segments=segments)
    )


def distill_result() -> JobResult:
    return JobResult(
        distill=DistillReport(
            segment=0,
            pays=True,
            bundle_uri="file:///artifacts/0.eco",
            bundle_digest=BUNDLE,
            strategy="exact",
            evidence=Evidence(kind=EvidenceKind.SAMPLED, samples=1100, bound=2.7e-3),
            speedup=5.0,
        )
    )


def validate_result(attempt: int = 1) -> JobResult:
    return JobResult(validation=ValidateReport(segment=0, attempt=attempt, passed=True, reason="measured"))


def phase(world: World, namespace: str, wanted: str) -> Manifest:
    def look() -> Manifest | None:
        status = world.status(namespace, "net")
        return status if status.get("phase") == wanted else None

    return eventually(f"phase {wanted}", look)


def to_serving(world: World, namespace: str) -> None:
    """All three Jobs succeed."""
    world.apply(hybrid_model(namespace, "net", revalidation={"backoffSeconds": 1}))
    world.finish_job(world.job(namespace, "profile"), {0: profile_result()})
    world.finish_job(world.job(namespace, "distill"), {0: distill_result()})
    world.finish_job(world.job(namespace, "validate"), {0: validate_result()})


def test_a_model_lives_to_promoted_drifts_rolls_back_and_is_validated_again(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path) as started:
        to_serving(world, namespace)
        pod = ServingPod(world, started, namespace, "net", "net-0")
        try:
            phase(world, namespace, "Promoted")
            eventually("promoted", lambda: pod.table is not None and pod.table.segments[0].mode is RouteMode.COMPILED)

            pod.drifting = True
            drifted_at = time.monotonic()
            eventually("rollback", lambda: pod.table is not None and pod.table.segments[0].mode is RouteMode.NEURAL)
            assert time.monotonic() - drifted_at < ROLLBACK_SECONDS
            modules = world.list("compiledmodules", namespace)

            def rolled_back() -> Manifest | None:
                found = world.list("compiledmodules", namespace)[0]["status"]["lastRollback"]
                return found if "routedNeuralInSeconds" in found else None

            rollback = eventually("acknowledged rollback", rolled_back)
            assert rollback["reason"] == "Drift"
            assert rollback["routedNeuralInSeconds"] < ROLLBACK_SECONDS

            pod.drifting = False
            first = world.job(namespace, "validate")["metadata"]["name"]

            def second_job() -> Manifest | None:
                found = world.list("jobs", namespace, "ecompile.dev/job=validate")
                return next((j for j in found if "succeeded" not in j.get("status", {})), None)

            again = eventually("revalidation Job", second_job)
            assert again["metadata"]["name"] != first or len(modules) == 1
            world.finish_job(again, {0: validate_result(attempt=2)})
            phase(world, namespace, "Promoted")
        finally:
            pod.stop()

    generations = [t.generation for t in pod.tables]
    assert generations == sorted(generations)
    log = world.get("configmap", namespace, "net-audit")
    assert log is not None and "ownerReferences" not in log["metadata"]
    records = audit.parse(log["data"]["audit.jsonl"].splitlines())
    audit.verify(records, head=world.status(namespace, "net")["auditHead"])
    routing = world.get("configmap", namespace, "net-routing")
    assert routing is not None
    assert RoutingTable.model_validate_json(routing["data"]["routing.json"]) == pod.table


def test_an_operator_killed_and_restarted_runs_no_job_twice(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    world.apply(hybrid_model(namespace, "net"))
    finish = {"profile": profile_result(), "distill": distill_result(), "validate": validate_result()}
    for kind, result in finish.items():
        with operator(world, tmp_path) as started:
            job = world.job(namespace, kind)
            started.kill()
        world.finish_job(job, {0: result})
    with operator(world, tmp_path):
        eventually("Deployment", lambda: world.get("deployment", namespace, "net"))
        eventually("validated", lambda: world.list("compiledmodules", namespace)[0]["status"]["phase"] == "Validated")
    jobs = world.list("jobs", namespace)
    assert sorted(j["metadata"]["labels"]["ecompile.dev/job"] for j in jobs) == sorted(finish)


def test_a_restarted_operator_sends_the_table_in_force_at_once(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path) as started:
        to_serving(world, namespace)
        pod = ServingPod(world, started, namespace, "net", "net-0")
        phase(world, namespace, "Promoted")
        before = RoutingTable.model_validate_json(world.status(namespace, "net")["routing"]["tableJson"])
        eventually("the table in force reaches the pod", lambda: pod.table == before)
        started.kill()
        pod.stop()
    with operator(world, tmp_path) as started:
        eventually("deciding", lambda: started.says("deciding"))
        pod = ServingPod(world, started, namespace, "net", "net-1")
        eventually("table", lambda: pod.table == before)
        pod.stop()
    assert world.status(namespace, "net")["phase"] == "Promoted"


def test_the_control_stream_refuses_strangers(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path) as started:
        to_serving(world, namespace)
        eventually("Deployment", lambda: world.get("deployment", namespace, "net"))
        token = world.start_serving_pod(namespace, "net", "net-0")
        pod = world.get("pod", namespace, "net-0")
        assert pod is not None
        wrong_audience = world.token(namespace, pod, audience="https://kubernetes.default.svc")
        stub = control_pb2_grpc.ControlStub(channel(world, started))

        def refused(token: str | None, **changes: str) -> tuple[grpc.StatusCode, str]:
            place = {"namespace": namespace, "pod": "net-0", **changes}
            report = control_pb2.Report(model="net", namespace=place["namespace"], pod=place["pod"])
            metadata = bearer(token) if token is not None else ()
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.Attach(iter([report]), metadata=metadata, timeout=10))
            return caught.value.code(), caught.value.details() or ""

        assert refused(None)[0] is grpc.StatusCode.UNAUTHENTICATED
        assert refused("nonsense")[0] is grpc.StatusCode.UNAUTHENTICATED
        assert refused(wrong_audience)[0] is grpc.StatusCode.UNAUTHENTICATED
        code, sentence = refused(token, pod="net-7")
        assert code is grpc.StatusCode.PERMISSION_DENIED and "net-7" in sentence
        assert refused(token, namespace="default")[0] is grpc.StatusCode.PERMISSION_DENIED


def test_progress_of_a_job_is_shown_in_the_status(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path) as started:
        world.apply(hybrid_model(namespace, "net"))
        job = world.job(namespace, "profile")
        pod = world.make_pod(namespace, "worker", job["spec"]["template"], job)
        stub = control_pb2_grpc.ControlStub(channel(world, started))
        step = control_pb2.JobProgress(
            namespace=namespace, model="net", job=job["metadata"]["name"], step="trace", fraction=0.61
        )
        metadata = bearer(world.token(namespace, pod))
        assert stub.Progress(iter([step]), metadata=metadata, timeout=10).received == 1
        eventually("progress", lambda: world.status(namespace, "net").get("progress") == "profile trace 60%")


def test_children_are_owned_by_the_model(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path):
        to_serving(world, namespace)
        eventually("Service", lambda: world.get("service", namespace, "net"))
        model = world.get("hybridmodel", namespace, "net")
        assert model is not None
        for kind in ("jobs", "deployments", "services", "compiledmodules"):
            for child in world.list(kind, namespace):
                owners = child["metadata"]["ownerReferences"]
                assert [o["uid"] for o in owners if o["controller"]] == [model["metadata"]["uid"]], kind
        told = json.loads(
            next(
                e["value"]
                for e in world.job(namespace, "validate")["spec"]["template"]["spec"]["containers"][0]["env"]
                if e["name"] == "ECO_JOB_INPUT"
            )
        )
        assert told["bundleDigest"] == BUNDLE
