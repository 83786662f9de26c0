"""Leader election on a fake Lease, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ecompile_operator.kube.kinds import LEASE
from ecompile_operator.leader import LEASE_NAME, LEASE_SECONDS, RENEW_DEADLINE_SECONDS, LeaderElection

from .fake_api import FakeClient
from .virtual_time import run

Clock = Callable[[], float]


def candidate(client: FakeClient, identity: str, clock: Clock) -> LeaderElection:
    return LeaderElection(client, namespace="system", identity=identity, clock=clock)


def holder(client: FakeClient) -> str:
    return str(client.objects[("Lease", "system", LEASE_NAME)]["spec"]["holderIdentity"])


def test_the_first_candidate_leads_at_once() -> None:
    async def main(clock: Clock) -> None:
        client = FakeClient()
        first = candidate(client, "first", clock)
        assert not first.leading()
        await first.acquire()
        assert first.leading()
        assert clock() == 0

    run(main)


def test_a_second_candidate_waits_while_the_lease_is_renewed() -> None:
    async def main(clock: Clock) -> None:
        client = FakeClient()
        first, second = candidate(client, "first", clock), candidate(client, "second", clock)
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(300)
        assert first.leading() and not second.leading() and not waiting.done()
        for task in (holding, waiting):
            task.cancel()
        await asyncio.gather(holding, waiting, return_exceptions=True)

    run(main)


def test_a_dead_leader_is_replaced_after_the_lease_and_never_before_it_stopped_leading() -> None:
    async def main(clock: Clock) -> None:
        client = FakeClient()
        first, second = candidate(client, "first", clock), candidate(client, "second", clock)
        await first.acquire()
        await second.acquire()
        assert LEASE_SECONDS <= clock() <= LEASE_SECONDS + 4
        assert second.leading() and not first.leading()
        assert holder(client) == "second"

    run(main)


def test_clocks_of_other_machines_are_not_compared() -> None:
    async def main(clock: Clock) -> None:
        client = FakeClient()
        first, second = candidate(client, "first", clock), candidate(client, "second", clock)
        await first.acquire()
        lease = client.objects[("Lease", "system", LEASE_NAME)]
        for year in ("1999", "2099"):
            lease["spec"]["renewTime"] = f"{year}-01-01T00:00:00.000000Z"
            before = clock()
            renewing = asyncio.create_task(second.acquire())
            await asyncio.sleep(LEASE_SECONDS - 3)
            assert not renewing.done(), "taken over on the word of a clock"
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            assert clock() - before < LEASE_SECONDS

    run(main)


def test_a_leader_that_cannot_renew_stops_before_another_may_start() -> None:
    async def main(clock: Clock) -> None:
        client = FakeClient()
        first = candidate(client, "first", clock)
        await first.acquire()
        client.away = True
        await first.hold()
        assert RENEW_DEADLINE_SECONDS <= clock() < LEASE_SECONDS
        assert not first.leading()

    run(main)


def test_a_leader_that_sees_another_holder_stops_at_once() -> None:
    async def main(clock: Clock) -> None:
        client = FakeClient()
        first = candidate(client, "first", clock)
        await first.acquire()
        lease = await client.get(LEASE, "system", LEASE_NAME)
        await client.replace(LEASE, {**lease, "spec": {**lease["spec"], "holderIdentity": "usurper"}})
        await first.hold()
        assert clock() <= 2.0
        assert not first.leading()

    run(main)


def test_a_released_lease_is_taken_without_waiting_for_its_end() -> None:
    async def main(clock: Clock) -> None:
        client = FakeClient()
        first, second = candidate(client, "first", clock), candidate(client, "second", clock)
        await first.acquire()
        await first.release()
        assert not first.leading()
        await second.acquire()
        assert clock() == 0
        assert holder(client) == "second"

    run(main)


def test_a_restarted_container_of_the_same_pod_leads_again_at_once() -> None:
    async def main(clock: Clock) -> None:
        client = FakeClient()
        await candidate(client, "pod", clock).acquire()
        again = candidate(client, "pod", clock)
        await again.acquire()
        assert clock() == 0 and again.leading()

    run(main)
