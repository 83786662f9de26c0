"""A serving pod's inside without its network: for `ecompile run --local` and for tests. Not thread-safe."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from ecompile_crds.errors import Code, DataError, DeadlineError
from ecompile_crds.hybridmodel import Analysis, Fairness, Isolation
from ecompile_crds.routing import RouteMode, RoutingTable

from ..data import store
from .breaker import Alert
from .bridge import Bridge, Outcome
from .comparison import ThreadComparer
from .counters import SegmentCounters
from .modules import ModuleStore
from .neural import Rows, load_network
from .routing import Answer, Identity, judge

POLL_SECONDS = 0.001


class LocalPod:
    """Adopts tables, answers, compares, trips: the same code as in a pod, in this process."""

    def __init__(
        self,
        plan_uri: str,
        *,
        keys: Sequence[Ed25519PublicKey],
        analysis: Analysis | None = None,
        fairness: Fairness | None = None,
        isolation: Isolation = Isolation.NONE,
        seed: int = 0,
        resolve: Callable[[str], str] = lambda uri: uri,
    ) -> None:
        """Load the network of a plan.

        Raises DataError, ResourceError or ModelError where its files cannot be used.
        """
        network = load_network(plan_uri, resolve=resolve)
        trusted = tuple(keys)
        self._comparer = ThreadComparer()
        self.modules = ModuleStore(
            network.plan, lambda: trusted, read=lambda uri: store.read(resolve(uri), what="bundle"), isolation=isolation
        )
        plan = network.plan
        self._identity = Identity(namespace=plan.namespace, model=plan.model, life=plan.life)
        self.bridge = Bridge(
            network,
            analysis=analysis or Analysis(),
            random=Random(seed),
            comparer=self._comparer,
            fairness=fairness,
        )
        self._comparer.start()

    def adopt(self, table: RoutingTable) -> None:
        """Bring a table into force.

        Raises an EcompileError where a pod would refuse it; the table before then stays.
        """
        current = self.bridge.state.generation
        judgement = judge(table, identity=self._identity, plan=self.bridge.network.plan, current=current)
        if judgement.answer is Answer.REFUSE:
            raise DataError(Code.REQUEST_INVALID, judgement.reason)
        if judgement.answer is Answer.ADOPT:
            routes = [route for route in table.segments if route.mode is not RouteMode.NEURAL]
            self.bridge.adopt(table, {route.segment: self.modules.load(route) for route in routes})

    def infer(self, rows: Rows, *, neural_only: bool = False, group: str = "") -> Outcome:
        """Answer rows [rows, features] and count the request."""
        self.bridge.take_comparisons()
        flat = np.ascontiguousarray(rows, dtype=np.float32).reshape(len(rows), -1)
        outcome = self.bridge.infer(flat, neural_only=neural_only, group=group)
        self.bridge.settle(outcome)
        return outcome

    def finish_comparisons(self, timeout_seconds: float = 10.0) -> None:
        """Wait until every queued comparison is counted.

        Raises DeadlineError.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self._comparer.idle:
            if time.monotonic() > deadline:
                raise DeadlineError(Code.DEADLINE_EXCEEDED, "comparisons did not finish in time.")
            time.sleep(POLL_SECONDS)
        self.bridge.take_comparisons()

    def counters(self) -> tuple[SegmentCounters, ...]:
        """Per segment, since the table in force was adopted."""
        return self.bridge.counters()

    def alerts(self) -> tuple[Alert, ...]:
        """Standing alerts."""
        self.bridge.take_comparisons()
        return self.bridge.alerts()

    def close(self) -> None:
        """End the comparison thread."""
        self._comparer.stop()
