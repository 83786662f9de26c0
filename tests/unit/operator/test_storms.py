"""Rollbacks of many models within a short time are one event."""

from __future__ import annotations

from datetime import datetime, timedelta

from ecompile_crds.compiledmodule import CompiledModuleStatus, RollbackStatus
from ecompile_crds.hybridmodel import HybridModelStatus
from ecompile_operator.decide.clock import to_text
from ecompile_operator.decide.decision import Decision, ModuleUpdate
from ecompile_operator.observe.cache import Cache
from ecompile_operator.storms import Storms

from .decide.world import START


def rolled_back(at: datetime, reason: str = "Drift") -> Decision:
    status = CompiledModuleStatus(last_rollback=RollbackStatus(reason=reason, at=to_text(at)))
    return Decision(status=HybridModelStatus(), module_updates=(ModuleUpdate(name="m", status=status),))


def make(cache: Cache | None = None) -> Storms:
    return Storms(cache or Cache(lambda key: None), models=3, seconds=60)


def test_enough_models_within_the_window_are_a_storm_that_ends() -> None:
    storms = make()
    for second, reason in enumerate(("Drift", "Latency", "Drift")):
        assert storms.now(START + timedelta(seconds=second)) is None
        storms.decided(("a", f"model-{second}"), rolled_back(START + timedelta(seconds=second), reason))
    found = storms.now(START + timedelta(seconds=3))
    assert found is not None and (found.models, found.reason) == (3, "Drift")
    assert found.until == START + timedelta(seconds=60)
    assert storms.now(found.until) is None


def test_one_model_that_fails_often_is_no_storm() -> None:
    storms = make()
    for second in range(10):
        storms.decided(("a", "one"), rolled_back(START + timedelta(seconds=second)))
    assert storms.now(START + timedelta(seconds=10)) is None


def test_rollbacks_by_hand_do_not_count() -> None:
    storms = make()
    for number in range(5):
        storms.decided(("a", f"model-{number}"), rolled_back(START, "Manual"))
    assert storms.now(START) is None


def test_a_new_leader_knows_of_the_storm() -> None:
    cache = Cache(lambda key: None)
    for number in range(3):
        meta = {"namespace": "a", "name": f"m{number}", "uid": str(number), "resourceVersion": "1"}
        cache.put_model("applied", {"metadata": meta})
        status = {"lastRollback": {"reason": "Drift", "at": to_text(START)}}
        module = {"metadata": {**meta, "name": f"m{number}-s0"}, "spec": {"modelRef": f"m{number}"}, "status": status}
        cache.put_child("CompiledModule", "applied", module)
    assert make(cache).now(START + timedelta(seconds=1)) is not None
