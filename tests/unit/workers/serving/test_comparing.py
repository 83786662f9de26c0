"""What a pod and its comparing process tell each other, and the process's judgement, without the process."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ecompile_crds.plan import Plan
from ecompile_workers.serving import exchange as exchanges
from ecompile_workers.serving.compare_worker import BURST_SECONDS, Budget, Worker
from ecompile_workers.serving.comparison import NOT_FINITE, Finding
from ecompile_workers.serving.exchange import Announced, Exchange, Job, Result, shared_bytes
from ecompile_workers.serving.modules import ModuleStore
from hypothesis import given
from hypothesis import strategies as st

from .world import KEY, OUTPUTS, World, make_world, oracle, rows


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


class Ends:
    """The two ends of an exchange in one process."""

    def __init__(self, world: World) -> None:
        self.plan = Plan.model_validate_json((world.directory / "plan.json").read_bytes())
        memory = mmap.mmap(-1, shared_bytes(self.plan))
        self.pod, self.process = Exchange(memory, self.plan), Exchange(memory, self.plan)
        store = ModuleStore(self.plan, lambda: (KEY.public_key(),))
        self.worker = Worker(self.process, plan=self.plan, plan_uri=world.plan_uri, modules=store)

    def announce(self, bundle: tuple[str, str], *, module: int = 1) -> None:
        assert self.pod.announce(Announced(module, 0, *bundle))

    def compare(self, number: int, x: Any, answer: Any, *, compiled: bool) -> Result:
        assert self.pod.send(Job(number, 1, compiled, x, answer))
        while self.worker.step():
            pass
        result = self.pod.collect()
        assert result is not None and result.number == number
        return result


@pytest.fixture
def ends(world: World) -> Iterator[Ends]:
    made = Ends(world)
    yield made
    made.pod.release()
    made.process.release()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_faithful_module_differs_by_rounding_only(ends: Ends, world: World, compiled: bool, number: int) -> None:
    """Both paths are timed there."""
    ends.announce(world.bundle())
    x = rows(5)
    _, finding = ends.compare(number, x, oracle(x), compiled=compiled)[1:]
    assert finding.delta is not None and finding.delta < 1e-5
    assert finding.compiled_seconds > 0 and finding.neural_seconds > 0 and not finding.fault
    assert ends.pod.running == 0


def test_wrong_module_is_found_wherever_it_ran(ends: Ends, world: World) -> None:
    """The same error: of the pod's answer, and of the process's own run."""
    ends.announce(world.bundle(scale=1.5))
    x = rows(5)
    shadow = ends.compare(1, x, oracle(x), compiled=False).finding.delta
    module = ends.worker._module(1)
    answer = np.empty((5, OUTPUTS), dtype=np.float32)
    assert module.run(x, answer) == 0
    compiled = ends.compare(2, x, answer, compiled=True).finding.delta
    assert shadow is not None and compiled is not None and shadow > 0.01
    assert compiled == pytest.approx(shadow, rel=1e-4)


def test_refusals_and_faults_are_told_apart(ends: Ends, world: World) -> None:
    """Outside the guard; not finite; and a module that refuses what it has answered."""
    ends.announce(world.bundle(fault="nan"))
    x = rows(1)
    x[0, 0] = 3.0
    finding = ends.compare(1, x, oracle(x), compiled=False).finding
    assert (finding.delta, finding.fault) == (None, NOT_FINITE)
    ends.announce(world.bundle(), module=2)
    far = rows(1, scale=10.0)
    assert ends.pod.send(Job(2, 2, False, far, oracle(far)))
    while ends.worker.step():
        pass
    refused = ends.pod.collect()
    assert refused == Result(2, True, Finding(refused=True))
    assert ends.pod.send(Job(3, 2, True, far, oracle(far)))
    while ends.worker.step():
        pass
    result = ends.pod.collect()
    assert result is not None and "refused an input that it had answered" in result.finding.fault


def test_module_that_must_not_be_used_is_not_done(ends: Ends, world: World) -> None:
    """Altered after it was signed: dropped, not a fault of the pod's module."""
    ends.announce(world.bundle(alter=True))
    assert ends.compare(1, rows(1), oracle(rows(1)), compiled=True) == Result(1, False, Finding())


@given(
    delta=st.none() | st.floats(allow_nan=False),
    seconds=st.tuples(st.floats(0, 9), st.floats(0, 9)),
    refused=st.booleans(),
    fault=st.text(max_size=500),
    far=st.none() | st.floats(0, 1),
    proven=st.booleans(),
)
def test_results_arrive_as_they_were_told(
    delta: float | None, seconds: tuple[float, float], refused: bool, fault: str, far: float | None, proven: bool
) -> None:
    """A long sentence is cut."""
    segment = SimpleNamespace(input=SimpleNamespace(size=3), output=SimpleNamespace(size=2))
    plan: Any = SimpleNamespace(segments=[segment])
    both = Exchange(mmap.mmap(-1, shared_bytes(plan)), plan)
    both.answer(Result(7, True, Finding(delta, *seconds, refused, fault, far, proven)))
    found = both.collect()
    assert found is not None
    assert found.finding[:4] == (delta, *seconds, refused)
    assert (found.finding.far, found.finding.proven) == (far, proven)
    told = fault.encode()[: exchanges.MAX_FAULT_BYTES].decode(errors="replace")
    assert found.finding.fault == told
    both.release()


def test_of_many_rows_some_are_compared(ends: Ends, world: World) -> None:
    """Every n-th, so that a large request neither fills the ring nor is left out."""
    ends.announce(world.bundle())
    x = rows(50_000)
    assert ends.pod.send(Job(1, 1, True, x, oracle(x)))
    ends.process.receive()
    job = ends.process.receive()
    assert isinstance(job, Job) and 1000 < len(job.x) < 50_000
    np.testing.assert_array_equal(job.answer, oracle(job.x))


def test_full_ring_refuses(ends: Ends, world: World) -> None:
    """Nobody reads: nobody waits."""
    ends.announce(world.bundle())
    x = rows(100)
    taken = sum(ends.pod.send(Job(n + 1, 1, True, x, oracle(x))) for n in range(1000))
    assert 50 < taken < 1000


def test_budget_pauses_for_what_was_used_above_the_share() -> None:
    """A quarter of a core: a burst at once, then three parts of rest for one of work; neither idle hours nor one slow
    load count for long."""
    budget = Budget(0.25, now=0.0, used=0.0)
    assert budget.pause_seconds(now=0.4, used=0.4) == 0.0
    assert budget.pause_seconds(now=1.0, used=1.0) == pytest.approx((1.0 - BURST_SECONDS - 0.25) / 0.25)
    assert budget.pause_seconds(now=3600.0, used=1.0) == 0.0
    assert budget.pause_seconds(now=3600.5, used=1.5) == 0.0
    assert budget.pause_seconds(now=3700.0, used=101.0) == pytest.approx(BURST_SECONDS / 0.25)
