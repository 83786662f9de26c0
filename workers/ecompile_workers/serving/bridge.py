"""One request through the network: for each segment, compiled code or the neural path, decided by the route in force.

The state is swapped whole, by one assignment, between requests: no lock on the way, and a request in flight finishes
on the state it started with.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from ecompile_crds.errors import Code, DataError, EcompileError
from ecompile_crds.hybridmodel import Analysis
from ecompile_crds.plan import Plan
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute
from numpy.typing import NDArray

from ..codegen.abi import Reason
from ..codegen.loader import CompiledFunction
from ..data.arrays import ELEMENT_TYPES
from ..equivalence.metrics import row_delta
from .modules import ModuleStore
from .monitor import Alert, Monitor

Rows = NDArray[np.float32]
QUEUE_SIZE = 256
"""Comparisons that may wait; more are dropped and counted."""


@dataclass(frozen=True, kw_only=True)
class SegmentState:
    """How one segment is served."""

    route: SegmentRoute
    module: CompiledFunction | None
    monitor: Monitor


@dataclass(frozen=True, kw_only=True)
class RouteState:
    """Everything that a request needs, immutable."""

    generation: int
    segments: tuple[SegmentState, ...]
    all_neural: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Outputs, and who made them."""

    outputs: Rows
    """[rows, outputs]"""
    paths: tuple[str, ...]
    """Per segment: `compiled`, or `neural` with the reason in brackets."""
    generation: int


