"""Work that would hold the event loop: a bounded queue in front of a few threads, batched only while they are busy.

An idle thread takes a request at once, alone: batching adds no wait. While every thread is busy, requests gather, and
the next free thread takes as many as fit. A queue that is longer than a client would wait for is refused, not grown.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ecompile_crds.errors import Code, ResourceError

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

MAX_BATCH_ROWS: Final = 64
"""Rows of one pass; a module takes that many in one call (codegen.abi.MAX_ROWS), and more gain little."""
MAX_WAIT_SECONDS: Final = 1.0
"""Estimated work that may wait in the queue, per thread. Above this, a retry elsewhere is the better answer."""


@dataclass(slots=True)
class _Waiting(Generic[JobT, ResultT]):
    job: JobT
    rows: int
    seconds: float
    kind: object
    future: asyncio.Future[ResultT]


class Batcher(Generic[JobT, ResultT]):
    """Runs jobs in threads. Everything but `run` happens in the event loop's thread."""

    def __init__(
        self,
        run: Callable[[Sequence[JobT]], Sequence[ResultT | Exception]],
        *,
        threads: int,
        count: Callable[[ResultT], None] = lambda result: None,
        max_rows: int = MAX_BATCH_ROWS,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
    ) -> None:
        """`run` takes jobs of one kind and gives a result, or the error, for each; it is called in a thread.
        `count` sees each result in the event loop's thread, also where the client has gone."""
        self._run = run
        self._count = count
        self._threads = threads
        self._idle = threads
        self._max_rows = max_rows
        self._max_wait_seconds = max_wait_seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="infer")
        self._queue: deque[_Waiting[JobT, ResultT]] = deque()
        self._waiting_seconds = 0.0

    @property
    def waiting(self) -> int:
        """Jobs that no thread has taken yet."""
        return len(self._queue)

    async def submit(self, job: JobT, *, rows: int, seconds: float, kind: object = None, share: float = 1.0) -> ResultT:
        """Run a job of so many rows and estimated seconds; only jobs of the same kind share a batch.
        `share` of the queue is open to it: work of low priority is refused first.

        Raises ResourceError (OVERLOADED) with the time to come back where the queue is full, and what `run` gave.
        """
        if not self._idle and self._waiting_seconds + seconds > share * self._max_wait_seconds * self._threads:
            raise ResourceError(
                Code.OVERLOADED,
                f"{len(self._queue)} requests wait for about {self._waiting_seconds / self._threads:.1f} s already; "
                "try again.",
                retry_after_seconds=round(max(0.05, self._waiting_seconds / self._threads), 3),
            )
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(job, rows, seconds, kind, future))
        self._waiting_seconds += seconds
        self._dispatch()
        return await future

    def close(self) -> None:
        """End the threads once what they have taken is done."""
        self._pool.shutdown(wait=False)

    def _dispatch(self) -> None:
        while self._idle and self._queue:
            batch = self._take()
            if not batch:
                continue
            self._idle -= 1
            running = asyncio.get_running_loop().run_in_executor(self._pool, self._run, [each.job for each in batch])
            running.add_done_callback(lambda done, batch=batch: self._done(batch, done))  # type: ignore[misc]  # mypy infers no type for the default

    def _take(self) -> list[_Waiting[JobT, ResultT]]:
        """The jobs at the head that may run together; those whose client has gone are left out."""
        batch: list[_Waiting[JobT, ResultT]] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            if batch and (first.kind != batch[0].kind or rows + first.rows > self._max_rows):
                break
            self._queue.popleft()
            self._waiting_seconds = self._waiting_seconds - first.seconds if self._queue else 0.0
            if first.future.cancelled():
                continue
            batch.append(first)
            rows += first.rows
        return batch

    def _done(self, batch: list[_Waiting[JobT, ResultT]], done: asyncio.Future[Sequence[ResultT | Exception]]) -> None:
        self._idle += 1
        error = done.exception()
        results: Sequence[ResultT | BaseException] = [error] * len(batch) if error is not None else done.result()
        for each, result in zip(batch, results, strict=True):
            if not isinstance(result, BaseException):
                self._count(result)
            if each.future.cancelled():
                continue
            if isinstance(result, BaseException):
                each.future.set_exception(result)
            else:
                each.future.set_result(result)
        self._dispatch()
