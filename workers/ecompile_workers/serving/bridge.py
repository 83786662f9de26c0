"""The bridge: one request through the segments, each on the path that its route says.

One immutable RouteState is in force; adopting a table or tripping a segment replaces it by one assignment, between
requests. A request keeps the state it started with. `infer` may run on any thread; everything that writes (`settle`,
`take_comparisons`, `adopt`) belongs to one thread, the event loop's in a pod, so there is no lock on the hot path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from random import Random
from typing import NamedTuple

import numpy as np
from ecompile_crds.hybridmodel import Analysis, Fairness, ServingPolicy
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute
from ecompile_crds.tracing import TraceContext, Tracer

from ..codegen._native import all_finite
from ..codegen.abi import Reason
from .breaker import Alert, SegmentWatch
from .comparison import Comparer, Comparison
from .counters import SegmentCounters, Totals
from .modules import LoadedModule
from .neural import Network, NeuralPath, Rows
from .policy import Admit, Distance, admission, apply

MAX_COMPARISONS = 1024
"""Results taken at once: each costs about 10 microseconds."""


class Served(StrEnum):
    """Which path answered a segment, and why."""

    COMPILED = "compiled"
    NEURAL = "neural:routed"
    SHADOW = "neural:shadow"
    CANARY = "neural:canary"
    """Not drawn for the module."""
    TRIPPED = "neural:tripped"
    REQUESTED = "neural:requested"
    OUTSIDE_GUARD = "neural:outside-guard"
    POLICY = "neural:policy"
    """The policy has the network answer, whatever the route."""
    NOT_ADMITTED = "neural:not-admitted"
    """The policy does not trust the module with this input: risk too high, or confidence too low."""
    FAULT = "neural:fault"


@dataclass(frozen=True, slots=True)
class SegmentState:
    """Route of one segment, ready to run."""

    index: int
    mode: RouteMode
    weight: float
    compare: float
    module: LoadedModule | None
    neural: NeuralPath
    watch: SegmentWatch
    otherwise: Served
    """What is said of a request that the neural path answers as routed."""
    routed_compare: float = 0.0
    """What the route says; `compare` is 1 while the watch is suspicious."""
    admit: Admit | None = None
    """What the policy asks besides the guard."""
    distance: Distance | None = None


@dataclass(frozen=True, slots=True)
class RouteState:
    """All routes in force."""

    generation: int
    segments: tuple[SegmentState, ...]
    all_neural: bool
    as_routed: tuple[Served, ...]
    as_requested: tuple[Served, ...]
    policy: ServingPolicy
    undrawn: tuple[tuple[bool, bool], ...]
    """Per segment, whether the module answers and whether it is compared, where no route leaves that to a draw; else
    empty."""


class Outcome(NamedTuple):
    """An answered request, before it is counted. A tuple: one is made per request."""

    state: RouteState
    y: Rows
    """[rows, outputs] float32."""
    served: tuple[Served, ...]
    comparisons: tuple[Comparison, ...] = ()
    faults: tuple[str, ...] = ()
    """Sentence per segment; empty where it did not fault, no entries where none did."""

    @property
    def path(self) -> str:
        """compiled, neural or mixed."""
        return describe(self.served)[0]


@lru_cache(maxsize=4096)
def describe(served: tuple[Served, ...]) -> tuple[str, str]:
    """The path of a whole request (compiled, neural or mixed), and who answered each segment: `0:compiled,1:...`."""
    compiled = sum(each is Served.COMPILED for each in served)
    path = "neural" if not compiled else "compiled" if compiled == len(served) else "mixed"
    return path, ",".join(f"{index}:{how.value}" for index, how in enumerate(served))


class Bridge:
    """Serves one network."""

    def __init__(
        self,
        network: Network,
        *,
        analysis: Analysis,
        random: Random,
        comparer: Comparer,
        alerted: Callable[[Alert], None] = lambda alert: None,
        fairness: Fairness | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.network = network
        self._fairness = fairness
        self._tracer = tracer
        self.totals = Totals()
        self.analysis = analysis
        self._random = random
        self._comparer = comparer
        self._alerted = alerted
        self._state = self._build(0, None, {})

    @property
    def state(self) -> RouteState:
        """The routes in force."""
        return self._state

    def adopt(
        self,
        table: RoutingTable,
        modules: Mapping[int, LoadedModule],
        *,
        kept_out: Mapping[int, str] | None = None,
        restore: Callable[[SegmentWatch, LoadedModule], None] = lambda watch, module: None,
    ) -> None:
        """Put a judged table in force.

        Each segment whose mode is not neural has its module in `modules`, or the reason why it must not be used in
        `kept_out`: it is served by the network, with an alert. `restore` gives new watches what was known of them
        before a restart.
        """
        state = self._build(table.generation, table, modules)
        alerts = []
        for segment in state.segments:
            if segment.module is not None:
                restore(segment.watch, segment.module)
                if segment.watch.alert is not None:
                    alerts.append(segment.watch.alert)
            elif kept_out and segment.index in kept_out:
                alert = segment.watch.keep_out(kept_out[segment.index])
                assert alert is not None, "a new watch has no alert yet"
                alerts.append(alert)
        self._state = _tripped(state, {alert.segment for alert in alerts})
        if any(segment.compare > 0.0 for segment in self._state.segments):
            self._comparer.prepare()
        for alert in alerts:
            self._count_trip(alert)
            self._alerted(alert)

    def infer(
        self, x: Rows, *, neural_only: bool = False, group: str = "", trace: TraceContext | None = None
    ) -> Outcome:
        """Answer rows [rows, features] float32, C-contiguous. `group`: the request's label, for what is compared;
        `trace`: of its span, where it is traced."""
        if trace is None or self._tracer is None:
            return self._answer(x, neural_only, group, None)
        with self._tracer.span("bridge", trace, rows=len(x)) as span:
            outcome = self._answer(x, neural_only, group, span.context)
            span.attributes["ecompile.generation"] = outcome.state.generation
            span.attributes["ecompile.path"] = outcome.path
        return outcome

    def _answer(self, x: Rows, neural_only: bool, group: str, trace: TraceContext | None) -> Outcome:
        state = self._state
        if neural_only:
            return Outcome(state, self.network.whole(x), state.as_requested)
        if state.all_neural:
            return Outcome(state, self.network.whole(x), state.as_routed)
        draws = state.undrawn or self._draw(state)
        if not draws:
            return Outcome(state, self.network.whole(x), state.as_routed)
        served: list[Served] = []
        comparisons: list[Comparison] = []
        faults: list[str] = []
        for segment, (use, compare) in zip(state.segments, draws, strict=True):
            if trace is None or self._tracer is None:
                x, how, comparison, fault = _run(segment, x, use, compare, group)
            else:
                with self._tracer.span(f"segment {segment.index}", trace) as span:
                    x, how, comparison, fault = _run(segment, x, use, compare, group)
                    span.attributes["ecompile.served"] = how.value
                    span.error = fault
            served.append(how)
            faults.append(fault)
            if comparison is not None:
                comparisons.append(comparison)
        return Outcome(state, x, tuple(served), tuple(comparisons), tuple(faults) if any(faults) else ())

    def _draw(self, state: RouteState) -> Sequence[tuple[bool, bool]]:
        """Per segment, whether the module answers and whether it is compared; empty where neither is drawn anywhere."""
        draw = self._random.random
        drawn, needed = [], False
        for segment in state.segments:
            use = _uses_module(segment, draw)
            compare = segment.compare > 0.0 and draw() < segment.compare
            needed = needed or use or compare
            drawn.append((use, compare))
        return drawn if needed else ()

    def settle(self, outcome: Outcome, *, requests: int = 1) -> None:
        """Count the requests that one pass answered, queue its comparisons, trip what must be tripped."""
        self.totals.requests += requests
        if outcome.served is outcome.state.as_requested:
            return
        for position, segment in enumerate(outcome.state.segments):
            watch, how = segment.watch, outcome.served[position]
            for _ in range(requests):
                watch.requested()
                alert = None
                if how is Served.COMPILED:
                    alert = watch.answered()
                elif how is Served.OUTSIDE_GUARD or how is Served.NOT_ADMITTED:
                    alert = watch.refused()
                elif how is Served.FAULT:
                    alert = watch.faulted(outcome.faults[position])
                if alert is not None:
                    self._trip(alert)
        for comparison in outcome.comparisons:
            if not self._comparer.submit(comparison):
                comparison.watch.dropped()

    def take_comparisons(self, most: int = MAX_COMPARISONS) -> None:
        """Count finished comparisons and trip what must be tripped. Cheap when there are none; call it often."""
        for _ in range(most):
            result = self._comparer.take()
            if result is None:
                return
            alert = result.watch.compared(result)
            if alert is not None:
                self._trip(alert)
            self._attend(result.watch)

    def _attend(self, watch: SegmentWatch) -> None:
        """Compare each request at a segment that has just answered badly; as routed again once it has not for long."""
        state = self._state
        if watch.generation != state.generation:
            return
        segment = state.segments[watch.segment]
        compare = 1.0 if watch.suspicious and segment.routed_compare > 0.0 else segment.routed_compare
        if compare != segment.compare:
            changed = replace(segment, compare=compare)
            segments = tuple(changed if each is segment else each for each in state.segments)
            self._state = _state(state.generation, segments, state.policy)

    def counters(self) -> tuple[SegmentCounters, ...]:
        """Per segment, since the generation in force came into force."""
        self.take_comparisons()
        return tuple(segment.watch.counters() for segment in self._state.segments)

    def alerts(self) -> tuple[Alert, ...]:
        """Standing alerts of the generation in force."""
        found = (segment.watch.alert for segment in self._state.segments)
        return tuple(alert for alert in found if alert is not None)

    def modules(self) -> tuple[str, ...]:
        """Names of the modules loaded and warmed for the generation in force."""
        return tuple(segment.module.name for segment in self._state.segments if segment.module is not None)

    def _trip(self, alert: Alert) -> None:
        self._count_trip(alert)
        if alert.generation != self._state.generation:
            return  # of a generation that is no longer in force: its module may be gone, or fixed
        self._state = _tripped(self._state, {alert.segment})
        self._alerted(alert)

    def _count_trip(self, alert: Alert) -> None:
        key, trips = (alert.segment, alert.kind.value), self.totals.trips
        trips[key] = trips.get(key, 0) + 1

    def _build(self, generation: int, table: RoutingTable | None, modules: Mapping[int, LoadedModule]) -> RouteState:
        routes = {route.segment: route for route in table.segments} if table is not None else {}
        policy = table.policy if table is not None else ServingPolicy()
        return _state(
            generation,
            tuple(
                self._segment(index, generation, routes.get(index), modules.get(index), policy)
                for index in range(len(self.network.segments))
            ),
            policy,
        )

    def _segment(
        self,
        index: int,
        generation: int,
        route: SegmentRoute | None,
        module: LoadedModule | None,
        policy: ServingPolicy,
    ) -> SegmentState:
        neural = self.network.segments[index]
        asked = route.mode if route is not None else RouteMode.NEURAL
        watch = SegmentWatch(
            segment=index,
            generation=generation,
            analysis=self.analysis,
            total=self.totals.segment(index),
            risk=module.risk if module is not None else None,
            fairness=self._fairness,
        )
        if route is None or module is None or asked is RouteMode.NEURAL:
            return SegmentState(
                index=index,
                mode=RouteMode.NEURAL,
                weight=0.0,
                compare=0.0,
                module=None,
                neural=neural,
                watch=watch,
                otherwise=_OTHERWISE[asked],
            )
        applied = apply(policy, asked, weight=route.weight, compare=route.compare)
        return SegmentState(
            index=index,
            mode=applied.mode,
            weight=applied.weight,
            compare=applied.compare,
            module=module,
            neural=neural,
            watch=watch,
            otherwise=Served.POLICY if applied.by_policy else _OTHERWISE[asked],
            routed_compare=applied.compare,
            admit=admission(
                policy,
                risk=module.calibrated,
                distance=neural.distance,
                stability=self.network.plan.segments[index].stability,
                accuracy=watch.last_accuracy,
            ),
            distance=neural.distance,
        )


_OTHERWISE = {
    RouteMode.NEURAL: Served.NEURAL,
    RouteMode.SHADOW: Served.SHADOW,
    RouteMode.CANARY: Served.CANARY,
    RouteMode.COMPILED: Served.NEURAL,
}


def _state(generation: int, segments: tuple[SegmentState, ...], policy: ServingPolicy) -> RouteState:
    drawn = any(s.mode is RouteMode.CANARY or s.compare > 0.0 for s in segments)
    return RouteState(
        generation=generation,
        segments=segments,
        all_neural=all(s.mode is RouteMode.NEURAL for s in segments),
        as_routed=tuple(s.otherwise for s in segments),
        as_requested=tuple(Served.REQUESTED for _ in segments),
        policy=policy,
        undrawn=() if drawn else tuple((s.mode is RouteMode.COMPILED, False) for s in segments),
    )


def _tripped(state: RouteState, indices: set[int]) -> RouteState:
    """The same routes, with these segments neural."""
    if not indices:
        return state
    segments = tuple(
        replace(s, mode=RouteMode.NEURAL, weight=0.0, compare=0.0, routed_compare=0.0, otherwise=Served.TRIPPED)
        if s.index in indices
        else s
        for s in state.segments
    )
    return _state(state.generation, segments, state.policy)


def _uses_module(segment: SegmentState, draw: Callable[[], float]) -> bool:
    if segment.mode is RouteMode.CANARY:
        return draw() < segment.weight
    return segment.mode is RouteMode.COMPILED


def _run(
    segment: SegmentState, x: Rows, use: bool, compare: bool, group: str
) -> tuple[Rows, Served, Comparison | None, str]:
    """One segment: its output, who gave it, the comparison drawn, and the sentence of a fault."""
    module, neural = segment.module, segment.neural
    if module is None:
        return neural(x), segment.otherwise, None, ""
    if not use:
        y = neural(x)
        return (
            y,
            segment.otherwise,
            Comparison(segment.watch, module, neural, x, y, False, group) if compare else None,
            "",
        )
    if segment.admit is not None and not segment.admit(x):
        return neural(x), Served.NOT_ADMITTED, None, ""
    y = np.empty((x.shape[0], module.outputs), dtype=np.float32)
    try:
        reason = module.run(x, y)
    except Exception as error:  # whatever the module's call raises, the network answers
        return neural(x), Served.FAULT, None, f"the module raised {type(error).__name__}: {error}"
    if reason == 0 and all_finite(y):  # Reason.OK; comparing with the enum takes longer
        return y, Served.COMPILED, Comparison(segment.watch, module, neural, x, y, True, group) if compare else None, ""
    answer = neural(x)
    if reason in (Reason.OK, Reason.NON_FINITE_OUTPUT) and np.isfinite(answer).all():
        return answer, Served.FAULT, None, "the module's output is not finite where the network's is"
    return answer, Served.OUTSIDE_GUARD, None, ""
