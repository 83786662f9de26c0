"""The work queue, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from ecompile_operator.queue import MAX_BACKOFF_SECONDS, WorkQueue

from .virtual_time import run

Clock = Callable[[], float]


def make_queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock, jitter=lambda: 1.0)


def test_a_key_added_twice_is_worked_on_once() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        queue.add("a")
        queue.add("a")
        assert await queue.get() == "a"
        queue.done("a")
        assert len(queue) == 0

    run(main)


def test_keys_come_in_order_of_arrival() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        for key in ("b", "a", "c"):
            queue.add(key)
        assert [await queue.get() for _ in range(3)] == ["b", "a", "c"]

    run(main)


def test_a_key_added_while_worked_on_is_worked_on_again_but_never_by_two() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        queue.add("a")
        await queue.get()
        queue.add("a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 100)
        queue.done("a")
        assert await queue.get() == "a"

    run(main)


def test_a_delayed_key_comes_at_its_time() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        queue.add_after("late", 30)
        queue.add_after("early", 5)
        assert (await queue.get(), round(clock(), 6)) == ("early", 5)
        assert (await queue.get(), round(clock(), 6)) == ("late", 30)

    run(main)


def test_the_earlier_of_two_dates_is_kept() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        queue.add_after("a", 30)
        queue.add_after("a", 10)
        queue.add_after("a", 20)
        await queue.get()
        assert round(clock(), 6) == 10
        queue.done("a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 100)

    run(main)


def test_an_event_overtakes_the_date() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        queue.add_after("a", 30)
        queue.add("a")
        await queue.get()
        assert clock() == 0

    run(main)


def test_failures_wait_longer_and_longer_up_to_a_limit_and_success_forgets_them() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        waits = []
        queue.add("a")
        for _ in range(12):
            waits.append(queue.failed(await queue.get()))
        assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
        assert waits[-1] == MAX_BACKOFF_SECONDS
        queue.done(await queue.get())
        queue.add("a")
        assert queue.failed(await queue.get()) == 0.1

    run(main)


def test_jitter_takes_up_to_half_of_the_wait() -> None:
    async def main(clock: Clock) -> None:
        queue: WorkQueue[str] = WorkQueue(clock, jitter=lambda: 0.0)
        queue.add("a")
        assert queue.failed(await queue.get()) == 0.05

    run(main)


def test_one_failing_key_does_not_hold_up_others() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        worked = []

        async def worker() -> None:
            while True:
                key = await queue.get()
                worked.append(key)
                if key == "bad":
                    queue.failed(key)
                else:
                    queue.done(key)

        workers = [asyncio.create_task(worker()) for _ in range(2)]
        for key in ("bad", "good", "fine"):
            queue.add(key)
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert worked == ["bad", "good", "fine"]
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    run(main)


def test_the_age_of_the_oldest_waiting_key_is_known() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        assert queue.oldest_age_seconds() == 0
        queue.add("a")
        await asyncio.sleep(7)
        queue.add("b")
        assert round(queue.oldest_age_seconds(), 6) == 7
        assert len(queue) == 2

    run(main)


def test_keys_without_news_wait_behind_those_with_news() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        for key in ("a", "b", "c"):
            queue.add_last(key)
        queue.add("urgent")
        queue.add("c")
        assert len(queue) == 4
        assert [await queue.get() for _ in range(4)] == ["urgent", "c", "a", "b"]

    run(main)


def test_keys_without_news_are_reached_although_news_never_ends() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        queue.add_last("patient")
        seen = []
        for number in range(4):
            queue.add(f"news-{number}")
            seen.append(await queue.get())
        assert "patient" in seen

    run(main)


def test_a_key_that_is_worked_on_or_waits_is_not_added_behind() -> None:
    async def main(clock: Clock) -> None:
        queue = make_queue(clock)
        queue.add("a")
        queue.add_last("a")
        assert await queue.get() == "a"
        queue.add_last("a")
        queue.done("a")
        assert len(queue) == 0

    run(main)
