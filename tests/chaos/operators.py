"""Operators in one process: the real election, watches, decisions and writes, over an API server in memory.

`Operator.die` is a kill: from that moment nothing it does has an effect, whatever its cancelled tasks still try.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from ecompile_operator.apply.apply import NotLeading
from ecompile_operator.control.auth import Authenticator
from ecompile_operator.control.server import ControlServicer
from ecompile_operator.kube.client import Manifest
from ecompile_operator.kube.kinds import HYBRIDMODEL
from ecompile_operator.kube.watch import Watcher
from ecompile_operator.leader import LeaderElection
from ecompile_operator.settings import Settings
from ecompile_operator.term import Term, assemble

from .memory_api import MemoryApi, MemoryClient, duplicate

START = datetime(2026, 1, 1, tzinfo=UTC)
RESTART_SECONDS = 1.0


class Faults(Protocol):
    """What may happen to a request or an event of one operator. Each may sleep, raise, or call `die`."""

    async def before(self, operator: Operator, method: str, path: str) -> None: ...

    async def after(self, operator: Operator, method: str, path: str) -> None: ...

    async def deliver(self, operator: Operator, event: tuple[str, Manifest]) -> list[tuple[str, Manifest]]: ...


class NoFaults:
    """All is well."""

    async def before(self, operator: Operator, method: str, path: str) -> None:
        await asyncio.sleep(0.002)

    async def after(self, operator: Operator, method: str, path: str) -> None:
        await asyncio.sleep(0.002)

    async def deliver(self, operator: Operator, event: tuple[str, Manifest]) -> list[tuple[str, Manifest]]:
        await asyncio.sleep(0.002)
        return [event]


class _Client(MemoryClient):
    def __init__(self, api: MemoryApi, operator: Operator, faults: Faults) -> None:
        super().__init__(api)
        self._operator = operator
        self._faults = faults

    async def before(self, method: str, path: str) -> None:
        self._operator.check()
        await self._faults.before(self._operator, method, path)
        self._operator.check()

    async def after(self, method: str, path: str) -> None:
        await self._faults.after(self._operator, method, path)
        self._operator.check()

    async def deliver(self, event: tuple[str, Manifest]) -> Any:
        for each in await self._faults.deliver(self._operator, event):
            self._operator.check()
            yield each[0], duplicate(each[1])


class Operator:
    """One process. `run` ends when it dies or loses the lease; who started it starts another."""

    def __init__(
        self,
        api: MemoryApi,
        *,
        name: str,
        clock: Callable[[], float],
        faults: Faults,
        skew: timedelta = timedelta(0),
        settings: Settings | None = None,
    ) -> None:
        self.name = name
        self.dead = False
        self.servicer: ControlServicer | None = None
        self.term: Term | None = None
        self._task: asyncio.Task[Any] | None = None
        self._clock = clock
        self._skew = skew
        self._settings = settings or Settings(pod_name=name, worker_image="worker:1")
        self._client = _Client(api, self, faults)
        self.election = LeaderElection(self._client, namespace=self._settings.namespace, identity=name, clock=clock)

    def now(self) -> datetime:
        return START + timedelta(seconds=self._clock()) + self._skew

    def leads(self) -> bool:
        return not self.dead and self.servicer is not None and self.election.leading()

    def check(self) -> None:
        """Raises where the process is dead."""
        if self.dead:
            raise asyncio.CancelledError

    def die(self) -> None:
        """As SIGKILL."""
        self.dead = True
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        self._task = asyncio.current_task()
        try:
            self.term = term = assemble(
                self._client, self._settings, leading=self._leading, now=self.now, clock=self._clock
            )
            term.trust.ca_certificate = "ca"
            models = Watcher(
                self._client, HYBRIDMODEL, labels="", namespaces=(), sink=term.cache.put_model, clock=self._clock
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(term.follow())
                group.create_task(models.run())
                await term.known.wait()
                await self.election.acquire()
                group.create_task(self._hold())
                authenticator = Authenticator(self._client, self._clock)
                self.servicer = ControlServicer(term.hub, authenticator, now=self.now, leading=self._leading)
                await term.decide()
        finally:
            self.dead = True

    def _leading(self) -> bool:
        return not self.dead and self.election.leading()

    async def _hold(self) -> None:
        await self.election.hold()
        raise NotLeading("the lease was lost")

    async def release(self) -> None:
        """As SIGTERM: stop, then give the lease up."""
        if self._task is not None:
            self.servicer = None
            self._task.cancel()
            await asyncio.wait({self._task})
        self.dead = False
        with contextlib.suppress(asyncio.CancelledError):
            await self.election.release()
        self.dead = True


async def restarted(make: Callable[[int], Operator], running: Callable[[Operator], Awaitable[None] | None]) -> None:
    """An operator, and another whenever it ends, for ever."""
    number = 0
    while True:
        operator = make(number)
        number += 1
        running(operator)
        task = asyncio.get_running_loop().create_task(operator.run())
        try:
            await asyncio.wait({task})
        finally:
            operator.die()
            task.cancel()
        await asyncio.sleep(RESTART_SECONDS)
