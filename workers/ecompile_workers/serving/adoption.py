"""Adopting routing tables: judge, load modules in a thread, swap in the event loop, acknowledge.

Tables come from the control stream or from the mounted ConfigMap; both end here. A table that needs no new module (a
rollback) is in force before `offer` returns, even while another one is still loading.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ecompile_crds.errors import Code, EcompileError, InternalError
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute

from .breaker import SegmentWatch
from .bridge import Bridge
from .checkpoint import Checkpoint
from .modules import LoadedModule, ModuleStore
from .routing import Answer, Identity, judge

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""Wait before a table is tried again whose modules could not be fetched for a cause that may pass."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A table that this pod did not take, and why."""

    generation: int
    reason: str


class Adopter:
    """Offers tables to a bridge. Everything but loading runs in the event loop."""

    def __init__(
        self,
        bridge: Bridge,
        modules: ModuleStore,
        identity: Identity,
        *,
        changed: Callable[[], None] = lambda: None,
        checkpoint: Checkpoint | None = None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._bridge = bridge
        self._modules = modules
        self._identity = identity
        self._changed = changed
        self._checkpoint = checkpoint
        self._retry_seconds = retry_seconds
        self._loading: dict[int, asyncio.Task[None]] = {}
        self._newest = 0
        self.refusal: Refusal | None = None
        self.adopted = asyncio.Event()
        """Set once any table is in force."""

    def offer(self, table: RoutingTable) -> None:
        """Take the table if it is for this pod and newer; `changed` is called once the answer is known."""
        if table.generation in self._loading or not self._wanted(table):
            return
        self._newest = max(self._newest, table.generation)
        routes = [route for route in table.segments if route.mode is not RouteMode.NEURAL]
        if not routes:
            self._swap(table, {}, {})
            return
        task = asyncio.get_running_loop().create_task(self._load(table, routes))
        self._loading[table.generation] = task
        task.add_done_callback(lambda _: self._loading.pop(table.generation))

    @property
    def loading(self) -> bool:
        """Whether a table is waiting for its modules."""
        return bool(self._loading)

    def refuse_malformed(self, generation: int, error: EcompileError) -> None:
        """A table that could not be read."""
        self._refuse(generation, error.message)

    async def close(self) -> None:
        """Stop loading."""
        tasks = tuple(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wanted(self, table: RoutingTable) -> bool:
        current = self._bridge.state.generation
        judgement = judge(table, identity=self._identity, plan=self._bridge.network.plan, current=current)
        match judgement.answer:
            case Answer.ADOPT:
                return True
            case Answer.KEEP:
                self._changed()
                return False
            case Answer.REFUSE:
                self._refuse(table.generation, judgement.reason)
                return False

    async def _load(self, table: RoutingTable, routes: list[SegmentRoute]) -> None:
        while True:
            try:
                kept_out = {r.segment: why for r in routes if (why := self._modules.kept_out(r)) is not None}
                loaded = {
                    route.segment: await asyncio.to_thread(self._modules.load, route)
                    for route in routes
                    if route.segment not in kept_out
                }
                break
            except EcompileError as error:
                problem = error
            except Exception as error:  # a module that breaks while it is loaded must not end the pod
                problem = InternalError(Code.INTERNAL, f"loading failed: {type(error).__name__}: {error}.")
                logger.exception("loading the modules of generation %d", table.generation)
            if table.generation < self._newest:
                return
            self._refuse(table.generation, problem.message)
            if not problem.retryable:
                return
            await asyncio.sleep(self._retry_seconds)
        if table.generation > self._bridge.state.generation and table.generation == self._newest:
            self._swap(table, loaded, kept_out)

    def _swap(self, table: RoutingTable, loaded: dict[int, LoadedModule], kept_out: dict[int, str]) -> None:
        self._bridge.adopt(table, loaded, kept_out=kept_out, restore=self._restore)
        if self.refusal is not None and self.refusal.generation <= table.generation:
            self.refusal = None
        self.adopted.set()
        logger.info("routing generation %d in force", table.generation)
        self._changed()

    def _restore(self, watch: SegmentWatch, module: LoadedModule) -> None:
        if self._checkpoint is not None:
            self._checkpoint.restore(watch.generation, watch.segment, module.digest, watch)

    def _refuse(self, generation: int, reason: str) -> None:
        refusal = Refusal(generation=generation, reason=reason)
        if refusal != self.refusal:
            logger.warning("routing generation %d refused: %s", generation, reason)
            self.refusal = refusal
        self._changed()
