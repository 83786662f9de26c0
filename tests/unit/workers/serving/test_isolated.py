"""Modules in processes of their own: what they break is not the pod, and the network answers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.errors import ModelError
from ecompile_crds.hybridmodel import Isolation
from ecompile_crds.routing import RouteMode
from ecompile_workers.serving.breaker import AlertKind
from ecompile_workers.serving.bridge import Served
from ecompile_workers.serving.isolated import IsolatedFunction
from ecompile_workers.serving.local import LocalPod

from .world import INPUTS, KEY, OUTPUTS, make_world, oracle, rows, table

EVIDENCE = {"kind": "sampled", "samples": 100, "bound": 0.03, "confidence": 0.95}


def serve(path: Path, *, fault: str = "", evidence: dict[str, object] = EVIDENCE) -> LocalPod:
    world = make_world(path)
    pod = LocalPod(world.plan_uri, keys=[KEY.public_key()], isolation=Isolation.SAMPLED)
    pod.adopt(table(1, world.route(RouteMode.COMPILED, bundle=world.bundle(fault=fault, evidence=evidence))))
    return pod


def function_of(pod: LocalPod) -> IsolatedFunction:
    module = pod.bridge.state.segments[0].module
    assert module is not None and isinstance(module.function, IsolatedFunction)
    return module.function


def alive(process: int) -> bool:
    return os.path.exists(f"/proc/{process}")


def test_answers_are_those_of_the_module(tmp_path: Path) -> None:
    """More rows than are handed over at once, too; a refusal is told with its reason."""
    pod = serve(tmp_path)
    for count in (1, 64, 150):
        outcome = pod.infer(rows(count))
        assert outcome.served == (Served.COMPILED,)
        np.testing.assert_allclose(outcome.y, oracle(rows(count)), atol=1e-5)
    assert pod.infer(rows(1, scale=20.0) + 50).served == (Served.OUTSIDE_GUARD,)
    process = function_of(pod)._process.pid
    assert process != os.getpid() and alive(process)
    del outcome  # it knows the routes it was answered on
    pod.adopt(table(2))
    assert not alive(process)
    pod.close()


def test_proven_modules_stay_in_the_pod(tmp_path: Path) -> None:
    """Only sampled evidence is isolated."""
    pod = serve(tmp_path, evidence={"kind": "proven", "bound": 1e-6})
    module = pod.bridge.state.segments[0].module
    assert module is not None and not isinstance(module.function, IsolatedFunction)
    pod.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [("crash", "ended by SIGSEGV"), ("stray", "ended by SIG"), ("hang", "did not answer within")],
)
def test_broken_module_costs_one_answer_of_the_network(tmp_path: Path, fault: str, said: str) -> None:
    """The request is answered, the segment trips, the process is gone, and the next request does not ask it."""
    pod = serve(tmp_path, fault=fault)
    process = function_of(pod)._process.pid
    bad = rows(1)
    bad[0, 0] = 3.0
    start = time.monotonic()
    outcome = pod.infer(bad)
    assert time.monotonic() - start < 5.0
    assert outcome.served == (Served.FAULT,)
    np.testing.assert_allclose(outcome.y, oracle(bad), atol=1e-5)
    (alert,) = pod.alerts()
    assert alert.kind is AlertKind.BREAKER and said in alert.detail
    assert pod.infer(bad).served == (Served.TRIPPED,)
    assert not alive(process)
    pod.close()


def test_leaking_module_is_ended_before_it_takes_the_pods_memory(tmp_path: Path) -> None:
    """64 MiB a call, of 256."""
    pod = serve(tmp_path, fault="leak")
    bad = rows(1)
    bad[0, 0] = 3.0
    served = [pod.infer(bad).served[0] for _ in range(6)]
    assert Served.FAULT in served and served[-1] is Served.TRIPPED
    pod.close()


def test_library_that_cannot_be_loaded_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be loaded in a process: its process ended"):
        IsolatedFunction(b"not a library", macs=1, inputs=INPUTS, outputs=OUTPUTS)
