"""What the comparing process does: both paths again, for the jobs that a pod sends, within a share of one core.

It loads sessions and modules of its own, from the same files and with the same checks.
"""

from __future__ import annotations

import logging
import mmap
import time
from pathlib import Path

import numpy as np
from ecompile_crds.errors import EcompileError
from ecompile_crds.plan import Plan

from .comparison import Finding, examine
from .exchange import Announced, Exchange, Job, Result
from .modules import LoadedModule, ModuleStore, trusted_keys
from .neural import NeuralPath, Rows, load_path, load_reference, read_plan

logger = logging.getLogger(__name__)

SHORTEST_PAUSE_SECONDS = 0.001
LONGEST_PAUSE_SECONDS = 0.02
"""Nobody wakes this process, which would cost a request a system call: it looks, ever less often while there is
nothing."""
BURST_SECONDS = 0.5
"""Processor time that may be used at once, above the share."""


class Budget:
    """How long to pause, so that a share of one core is not exceeded. Pure: times are given."""

    def __init__(self, share: float, *, now: float, used: float) -> None:
        """`share` of one core, from 0 to 1; `used`: processor time so far, in seconds."""
        self._share = share
        self._now, self._used = now, used
        self._credit = BURST_SECONDS

    def pause_seconds(self, *, now: float, used: float) -> float:
        """Time to do nothing now. Credit and debt are bounded: neither an idle hour nor a slow load counts for long."""
        gained = (now - self._now) * self._share - (used - self._used)
        self._credit = max(-BURST_SECONDS, min(BURST_SECONDS, self._credit + gained))
        self._now, self._used = now, used
        return max(0.0, -self._credit / self._share)


class Worker:
    """Does the comparisons of one pod."""

    def __init__(self, exchange: Exchange, *, plan: Plan, plan_uri: str, modules: ModuleStore) -> None:
        self._exchange = exchange
        self._plan = plan
        self._plan_uri = plan_uri
        self._store = modules
        self._paths: dict[int, NeuralPath] = {}
        self._modules: dict[int, LoadedModule | EcompileError] = {}
        self._announced: dict[int, Announced] = {}

    def step(self) -> bool:
        """Do one job; False where there is none."""
        received = self._exchange.receive()
        if received is None:
            return False
        if isinstance(received, Announced):
            self._announced[received.module] = received
            return True
        self._exchange.answer(Result(received.number, *self._find(received)))
        return True

    def _find(self, job: Job) -> tuple[bool, Finding]:
        """Whether it could be done, and what was found."""
        try:
            with self._exchange.marked(job.number):
                module = self._module(job.module)
            neural = self._path(self._announced[job.module].segment)

            def run(x: Rows, y: Rows) -> int:
                with self._exchange.marked(job.number):
                    return module.run(x, y)

            return True, examine(
                neural=neural,
                run=run,
                outputs=module.outputs,
                x=job.x,
                answer=job.answer,
                compiled=job.compiled,
                neural_first=bool(job.number % 2),
                far=neural.reference.far if neural.reference is not None else None,
                proves=module.proves,
            )
        except EcompileError as error:
            logger.warning("comparison: %s", error.message)
            return False, Finding()
        except Exception as error:  # whatever a module or a session raises is a finding, not the end
            return True, Finding(fault=f"comparison failed: {type(error).__name__}: {error}")

    def _path(self, segment: int) -> NeuralPath:
        if segment not in self._paths:
            path = load_path(self._plan_uri, self._plan.segments[segment].neural)
            path.reference = load_reference(self._plan_uri, self._plan.segments[segment])
            self._paths[segment] = path
        return self._paths[segment]

    def _module(self, number: int) -> LoadedModule:
        """Loaded at its first job. Raises an EcompileError where it must not be used, or cannot be read now."""
        known = self._modules.get(number)
        if known is None:
            try:
                known = self._store.load(self._announced[number].route)
            except EcompileError as error:
                if error.retryable:
                    raise
                known = error
            self._modules[number] = known
        if isinstance(known, EcompileError):
            raise known
        return known


def work(*, memory: int, plan_uri: str, trust_dir: Path, cpu_share: float, idle_seconds: float) -> None:
    """Compare what arrives in the shared memory with descriptor `memory`, until nothing has for `idle_seconds`.

    Raises an EcompileError where the plan cannot be read.
    """
    np.seterr(over="ignore")
    plan = read_plan(plan_uri)
    modules = ModuleStore(plan, lambda: trusted_keys(trust_dir))
    exchange = Exchange(mmap.mmap(memory, 0), plan)
    worker = Worker(exchange, plan=plan, plan_uri=plan_uri, modules=modules)
    budget = Budget(cpu_share, now=time.monotonic(), used=time.process_time())
    pause, idle_since = SHORTEST_PAUSE_SECONDS, time.monotonic()
    while time.monotonic() - idle_since < idle_seconds:
        if worker.step():
            pause, idle_since = SHORTEST_PAUSE_SECONDS, time.monotonic()
            rest = budget.pause_seconds(now=idle_since, used=time.process_time())
            if rest:
                time.sleep(rest)
        else:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
