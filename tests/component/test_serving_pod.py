"""The serving pod as a process: routing changes under traffic, faults, refusals, and life without an operator."""

from __future__ import annotations

import contextlib
import http.client
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ecompile_crds.control import control_pb2
from ecompile_crds.routing import RouteMode, SegmentRoute

from tests.unit.workers.serving.world import INPUTS, LIFE, MODEL, NAMESPACE, World, make_world, oracle, rows, table

from .serving_pod import (
    TOKEN,
    FakeOperator,
    Stream,
    infer,
    outputs,
    running_pod,
    started,
    wait_until,
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def operator() -> Iterator[FakeOperator]:
    made = FakeOperator()
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize("segments", [1, 2])
def test_promotion_and_rollback_under_a_held_stream(operator: FakeOperator, segments: int) -> None:
    """Shadow, canary, promoted, rolled back, ten times over: no request fails, none is answered wrongly."""
    with running_pod(operator, segments=segments) as pod, Stream(pod) as stream:
        generation = 0
        for mode, weight, compare in (
            (RouteMode.SHADOW, 0.0, 0.5),
            (RouteMode.CANARY, 0.5, 0.5),
            *[(RouteMode.COMPILED, 0.0, 0.05), (RouteMode.NEURAL, 0.0, 0.0)] * 10,
        ):
            generation += 1
            routes = [pod.world.route(mode, segment=index, weight=weight, compare=compare) for index in range(segments)]
            operator.send(table(generation, *routes))
            operator.wait_acknowledged(generation)
            stream.wait_answered(20)
    assert stream.failed == []
    assert stream.wrong == []
    assert {(3, "compiled"), (generation, "neural")} <= stream.paths
    assert operator.tokens[0] == f"Bearer {TOKEN}"


def test_report_carries_names_modules_and_counters(operator: FakeOperator) -> None:
    """What the operator's gates read."""
    with running_pod(operator) as pod, Stream(pod) as stream:
        operator.send(table(4, pod.world.route(RouteMode.SHADOW, compare=1.0)))
        operator.wait_acknowledged(4)
        stream.wait_answered(250)
        wait_until(lambda: operator.last and operator.last.counters[0].latency_samples >= 200, "latency samples")
    report = operator.last
    assert report is not None
    assert (report.namespace, report.model, report.life, report.pod) == (NAMESPACE, MODEL, LIFE, "digits-0")
    assert list(report.loaded_modules) == ["digits-0-a1"]
    assert report.requests_per_second > 0
    counters = report.counters[0]
    assert counters.requests >= counters.guard_checked >= counters.comparisons >= 200
    assert (counters.compiled, counters.fallbacks) == (0, 0)
    assert counters.delta_max < 1e-5
    assert 0 < counters.compiled_p50_seconds < counters.neural_p50_seconds


def test_faulty_module_trips_by_delta_and_stays_out(operator: FakeOperator) -> None:
    """Signed, loaded, wrong: the pod goes neural by itself and says so; only a newer generation tries again."""
    with running_pod(operator) as pod, contextlib.closing(pod.client()) as client:
        wrong = pod.world.bundle(scale=1.05)
        operator.send(table(2, pod.world.route(RouteMode.COMPILED, compare=1.0, bundle=wrong)))
        operator.wait_acknowledged(2)
        for row in rows(30):
            assert infer(client, row[None])[0] == 200
        alert = operator.wait_alert(control_pb2.DRIFT)
        assert (alert.segment, alert.generation) == (0, 2)
        assert alert.value > alert.limit == pytest.approx(2e-3)
        status, answer = infer(client, rows(1))
        assert (status, answer["parameters"]["segments"]) == (200, "0:neural:tripped")
        np.testing.assert_allclose(outputs(answer), oracle(rows(1)), atol=1e-5)
        operator.send(table(3, pod.world.route(RouteMode.COMPILED)))
        operator.wait_acknowledged(3)
        assert infer(client, rows(1))[1]["parameters"]["path"] == "compiled"
        wait_until(lambda: operator.last is not None and not operator.last.alerts, "the alert to be gone")


def test_drifted_inputs_fall_back_and_raise_an_alert(operator: FakeOperator) -> None:
    """Inputs outside the box: every answer is right, and the alert comes at once."""
    with running_pod(operator) as pod:
        operator.send(table(2, pod.world.route(RouteMode.COMPILED)))
        operator.wait_acknowledged(2)
        with Stream(pod, scale=20.0) as stream:
            alert = operator.wait_alert(control_pb2.FALLBACK)
            stream.wait_answered(20)
    assert (stream.failed, stream.wrong) == ([], [])
    assert alert.value > alert.limit == pytest.approx(0.05)


def test_output_that_is_not_finite_trips_the_breaker(operator: FakeOperator) -> None:
    """Weights that overflow: answered by the network, alert BREAKER, neural from the next request on."""
    with running_pod(operator) as pod, contextlib.closing(pod.client()) as client:
        operator.send(table(2, pod.world.route(RouteMode.COMPILED, bundle=pod.world.bundle(fault="nan"))))
        operator.wait_acknowledged(2)
        x = rows(1) + np.float32(3.0)
        status, answer = infer(client, np.clip(x, 0, 3.9))
        assert (status, answer["parameters"]["segments"]) == (200, "0:neural:fault")
        np.testing.assert_allclose(outputs(answer), oracle(np.clip(x, 0, 3.9)), atol=1e-5)
        assert infer(client, rows(1))[1]["parameters"]["segments"] == "0:neural:tripped"
        operator.wait_alert(control_pb2.BREAKER)


def test_altered_bundle_is_refused_and_reported(operator: FakeOperator) -> None:
    """The table before stays in force; the reason arrives."""
    with running_pod(operator) as pod, contextlib.closing(pod.client()) as client:
        operator.send(table(5))
        operator.wait_acknowledged(5)
        operator.send(table(6, pod.world.route(RouteMode.COMPILED, bundle=pod.world.bundle(alter=True))))
        wait_until(lambda: operator.last is not None and operator.last.refused_generation == 6, "the refusal")
        report = operator.last
        assert report is not None and report.acknowledged_generation == 5
        assert "altered" in report.refused_reason
        assert infer(client, rows(1))[1]["parameters"]["path"] == "neural"


def test_older_generation_is_refused(operator: FakeOperator) -> None:
    """A stale leader cannot bring a module back."""
    with running_pod(operator) as pod:
        operator.send(table(9))
        operator.wait_acknowledged(9)
        operator.send(table(8, pod.world.route(RouteMode.COMPILED)))
        wait_until(lambda: operator.last is not None and operator.last.refused_generation == 8, "the refusal")
        assert operator.last is not None
        assert operator.last.acknowledged_generation == 9
        assert "older" in operator.last.refused_reason


def test_operator_away_starts_from_the_mounted_table(tmp_path: Path) -> None:
    """And follows newer versions of the file, and the operator once it is back."""
    operator = FakeOperator()
    world = make_world(tmp_path / "artifacts")
    mounted = table(7, world.route(RouteMode.COMPILED))
    try:
        with started(world, tmp_path, operator, mounted=mounted) as pod:
            wait_until(pod.ready, "readiness")
            with contextlib.closing(pod.client()) as client:

                def generation() -> int:
                    return int(infer(client, rows(1))[1]["parameters"]["generation"])

                assert generation() == 7
                assert infer(client, rows(1))[1]["parameters"]["path"] == "compiled"
                pod.mount_table(table(8, SegmentRoute(segment=0)))
                wait_until(lambda: generation() == 8, "the newer mounted table")
                operator.start()
                operator.wait_acknowledged(8)
                operator.send(table(9, world.route(RouteMode.COMPILED)))
                wait_until(lambda: generation() == 9, "the operator's table")
    finally:
        operator.close()


def test_operator_restart_does_not_disturb_requests(operator: FakeOperator) -> None:
    """The last table is kept, the stream comes back with a new token, no request fails."""
    with running_pod(operator) as pod:
        operator.send(table(3, pod.world.route(RouteMode.COMPILED)))
        operator.wait_acknowledged(3)
        with Stream(pod) as stream:
            operator.stop()
            stream.wait_answered(60)
            (pod.directory / "token").write_text("rotated")
            operator.start()
            wait_until(lambda: "Bearer rotated" in operator.tokens, "the stream to be back")
            stream.wait_answered(50)
    assert (stream.failed, stream.wrong) == ([], [])
    assert stream.paths == {(3, "compiled")}


def test_operator_with_another_certificate_is_not_obeyed(operator: FakeOperator) -> None:
    """TLS is checked against the mounted CA; serving goes on."""
    trusted = FakeOperator()
    with (
        contextlib.closing(trusted),
        running_pod(trusted, ECO_CONTROL_ADDRESS=f"127.0.0.1:{operator.port}") as pod,
    ):
        operator.send(table(3))
        with contextlib.closing(pod.client()) as client:
            assert infer(client, rows(1))[1]["parameters"]["generation"] == 0
        assert operator.tokens == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"valid": timedelta(hours=-1)}, "certificate"), ({"token": "another"}, "the token is not for this model")],
    ids=["expired certificate", "wrong token"],
)
def test_operator_that_cannot_be_attached_to_does_not_disturb_requests(changes: Any, sentence: str) -> None:
    """The pod says why in its log, without the token, serves by the mounted table, and tries again."""
    refusing = FakeOperator(**changes)
    refusing.start()
    with contextlib.closing(refusing), tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name) / "artifacts")
        with started(world, Path(name), refusing, mounted=table(3, world.route(RouteMode.COMPILED))) as pod:
            wait_until(pod.ready, "readiness")
            with contextlib.closing(pod.client()) as client:
                status, answer = infer(client, rows(1))
            assert (status, answer["parameters"]["path"], answer["parameters"]["generation"]) == (200, "compiled", 3)
            wait_until(lambda: pod.log.count("control stream: ") > 1, "another try")
            told = [line for line in pod.log.splitlines() if "control stream: " in line]
            assert sentence in told[0].lower() and TOKEN not in pod.log and "Traceback" not in pod.log
            assert not refusing.reports


