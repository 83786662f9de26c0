"""What goes wrong in a run: drawn from a seed, or one kill at one chosen point."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from ecompile_operator.kube.client import Manifest
from ecompile_operator.kube.errors import Conflict, Unavailable

from .operators import Operator

LATENCY_SECONDS = 0.002
Event = tuple[str, Manifest]


@dataclass(kw_only=True)
class Plan:
    """Rates are per request or event; times are seconds since the start of the run."""

    kill_at: frozenset[int] = frozenset()
    """Numbers of points (before and after each request, before each event) at which the operator there is killed."""
    refuse: float = 0.0
    """A request is refused with 409 (writes), 429 or 500, before it has an effect."""
    lose: float = 0.0
    """A request has its effect and its answer is lost."""
    delay: float = 0.0
    """A request or event takes up to three seconds."""
    outages: tuple[tuple[float, float], ...] = ()
    """The API server answers nobody, and watches break."""
    repeat: float = 0.0
    """An event comes twice, or an earlier event about the same object comes again after it."""
    cut: float = 0.0
    """A watch breaks instead of bringing an event."""
    freezes: tuple[float, ...] = ()
    """The leader of that moment stands still for `FREEZE_SECONDS`, with its requests on their way."""


FREEZE_SECONDS = 25.0
"""Longer than a lease: another leads meanwhile."""


@dataclass
class SeededFaults:
    """Carries a plan out."""

    plan: Plan
    random: Random
    clock: Callable[[], float]
    healed: bool = False
    """From then on nothing goes wrong any more."""
    points: int = 0
    kills: int = 0
    hits: int = 0
    """Faults that were met."""
    _frozen: dict[str, float] = field(default_factory=dict)
    _earlier: dict[tuple[str, str, str], Event] = field(default_factory=dict)

    def freeze(self, operator: Operator) -> None:
        """That operator stands still."""
        self._frozen[operator.name] = self.clock() + FREEZE_SECONDS

    async def before(self, operator: Operator, method: str, path: str) -> None:
        self._point(operator)
        await self._delays(operator)
        if self.healed:
            return
        self._outage()
        if self.random.random() < self.plan.refuse:
            self.hits += 1
            if method in ("PUT", "PATCH", "DELETE") and self.random.random() < 0.5:
                raise Conflict("the object has been modified", status=409)
            raise Unavailable("too many requests" if self.random.random() < 0.5 else "internal error", status=500)

    async def after(self, operator: Operator, method: str, path: str) -> None:
        self._point(operator)
        await self._delays(operator)
        if not self.healed:
            self._outage()
            if self.random.random() < self.plan.lose:
                self.hits += 1
                raise Unavailable("connection reset", status=0)

    async def deliver(self, operator: Operator, event: Event) -> list[Event]:
        self._point(operator)
        await self._delays(operator)
        if self.healed:
            return [event]
        self._outage()
        if self.random.random() < self.plan.cut:
            self.hits += 1
            raise Unavailable("connection reset")
        meta = event[1]["metadata"]
        place = (operator.name, meta.get("namespace", ""), meta["name"])
        earlier = self._earlier.get(place, event)
        self._earlier[place] = event
        if self.random.random() < self.plan.repeat:
            self.hits += 1
            return [event, earlier]
        return [event]

    def _point(self, operator: Operator) -> None:
        self.points += 1
        if self.points in self.plan.kill_at:
            self.kills += 1
            operator.die()
            operator.check()

    def _outage(self) -> None:
        if any(start <= self.clock() < end for start, end in self.plan.outages):
            self.hits += 1
            raise Unavailable("connection refused")

    async def _delays(self, operator: Operator) -> None:
        seconds = LATENCY_SECONDS
        if not self.healed and self.random.random() < self.plan.delay:
            self.hits += 1
            seconds += self.random.uniform(0.0, 3.0)
        until = self._frozen.get(operator.name, 0.0)
        await asyncio.sleep(max(seconds, until - self.clock()))
