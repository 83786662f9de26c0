"""The pod's comparing process: whatever happens to it, requests are answered."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.control import control_pb2
from ecompile_crds.routing import RouteMode

from tests.unit.workers.serving.world import rows, table

from .serving_pod import FakeOperator, Pod, Stream, infer, oracle, outputs, running_pod, wait_until

pytestmark = pytest.mark.timeout(600)


def children(pod: Pod) -> list[int]:
    """Process ids of the comparing process; none while it is not running."""
    listed = Path(f"/proc/{pod.process.pid}/task").glob("*/children")
    return [int(each) for file in listed for each in file.read_text().split()]


def metric(pod: Pod, name: str) -> float:
    with contextlib.closing(pod.client()) as client:
        client.request("GET", "/metrics")
        text = client.getresponse().read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@pytest.fixture
def operator() -> FakeOperator:
    made = FakeOperator()
    made.start()
    yield made
    made.close()


def test_killed_process_is_started_again_and_no_request_fails(operator: FakeOperator) -> None:
    """Killed, and stopped until it is killed: what it owed is dropped and counted, the module is not blamed."""
    with running_pod(operator) as pod:
        bundle = pod.world.bundle()
        operator.send(table(1, pod.world.route(RouteMode.COMPILED, compare=1.0, bundle=bundle)))
        operator.wait_acknowledged(1)
        with Stream(pod) as stream:
            wait_until(lambda: metric(pod, "ecompile_serving_segment_comparisons_total") > 50, "comparisons")
            (first,) = children(pod)
            assert os.sched_getscheduler(first) == os.SCHED_IDLE
            os.kill(first, signal.SIGSTOP)
            stream.wait_answered(600)  # more than the queue holds
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: children(pod) not in ([first], []), "another process")
            before = metric(pod, "ecompile_serving_segment_comparisons_total")
            wait_until(lambda: metric(pod, "ecompile_serving_segment_comparisons_total") > before + 50, "comparisons")
        assert not stream.failed and not stream.wrong
        assert metric(pod, "ecompile_serving_comparer_restarts_total") == 1
        dropped = metric(pod, "ecompile_serving_segment_dropped_comparisons_total")
        assert dropped > 256
        assert operator.last is not None and not operator.last.alerts
        wait_until(
            lambda: (
                metric(pod, "ecompile_serving_segment_comparisons_total")
                + metric(pod, "ecompile_serving_segment_dropped_comparisons_total")
                == metric(pod, "ecompile_serving_segment_requests_total")
            ),
            "every draw to be compared or counted as dropped",
        )
        (child,) = children(pod)
        pod.process.kill()
        pod.process.wait()
        wait_until(lambda: not Path(f"/proc/{child}").exists(), "the end of the comparing process")


@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_module_that_fails_in_shadow_does_not_harm_the_pod(operator: FakeOperator, fault: str) -> None:
    """It ends the comparing process: that is the module's fault, and the segment is neural."""
    with running_pod(operator) as pod, contextlib.closing(pod.client()) as client:
        operator.send(table(1, pod.world.route(RouteMode.SHADOW, compare=1.0, bundle=pod.world.bundle(fault=fault))))
        operator.wait_acknowledged(1)
        x = rows(1)
        x[0, 0] = 3.0
        status, answer = infer(client, x)
        assert status == 200
        np.testing.assert_allclose(outputs(answer), oracle(x), atol=1e-5)
        alert = operator.wait_alert(control_pb2.BREAKER)
        assert "failed where it was compared" in alert.detail
        assert infer(client, x)[1]["parameters"]["segments"] == "0:neural:tripped"
        assert pod.process.poll() is None and metric(pod, "ecompile_serving_comparer_restarts_total") == 1