def test_sigterm_drains_without_a_failed_request(operator: FakeOperator) -> None:
    """Not ready first, then requests in flight are finished, then exit status 0."""
    with running_pod(operator) as pod, contextlib.closing(pod.client()) as client:
        pod.process.terminate()
        wait_until(lambda: pod.status("/v2/health/ready") == 503, "not ready")
        assert pod.status("/v2/health/live") == 200
        status, _ = infer(client, rows(1))
        assert status == 200
        assert pod.process.wait(30) == 0


@pytest.mark.parametrize(
    ("break_it", "sentence", "status"),
    [
        (lambda world: (world.directory / "plan.json").unlink(), "does not exist", 11),
        (lambda world: (world.directory / "plan.json").write_text("{}"), "ECO_PLAN_URI", 11),
        (lambda world: (world.directory / "model.onnx").write_bytes(b"x"), "digest", 11),
    ],
)
def test_unusable_plan_ends_the_pod_with_a_sentence(
    tmp_path: Path, break_it: object, sentence: str, status: int
) -> None:
    """The exit status is that of the error's group."""
    world: World = make_world(tmp_path / "artifacts")
    assert callable(break_it)
    break_it(world)
    with started(world, tmp_path, None) as pod:
        assert pod.process.wait(60) == status
        assert sentence in pod.log
        assert "Traceback" not in pod.log


@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_module_that_kills_the_process_is_kept_out_after_the_restart(tmp_path: Path, fault: str) -> None:
    """The container starts again in the same pod: the network answers what killed it, and the alert says why."""
    world = make_world(tmp_path / "artifacts")
    deadly = np.full((1, INPUTS), 3.0, dtype=np.float32)
    mounted = table(2, world.route(RouteMode.COMPILED, bundle=world.bundle(fault=fault)))
    with started(world, tmp_path, None, mounted=mounted, ECO_HANG_SECONDS="1") as pod:
        wait_until(pod.ready, "readiness")
        with contextlib.closing(pod.client()) as client, pytest.raises((OSError, http.client.HTTPException)):
            infer(client, deadly)
        assert pod.process.wait(60) != 0
    with started(world, tmp_path, None, mounted=mounted) as pod:
        wait_until(pod.ready, "readiness after the restart")
        with contextlib.closing(pod.client()) as client:
            status, answer = infer(client, deadly)
            assert (status, answer["parameters"]["segments"]) == (200, "0:neural:tripped")
            assert answer["parameters"]["generation"] == 2
            np.testing.assert_allclose(outputs(answer), oracle(deadly), atol=1e-5)
        assert "quarantined" in pod.log
        assert pod.stop() == 0
