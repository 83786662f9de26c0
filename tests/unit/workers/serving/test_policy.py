"""Policies: which inputs a module may answer, and that the distance in C is the one of numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import orjson
import pytest
from ecompile_crds.hybridmodel import ConfidenceWeights, Policy, ServingPolicy
from ecompile_crds.routing import RouteMode
from ecompile_workers.codegen._native import score
from ecompile_workers.equivalence.risk import META
from ecompile_workers.serving.bridge import Served
from ecompile_workers.serving.explanation import explain
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.policy import Distance, apply, confidence, out_of_distribution, packed
from ecompile_workers.trace import reference
from pydantic import ValidationError

from .world import KEY, World, make_world, rows, table

CALIBRATION = rows(400, seed=5)
FAR = (rows(1, seed=7) * 0.1 + 3.5).astype(np.float32)
"""Inside the guard, far from the calibration sample."""


@pytest.mark.parametrize(("features", "count"), [(1, 60), (3, 60), (16, 300), (100, 120), (150, 60)])
def test_distance_in_c_is_the_one_of_numpy(features: int, count: int) -> None:
    rng = np.random.default_rng(features)
    mixing = rng.normal(size=(features, features)) / np.sqrt(features)
    drawn = (rng.normal(size=(count, features)) @ mixing + rng.normal(size=features)).astype(np.float32)
    known = reference.fit(drawn)
    assert known is not None
    distance = Distance(known)
    for row in (*drawn[:10], *(drawn[:5] * 3 + 1), np.zeros(features, np.float32)):
        assert distance(row[None]) == pytest.approx(known.score(row[None])[0], rel=2e-3, abs=1e-3)
    assert distance(drawn) == pytest.approx(known.score(drawn).max(), rel=2e-3)


def test_rows_that_are_not_finite_are_infinitely_far() -> None:
    known = reference.fit(CALIBRATION)
    assert known is not None
    for value in (math.nan, math.inf, 3e38):
        row = CALIBRATION[:1].copy()
        row[0, 1] = value
        assert Distance(known)(row) == math.inf


@pytest.mark.parametrize("change", ["short", "rows", "empty", "width"])
def test_buffers_that_do_not_fit_are_refused(change: str) -> None:
    known = reference.fit(CALIBRATION)
    assert known is not None
    good, row = packed(known), CALIBRATION[:1]
    wide = good.copy()
    wide[2] = 1e6
    bad = {"short": (good[:-1], row), "rows": (good, row[:, :3].copy()), "empty": (good[:0], row), "width": (wide, row)}
    with pytest.raises(ValueError, match="do not fit"):
        score(*bad[change])


@pytest.mark.parametrize(
    ("policy", "mode", "expected"),
    [
        (Policy.NEURAL_ONLY, RouteMode.COMPILED, (RouteMode.NEURAL, 0.0, 0.0)),
        (Policy.SHADOW, RouteMode.COMPILED, (RouteMode.SHADOW, 0.0, 0.2)),
        (Policy.COMPILED_FIRST, RouteMode.CANARY, (RouteMode.CANARY, 1.0, 0.2)),
        (Policy.COMPILED_FIRST, RouteMode.SHADOW, (RouteMode.SHADOW, 0.0, 0.2)),
        (Policy.GUARD_ONLY, RouteMode.CANARY, (RouteMode.CANARY, 0.1, 0.2)),
        (Policy.CONFORMAL, RouteMode.COMPILED, (RouteMode.COMPILED, 0.0, 0.2)),
        (Policy.CONFIDENCE_FIRST, RouteMode.NEURAL, (RouteMode.NEURAL, 0.0, 0.0)),
    ],
)
def test_policy_changes_routes(policy: Policy, mode: RouteMode, expected: tuple[RouteMode, float, float]) -> None:
    found = apply(ServingPolicy(name=policy), mode, weight=0.1, compare=0.2)
    assert (found.mode, found.weight, found.compare) == expected


def test_weight_of_an_unknown_term_goes_to_the_others() -> None:
    weights = ConfidenceWeights()
    assert confidence(weights, stability=1.0, ood=0.0, accuracy=1.0) == pytest.approx(1.0)
    assert confidence(weights, stability=0.5, ood=0.5, accuracy=1.0) == pytest.approx(0.4 * 0.5 + 0.3 * 0.5 + 0.3)
    assert confidence(weights, stability=None, ood=0.5, accuracy=None) == pytest.approx(0.5)
    assert confidence(weights, stability=None, ood=None, accuracy=None) == 0.0
    assert out_of_distribution(5.0, 10.0) == 0.0 and out_of_distribution(20.0, 10.0) == 0.5
    assert out_of_distribution(math.inf, 10.0) == 1.0
    with pytest.raises(ValidationError, match="at least one weight"):
        ConfidenceWeights(stability=0, distribution=0, accuracy=0)


def serve(world: World, policy: ServingPolicy, *, mode: RouteMode = RouteMode.COMPILED, **meta: object) -> LocalPod:
    pod = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    route = world.route(mode, weight=0.0, compare=0.0, bundle=world.bundle(**meta))  # type: ignore[arg-type]  # names as there
    pod.adopt(table(1, route).model_copy(update={"policy": policy}))
    return pod


RISKY = {META: {"version": 1, "samples": 100, "limit": 1e-3, "violations": [25.0 + i for i in range(20)]}}


@pytest.mark.parametrize(
    ("policy", "near", "far"),
    [
        (Policy.CONFORMAL, Served.COMPILED, Served.NOT_ADMITTED),
        (Policy.CONFIDENCE_FIRST, Served.COMPILED, Served.NOT_ADMITTED),
        (Policy.GUARD_ONLY, Served.COMPILED, Served.COMPILED),
        (Policy.COMPILED_FIRST, Served.COMPILED, Served.COMPILED),
        (Policy.SHADOW, Served.POLICY, Served.POLICY),
        (Policy.NEURAL_ONLY, Served.POLICY, Served.POLICY),
    ],
)
def test_policy_decides_who_answers(tmp_path: Path, policy: Policy, near: Served, far: Served) -> None:
    """Of a module that failed on calibration rows from distance 25 on."""
    pod = serve(make_world(tmp_path, reference=CALIBRATION), ServingPolicy(name=policy), **RISKY)
    typical = CALIBRATION[np.argsort(np.abs(CALIBRATION).sum(axis=1))[:1]]
    assert pod.infer(typical).served == (near,)
    assert pod.infer(FAR).served == (far,)
    assert pod.counters()[0].fallbacks == (1 if far is Served.NOT_ADMITTED else 0)
    pod.close()


def test_module_without_violations_asks_for_no_distance(tmp_path: Path) -> None:
    """Nothing is paid on the hot path; an older bundle or plan says nothing and is served by its guard."""
    none = {META: {"version": 1, "samples": 100, "limit": 1e-3, "violations": []}}
    for number, (known, meta) in enumerate(((CALIBRATION, none), (CALIBRATION, {}), (None, RISKY))):
        pod = serve(make_world(tmp_path / str(number), reference=known), ServingPolicy(), **meta)
        assert pod.bridge.state.segments[0].admit is None
        assert pod.infer(FAR).served == (Served.COMPILED,)
        pod.close()


def test_explanation_shows_the_terms(tmp_path: Path) -> None:
    pod = serve(make_world(tmp_path, reference=CALIBRATION), ServingPolicy(max_risk=0.1), **RISKY)
    outcome = pod.infer(FAR)
    (told,) = orjson.loads(explain(outcome, FAR, pod.bridge.network.plan))
    assert told["served"] == "neural:not-admitted" and told["policy"] == "conformal"
    assert told["distance"] > told["distanceThreshold"] > 0 and 0 < told["ood"] < 1
    assert told["riskThreshold"] == pytest.approx(34.0) and told["confidence"] == pytest.approx(
        1 - told["ood"], abs=1e-5
    )
    pod.close()
