"""Large work through the batcher: shared passes, exact counts, each client its own rows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.routing import RouteMode
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.protocol import Answer, InferRequest, Options
from ecompile_workers.serving.service import Service

from .world import KEY, LIFE, MODEL, Rows, make_world, oracle, rows, table

CLIENTS = 24


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[LocalPod]:
    world = make_world(tmp_path)
    made = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    made.adopt(table(1, world.route(RouteMode.COMPILED)))
    yield made
    made.close()


@pytest.fixture
def service(pod: LocalPod) -> Iterator[Service]:
    """One thread, and every request counts as too long for the event loop."""
    pod.bridge.network = replace(pod.bridge.network, row_seconds=2e-3)
    made = Service(model=MODEL, version=LIFE, threads=1)
    made.start(pod.bridge)
    yield made
    made.close()


async def ask(service: Service, x: Rows, *, neural: bool = False) -> Answer:
    return await service.infer(InferRequest(x, Options(neural_only=neural)), lambda _, answer: answer)


async def test_each_client_gets_its_own_rows_of_a_shared_pass(pod: LocalPod, service: Service) -> None:
    """Counted once per request."""
    asked = [rows(2, seed=seed) for seed in range(CLIENTS)]
    answers = await asyncio.gather(*[ask(service, x) for x in asked])
    for x, answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(answer.y, oracle(x), atol=1e-5)
        assert answer.outcome.path == "compiled"
    assert len({id(answer.outcome) for answer in answers}) < CLIENTS
    (counters,) = pod.counters()
    assert (counters.requests, counters.compiled, counters.guard_checked) == (CLIENTS, CLIENTS, CLIENTS)
    assert pod.bridge.totals.requests == CLIENTS


async def test_one_odd_input_is_not_counted_against_the_others(pod: LocalPod, service: Service) -> None:
    """A pass that the module refuses is taken apart."""
    asked = [rows(1, seed=seed, scale=20.0 if seed == 5 else 1.0) for seed in range(CLIENTS)]
    answers = await asyncio.gather(*[ask(service, x) for x in asked])
    for x, answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(answer.y, oracle(x), atol=1e-5)
    assert [answer.outcome.path for answer in answers].count("neural") == 1
    (counters,) = pod.counters()
    assert (counters.compiled, counters.fallbacks) == (CLIENTS - 1, 1)


async def test_forced_neural_requests_share_no_pass_with_others(service: Service) -> None:
    """Who asks for the network gets it, and nobody else does."""
    answers = await asyncio.gather(*[ask(service, rows(1, seed=n), neural=n % 3 == 0) for n in range(CLIENTS)])
    assert [answer.outcome.path == "neural" for answer in answers] == [n % 3 == 0 for n in range(CLIENTS)]
