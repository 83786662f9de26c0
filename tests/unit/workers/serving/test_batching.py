"""The queue in front of the threads: no wait when idle, batches while busy, refusal when full."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from ecompile_crds.errors import Code, ResourceError
from ecompile_workers.serving.batching import Batcher


class Worker:
    """Doubles numbers, once the gate is open; remembers the batches."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.counted: list[int] = []

    def run(self, jobs: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(jobs))
        self.started.release()
        assert self.gate.wait(30)
        return [ValueError(str(job)) if job < 0 else 2 * job for job in jobs]


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest_asyncio.fixture
async def batcher(worker: Worker) -> AsyncIterator[Batcher[int, int]]:
    made = Batcher(worker.run, threads=1, count=worker.counted.append, max_rows=8, max_wait_seconds=1.0)
    yield made
    worker.gate.set()
    made.close()


def ask(batcher: Batcher[int, int], job: int, *, rows: int = 1, kind: object = None) -> asyncio.Task[int]:
    return asyncio.ensure_future(batcher.submit(job, rows=rows, seconds=0.1, kind=kind))


async def test_idle_thread_takes_a_request_alone_and_at_once(worker: Worker, batcher: Batcher[int, int]) -> None:
    """No waiting for company."""
    worker.gate.set()
    assert [await ask(batcher, 1), await ask(batcher, 2)] == [2, 4]
    assert worker.batches == [[1], [2]]


async def test_requests_that_wait_are_answered_together(worker: Worker, batcher: Batcher[int, int]) -> None:
    """Up to the rows of one pass; another kind is another pass; each gets its own answer or error."""
    first = ask(batcher, 1)
    await asyncio.to_thread(worker.started.acquire)
    waiting = [ask(batcher, n, rows=3) for n in (2, -3, 4)] + [ask(batcher, 5, kind="other")]
    await asyncio.sleep(0)
    worker.gate.set()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert [results[0], results[1], results[3], results[4]] == [2, 4, 8, 10]
    assert isinstance(results[2], ValueError)
    assert worker.batches == [[1], [2, -3], [4], [5]]
    assert worker.counted == [2, 4, 8, 10]


async def test_full_queue_refuses_with_the_time_to_come_back(worker: Worker, batcher: Batcher[int, int]) -> None:
    """Ten requests of 0.1 s fill a queue of one second; what waits is answered all the same."""
    tasks = [ask(batcher, 0)]
    await asyncio.to_thread(worker.started.acquire)
    tasks += [ask(batcher, n) for n in range(1, 11)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceError) as caught:
        await batcher.submit(99, rows=1, seconds=0.1)
    assert caught.value.code is Code.OVERLOADED
    assert caught.value.retry_after_seconds == pytest.approx(1.0)
    worker.gate.set()
    assert await asyncio.gather(*tasks) == [2 * n for n in range(11)]


async def test_request_of_a_client_that_left_is_not_run(worker: Worker, batcher: Batcher[int, int]) -> None:
    """Its place is free again; the others are not delayed by it."""
    first = ask(batcher, 1)
    await asyncio.to_thread(worker.started.acquire)
    left, stays = ask(batcher, 2), ask(batcher, 3)
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    worker.gate.set()
    assert await asyncio.gather(first, stays) == [2, 6]
    assert worker.batches == [[1], [3]]
    assert batcher.waiting == 0


async def test_fault_of_the_worker_reaches_every_request(batcher: Batcher[int, int]) -> None:
    """And the thread is free for the next."""

    def broken(jobs: Sequence[int]) -> Sequence[int | Exception]:
        raise RuntimeError("boom")

    made: Batcher[int, int] = Batcher(broken, threads=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="boom"):
            await ask(made, 1)
    made.close()


async def test_work_of_low_priority_is_refused_first() -> None:
    """The queue that it may not fill is open to the rest."""
    release = threading.Event()

    def run(jobs: Sequence[int]) -> Sequence[int | Exception]:
        release.wait(timeout=5)
        return list(jobs)

    batcher: Batcher[int, int] = Batcher(run, threads=1, max_rows=1)
    waiting = [asyncio.create_task(batcher.submit(n, rows=1, seconds=0.2)) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceError) as caught:
        await batcher.submit(9, rows=1, seconds=0.2, share=0.25)
    assert caught.value.code == Code.OVERLOADED
    waiting.append(asyncio.create_task(batcher.submit(2, rows=1, seconds=0.2)))
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(*waiting) == [0, 1, 2]
    batcher.close()
