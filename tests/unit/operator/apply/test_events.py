"""Events: repeated messages are counted, lost ones are not fatal."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from ecompile_operator.apply.events import QUIET_SECONDS, EventEmitter
from ecompile_operator.decide.decision import ModelEvent
from ecompile_operator.kube.client import Manifest
from ecompile_operator.observe.cache import Cache
from ecompile_operator.specs.metadata import Owner

from ..children import child
from ..fake_api import FakeClient

OWNER = Owner("test", "net", "uid-1")
EVENT = ModelEvent(type="Warning", reason="JobFailed", message="it broke")


class Stage:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.client = FakeClient()
        self.cache = Cache(lambda key: None)
        self.emitter = self.new_emitter()

    def new_emitter(self) -> EventEmitter:
        return EventEmitter(self.client, self.cache, instance="operator-0", now=lambda: self.now)

    def emit(self, event: ModelEvent = EVENT) -> None:
        asyncio.run(self.emitter.emit(OWNER, event))
        self.now += timedelta(seconds=QUIET_SECONDS)

    def events(self) -> list[Manifest]:
        return [o for (kind, _, _), o in self.client.objects.items() if kind == "Event"]


def test_a_repeated_message_is_one_event_with_a_count() -> None:
    stage = Stage()
    for _ in range(3):
        stage.emit()
    assert [e["count"] for e in stage.events()] == [3]


def test_different_messages_are_different_events() -> None:
    stage = Stage()
    stage.emit()
    stage.emit(ModelEvent(type="Warning", reason="JobFailed", message="it broke again"))
    assert len(stage.events()) == 2


def test_a_fast_repetition_is_not_written() -> None:
    stage = Stage()
    stage.emit()
    stage.now -= timedelta(seconds=QUIET_SECONDS - 1)
    calls = len(stage.client.calls)
    stage.emit()
    assert len(stage.client.calls) == calls


def test_a_restarted_operator_counts_on() -> None:
    stage = Stage()
    stage.emit()
    stage.emitter = stage.new_emitter()
    stage.emit()
    assert [e["count"] for e in stage.events()] == [2]


def test_an_event_about_a_module_names_the_module() -> None:
    stage = Stage()
    stage.cache.put_child("CompiledModule", "applied", {**child("net-m0"), "spec": {"modelRef": "net"}})
    stage.emit(ModelEvent(type="Normal", reason="Promoted", message="done", module="net-m0"))
    about = stage.events()[0]["involvedObject"]
    assert (about["kind"], about["name"], about["uid"]) == ("CompiledModule", "net-m0", "uid-net-m0")


def test_an_event_that_cannot_be_written_is_not_fatal() -> None:
    stage = Stage()
    stage.client.away = True
    stage.emit()
    assert stage.events() == []