class NeuralPath:
    """One ONNX Runtime session, called with flat rows."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        source = self._session.get_inputs()[0]
        self._name = source.name
        self._shape = tuple(int(d) for d in source.shape[1:])
        self._dtype = ELEMENT_TYPES[source.type]

    def __call__(self, rows: Rows) -> Rows:
        """[rows, inputs] -> [rows, outputs]."""
        feed = rows.reshape(len(rows), *self._shape).astype(self._dtype, copy=False)
        outputs = self._session.run(None, {self._name: feed})[0]
        return np.asarray(outputs.reshape(len(rows), -1), dtype=np.float32)


@dataclass(frozen=True)
class _Comparison:
    monitor: Monitor
    rows: Rows
    other: Callable[[Rows], Rows | None]
    answer: Rows


class Bridge:
    """The network as it is served."""

    def __init__(
        self,
        plan: Plan,
        read: Callable[[str], bytes],
        *,
        analysis: Analysis,
        modules: ModuleStore,
        seed: int | None = None,
    ) -> None:
        """`read` returns a file of the plan by its name, verified."""
        self.plan = plan
        self._analysis = analysis
        self._modules = modules
        self._random = random.Random(seed)
        self._whole = NeuralPath(read(plan.neural.path))
        single = len(plan.segments) == 1
        self._neural = [self._whole if single else NeuralPath(read(s.neural.path)) for s in plan.segments]
        self._queue: queue.Queue[_Comparison] = queue.Queue(maxsize=QUEUE_SIZE)
        self.alerted: Callable[[], None] = lambda: None
        """Called, from any thread, when a segment trips."""
        neural = tuple(SegmentRoute(segment=s.index) for s in plan.segments)
        self._state = self._make_state(0, neural, {})
        threading.Thread(target=self._compare_for_ever, daemon=True, name="comparison").start()

    @property
    def state(self) -> RouteState:
        return self._state

    def _make_state(
        self, generation: int, routes: Sequence[SegmentRoute], modules: dict[int, CompiledFunction]
    ) -> RouteState:
        segments = tuple(
            SegmentState(
                route=route,
                module=modules.get(route.segment),
                monitor=Monitor(route.segment, generation, self._analysis),
            )
            for route in routes
        )
        return RouteState(
            generation=generation,
            segments=segments,
            all_neural=all(s.route.mode is RouteMode.NEURAL for s in segments),
        )

    def adopt(self, table: RoutingTable) -> None:
        """Bring a table into force: modules are loaded and warmed first, then the state is swapped.

        Raises EcompileError where the table is not for this pod, older than the one in force, or a module of it cannot
        be used; then the state is as before.
        """
        plan = self.plan
        if (table.namespace, table.model, table.life) != (plan.namespace, plan.model, plan.life):
            raise DataError(
                Code.REQUEST_INVALID,
                f"the routing table is for {table.namespace}/{table.model} life {table.life}; "
                f"this pod serves {plan.namespace}/{plan.model} life {plan.life}.",
            )
        current = self._state
        if table.generation < current.generation:
            raise DataError(
                Code.REQUEST_INVALID,
                f"routing generation {table.generation} is older than {current.generation}, which is in force.",
            )
        if table.generation == current.generation:
            return
        by_segment = {route.segment: route for route in table.segments}
        routes = [by_segment.get(s.index, SegmentRoute(segment=s.index)) for s in plan.segments]
        modules = {}
        loaded = {s.route.bundle_digest: s.module for s in current.segments if s.module is not None}
        for route, segment in zip(routes, plan.segments, strict=True):
            if route.mode is RouteMode.NEURAL:
                continue
            known = loaded.get(route.bundle_digest)
            modules[route.segment] = known or self._modules.load(
                route, inputs=segment.input.size, outputs=segment.output.size
            )
        self._state = self._make_state(table.generation, routes, modules)

    def alerts(self) -> tuple[Alert, ...]:
        """Standing alerts of the generation in force."""
        return tuple(s.monitor.alert for s in self._state.segments if s.monitor.alert is not None)

    def infer(self, rows: Rows, *, force_neural: bool = False) -> Answer:
        """Answer [rows, inputs]; always answers, by the neural path where nothing else does."""
        state = self._state
        if force_neural or state.all_neural:
            why = "neural (asked for)" if force_neural else "neural"
            outputs = self._whole(rows)
            if not force_neural:
                for segment in state.segments:
                    segment.monitor.request(compiled=False)
            return Answer(outputs=outputs, paths=(why,) * len(state.segments), generation=state.generation)
        paths = []
        current = rows
        for segment, neural in zip(state.segments, self._neural, strict=True):
            current, path = self._segment(segment, neural, current)
            paths.append(path)
        return Answer(outputs=current, paths=tuple(paths), generation=state.generation)

    def _segment(self, segment: SegmentState, neural: NeuralPath, rows: Rows) -> tuple[Rows, str]:
        route, module, monitor = segment.route, segment.module, segment.monitor
        if module is None or monitor.tripped:
            monitor.request(compiled=False)
            return neural(rows), "neural" if module is None else "neural (breaker)"
        draw = self._random.random()
        compare = self._random.random() < route.compare
        if route.mode is RouteMode.SHADOW or (route.mode is RouteMode.CANARY and draw >= route.weight):
            start = time.perf_counter()
            outputs = neural(rows)
            monitor.timed(neural=time.perf_counter() - start)
            monitor.request(compiled=False)
            if compare:
                self._later(monitor, rows, lambda x: self._run_module(module, monitor, x), outputs)
            return outputs, f"neural ({route.mode.value})"
        answer = self._run_module(module, monitor, rows)
        if answer is None:
            monitor.request(compiled=False)
            return neural(rows), "neural (fallback)"
        monitor.request(compiled=True)
        if compare:
            self._later(monitor, rows, lambda x: self._timed_neural(neural, monitor, x), answer)
        return answer, "compiled"

    def _run_module(self, module: CompiledFunction, monitor: Monitor, rows: Rows) -> Rows | None:
        """The module's answer, or None where it refused or failed."""
        start = time.perf_counter()
        try:
            reason, outputs = module(rows)
        except (ValueError, OSError, EcompileError) as error:
            monitor.fault(f"the module raised {type(error).__name__}: {error}")
            self.alerted()
            return None
        monitor.timed(compiled=time.perf_counter() - start)
        if reason is Reason.NON_FINITE_OUTPUT and np.isfinite(rows).all():
            monitor.fault("the module's output is not finite")
        else:
            monitor.guarded(accepted=reason is Reason.OK, detail=reason.name.lower().replace("_", " "))
        if monitor.tripped:
            self.alerted()
        return outputs if reason is Reason.OK else None

    def _timed_neural(self, neural: NeuralPath, monitor: Monitor, rows: Rows) -> Rows:
        start = time.perf_counter()
        outputs = neural(rows)
        monitor.timed(neural=time.perf_counter() - start)
        return outputs

    def _later(self, monitor: Monitor, rows: Rows, other: Callable[[Rows], Rows | None], answer: Rows) -> None:
        """Compare off the request path; never waits."""
        try:
            self._queue.put_nowait(_Comparison(monitor, rows, other, answer))
        except queue.Full:
            monitor.drop()

    def _compare_for_ever(self) -> None:
        while True:
            job = self._queue.get()
            try:
                other = job.other(job.rows)
                if other is not None:
                    for delta in row_delta(job.answer, other):
                        job.monitor.compared(float(delta))
                    if job.monitor.tripped:
                        self.alerted()
            except Exception as error:
                # A comparison may fail in any way; it must never take the thread, and with it all comparisons, down.
                job.monitor.fault(f"the comparison raised {type(error).__name__}: {error}")
                self.alerted()
            finally:
                self._queue.task_done()

    def drain_comparisons(self) -> None:
        """Wait until every queued comparison is done: for runs without a server, and for tests."""
        self._queue.join()
